"""The fixture that the decryptor's tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.enclave import Enclave, install

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def enclave(tmp_path: Path) -> Enclave:
    """Return an enclave whose kmstool and KMS are emulated."""
    return install(tmp_path)
