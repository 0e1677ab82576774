"""One server for all tests of a module, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.server.harness import Server, running
from tests.support.machine import folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Return an empty folder: thousands of files are written here."""
    with folder() as made:
        yield made


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with folder() as home, running(home) as started:
        yield started
