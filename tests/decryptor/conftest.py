"""The fixtures that the decryptor's tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from rehearsal.attestation import Authority
from rehearsal.nitro import kernel
from tests.decryptor.machine import Machine
from tests.decryptor.scripted_kms import serving
from tests.support.enclave import Enclave, install
from tests.support.machine import enclave_kernel, folder
from tests.support.paths import PROJECT
from tests.support.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Return an empty folder: thousands of files are written here."""
    with folder() as made:
        yield made


@pytest.fixture
def enclave(tmp_path: Path) -> Enclave:
    """Return an enclave whose kmstool and KMS are emulated."""
    return install(tmp_path)


@pytest.fixture(scope="module")
def enclave_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    enclave_kernel()
    now = datetime.now(UTC)
    module = Authority(now).module({0: b"\1" * 48}, now)
    with (
        kernel(lambda key: module.attest(datetime.now(UTC), key)) as started,
        serving(tmp_path_factory.mktemp("kms")) as kms,
    ):
        environment = started.environment | {"SSL_CERT_FILE": str(kms.trust)}
        with subprocess.Popen(
            [sys.executable, "-m", "tests.decryptor.attester_driver"],
            cwd=PROJECT,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": "encryption"} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            yield Machine(started, kms, environment, process)
            assert process.stdin
            process.stdin.close()
            assert process.wait(PATIENCE) == 0


@pytest.fixture
def machine(enclave_machine: Machine) -> Iterator[Machine]:
    """Return the shared machine, and reset what a test changed."""
    answer = enclave_machine.kernel.answer
    enclave_machine.kms.reset()
    enclave_machine.kernel.requests.clear()
    enclave_machine.kernel.entropy.clear()
    yield enclave_machine
    enclave_machine.kernel.answer = answer
