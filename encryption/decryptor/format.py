"""The artifact's layout: 4 bytes big-endian length, encrypted data key, Fernet token.

The token is urlsafe base64 of `0x80 | time (8) | IV (16) | AES-128-CBC ciphertext | HMAC (32)`
(https://github.com/fernet/spec). `envelope_encryptor.py` has its own copy of these constants, since
it is used alone; a test compares them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import FormatError

if TYPE_CHECKING:
    from typing import Protocol

    class Readable(Protocol):
        """An object that an artifact can be read from."""

        def read(self, size: int, /) -> bytes:
            """Return the next *size* bytes or fewer; none at the end."""


LENGTH_FIELD = 4  # bytes, big-endian, before the encrypted data key
ENCRYPTED_KEY_MAX = 6144  # bytes: CiphertextBlob of the KMS API
TOKEN_VERSION = 0x80
TOKEN_HEAD = 25  # bytes before the ciphertext: version, 8 of time, 16 of IV
TIME = 8  # bytes after the version: seconds since 1970, big-endian
BLOCK = 16  # of AES
TAG = 32  # of HMAC-SHA256


def read_encrypted_key(artifact: Readable) -> bytes:
    """Read the header of *artifact*; the token's first character is read next.

    Raises:
        FormatError: the length is not 1 to ENCRYPTED_KEY_MAX, or the file ends early.
    """
    field = read_fully(artifact, LENGTH_FIELD)
    length = int.from_bytes(field, "big")
    if len(field) < LENGTH_FIELD or not 1 <= length <= ENCRYPTED_KEY_MAX:
        raise FormatError(
            f"encrypted data key length is {length}, not 1 to {ENCRYPTED_KEY_MAX}: "
            "is this an application_code.zip.encrypted?"
        )
    encrypted_key = read_fully(artifact, length)
    if len(encrypted_key) < length:
        raise FormatError("the file ends inside the encrypted data key: copy it again")
    return encrypted_key


def read_fully(stream: Readable, size: int) -> bytes:
    """Return *size* bytes of *stream*, fewer only at its end; pipes and sockets return parts."""
    parts = []
    while size > 0 and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
