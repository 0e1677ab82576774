"""An independent implementation of the artifact's format: the standard classes and the header."""

from __future__ import annotations

import base64
import io
import zipfile

from cryptography.fernet import Fernet

LENGTH = 4  # bytes of the header


def joined(encrypted_key: bytes, token: bytes) -> bytes:
    """Return the artifact with this encrypted data key and token."""
    return len(encrypted_key).to_bytes(LENGTH, "big") + encrypted_key + token


def parts(artifact: bytes) -> tuple[bytes, bytes]:
    """Return the encrypted data key and the token."""
    end = LENGTH + int.from_bytes(artifact[:LENGTH], "big")
    return artifact[LENGTH:end], artifact[end:]


def encrypted(content: bytes, data_key: bytes, encrypted_key: bytes) -> bytes:
    """Encrypt *content*, a zip, with cryptography's Fernet class, and prepend the header."""
    return joined(encrypted_key, Fernet(base64.urlsafe_b64encode(data_key)).encrypt(content))


def decrypted(artifact: bytes, data_key: bytes) -> bytes:
    """Return the zip in *artifact*, decrypted by cryptography's Fernet class."""
    return Fernet(base64.urlsafe_b64encode(data_key)).decrypt(parts(artifact)[1])


def contents(archive: bytes) -> dict[str, bytes]:
    """Return contents by name, directories included, as zipfile reads them."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name: file.read(name) for name in file.namelist()}
