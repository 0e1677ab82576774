"""Shared by tests with the rehearsal: one AWS emulator, and accounts for each test."""

from __future__ import annotations

import gc
import itertools
import os
import signal
from typing import TYPE_CHECKING

import pytest

from rehearsal.aws import account_root, emulator
from tests.support import quick_pip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rehearsal.aws import Aws, Credentials

# Tests in the background of a script ignore SIGINT; programs under test would inherit that, and
# correctly forward no interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGQUIT):  # ignored under nohup and in the background
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

gc.set_threshold(100_000, 20, 100)  # otherwise a third of the time of some tests

ACCOUNTS = itertools.count(100_000_000_000)


def pytest_xdist_auto_num_workers() -> int:
    """Use one worker more than processors: tests often wait for programs and time limits."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.fixture(scope="session")
def aws() -> Iterator[Aws]:
    """The emulator, started once per worker."""
    with emulator() as running:
        yield running


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Python for played builds, whose pip installs once for all workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return quick_pip.install(tmp_path_factory.mktemp("interpreter"), shared / "installed")


@pytest.fixture
def owner() -> Credentials:
    """The root of the code owner's account, a new one for each test."""
    return account_root(str(next(ACCOUNTS)))


@pytest.fixture
def host() -> Credentials:
    """The root of the enclave host's account, a new one for each test."""
    return account_root(str(next(ACCOUNTS)))
