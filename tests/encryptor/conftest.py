"""The fixture that the encryptor's tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.encryptor.bench import Bench
from tests.support.kms import KmsServer
from tests.support.machine import folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Return an empty folder: thousands of files are written here."""
    with folder() as made:
        yield made


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return an empty directory to encrypt, an empty output directory, and a KMS."""
    (tmp_path / "application").mkdir()
    (tmp_path / "output").mkdir()
    with KmsServer() as kms:
        yield Bench(kms, tmp_path / "application", tmp_path / "output" / "artifact")
