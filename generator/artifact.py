"""What an artifact reveals without its key: its header, and whether its token is well formed.

The format is a length (4 bytes, big-endian), that many bytes of encrypted data key, and a Fernet
token: URL-safe base64 of 0x80, the time (8 bytes), the IV (16), the ciphertext (a multiple of 16)
and an HMAC (32). Nothing here is authenticated: that needs the key.

Source: https://github.com/fernet/spec/blob/master/Spec.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from generator.errors import GeneratorError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

LENGTH: Final = 4  # bytes of the header
KEY_MAX: Final = 6144  # bytes of a CiphertextBlob (KMS, API_Decrypt)
VERSION: Final = 0x80
FRAME: Final = 1 + 8 + 16  # version, time, IV
MAC: Final = 32
BLOCK: Final = 16
QUANTUM: Final = 4  # characters of base64 that stand for 3 bytes
START: Final = 36  # characters: the frame, rounded up to whole quanta
TOKEN_MIN: Final = 100  # characters: FRAME, one block and the MAC are 73 bytes
CHUNK: Final = 1 << 20
FOREIGN: Final = re.compile(rb"[^A-Za-z0-9_=-]")
KEY_ARN: Final = re.compile(rb"arn:[a-z-]+:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+")
KEY_ID: Final = re.compile(
    rb"mrk-[0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
)


@dataclass
class Token:
    """A Fernet token, checked without its key while its characters are read."""

    length: int = 0
    start: bytes = b""
    end: bytes = b""
    problem: str | None = None

    def add(self, text: bytes) -> None:
        """Check the next characters."""
        if self.problem is None:
            foreign = FOREIGN.search(text)
            # Padding ends a token: a quantum may lie across two chunks.
            padding = (self.end[-2:] + text)[:-2].find(b"=")
            if foreign:
                at = self.length + foreign.start()
                self.problem = f"character {at} of the token is not URL-safe base64"
            elif padding >= 0 and (self.end[-2:] + text)[padding:].strip(b"="):
                self.problem = "characters follow the padding"
        self.start += text[: max(START - len(self.start), 0)]
        self.end = (self.end + text)[-QUANTUM:]
        self.length += len(text)

    @property
    def fault(self) -> str | None:
        """Why this is not a well-formed token; None if nothing is wrong with what was read."""
        if self.problem:
            return self.problem
        if self.length < TOKEN_MIN or self.length % QUANTUM:
            return f"a Fernet token cannot have a length of {self.length} characters"
        return self._fault_of_ends()

    def _fault_of_ends(self) -> str | None:
        try:
            version = base64.b64decode(self.start, altchars=b"-_", validate=True)[0]
            last = base64.b64decode(self.end, altchars=b"-_", validate=True)
        except binascii.Error:
            return "the token's base64 padding is wrong"
        if base64.b64encode(last, altchars=b"-_") != self.end:
            return "unused bits of the token's last character are not zero"
        if version != VERSION:
            return f"the token's version is 0x{version:02x}, not 0x80"
        if self.ciphertext % BLOCK or self.ciphertext < BLOCK:
            return f"the token's ciphertext of {self.ciphertext} bytes is not whole AES blocks"
        return None

    @property
    def ciphertext(self) -> int:
        """Bytes of ciphertext; the zip inside is 1 to 16 bytes shorter."""
        return self.length // QUANTUM * 3 - self.end.count(b"=") - FRAME - MAC

    @property
    def time(self) -> datetime | None:
        """When it was encrypted, according to the token; None if that is not a valid time."""
        frame = base64.b64decode(self.start, altchars=b"-_")
        try:
            return datetime.fromtimestamp(int.from_bytes(frame[1:9], "big"), UTC)
        except (ValueError, OverflowError, OSError):
            return None


@dataclass
class Artifact:
    """What was read of an artifact; ``sha256`` is known only if all of it was read."""

    size: int
    data_key: bytes
    token: Token = field(default_factory=Token)
    sha256: str | None = None

    @property
    def key(self) -> str | None:
        """The KMS key that the encrypted data key names, None if it names none.

        AWS documents no layout of a CiphertextBlob; some contain the key's ARN or id.
        """
        found = KEY_ARN.search(self.data_key) or KEY_ID.search(self.data_key)
        return found[0].decode() if found else None


def data_key_length(header: bytes) -> int:
    """Return how many bytes of encrypted data key follow the first four.

    Raises:
        GeneratorError: an artifact cannot begin with *header*.
    """
    length = int.from_bytes(header, "big")
    if len(header) < LENGTH:
        raise GeneratorError(f"has only {len(header)} bytes: is this an artifact?")
    if not 1 <= length <= KEY_MAX:
        raise GeneratorError(
            f"encrypted data key length is {length}, not 1 to {KEY_MAX}: "
            "is this an application_code.zip.encrypted?"
        )
    return length


def read(source: BinaryIO, advance: Callable[[int], None] = lambda _: None) -> Artifact:
    """Read *source* to its end, CHUNK bytes at a time; *advance* is called with each size.

    Raises:
        GeneratorError: it is not an artifact. For a fault of the token see `Token.fault`.
    """
    header = _exactly(source, LENGTH)
    length = data_key_length(header)
    data_key = _exactly(source, length)
    if len(data_key) < length:
        raise GeneratorError(
            f"ends inside the encrypted data key of {length} bytes: copy the artifact again"
        )
    whole = hashlib.sha256(header + data_key)
    found = Artifact(LENGTH + length, data_key)
    while chunk := source.read(CHUNK):
        whole.update(chunk)
        found.token.add(chunk)
        found.size += len(chunk)
        advance(len(chunk))
    found.sha256 = whole.hexdigest()
    return found


def _exactly(source: BinaryIO, length: int) -> bytes:
    """Read *length* bytes, fewer only at the end; a pipe may return fewer at each call."""
    found = b""
    while len(found) < length and (more := source.read(length - len(found))):
        found += more
    return found
