"""A file that changes while it is verified: what is parsed is what was authenticated."""

from __future__ import annotations

import base64
import os
import tempfile
from typing import TYPE_CHECKING

from cryptography.fernet import Fernet

from decryptor.progress import Progress
from decryptor.token import CHUNK, DECODED_CHUNK, Artifact, copy_verified

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

DATA_KEY = bytes(range(32))


def test_bytes_appended_to_a_token_are_not_in_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file seems to end after the token for one decoder, and to continue for the other."""
    token = Fernet(base64.urlsafe_b64encode(DATA_KEY)).encrypt(bytes(2 * DECODED_CHUNK))
    path = tmp_path / "artifact"
    path.write_bytes(token.ljust(6 * CHUNK, b"A"))
    read = os.pread

    def truncated_for_two_chunks(descriptor: int, size: int, offset: int) -> bytes:
        number = offset // CHUNK
        if descriptor == file.fileno() and number in (2, 3):
            size = max(0, min(size, len(token) - offset))
        return read(descriptor, size, offset)

    with path.open("rb", buffering=0) as file, tempfile.TemporaryFile() as copy:
        monkeypatch.setattr(os, "pread", truncated_for_two_chunks)
        artifact = Artifact(file, path.stat().st_size, file.fileno())
        with Progress("verifying", 0) as progress:
            copy_verified(artifact, copy, DATA_KEY, progress)
        assert os.fstat(copy.fileno()).st_size == len(base64.urlsafe_b64decode(token))
