"""Pass 1: the token becomes a private copy, and nothing is parsed before its HMAC matches.

    artifact ─► text of base64 ─► decoded, still encrypted copy ─► HMAC over all of it

The copy is what pass 2 reads. The parent instance may rewrite its own file at any moment, so that
file is read once and never again; its base64 is not stored.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from .errors import AuthenticationError, FormatError
from .format import BLOCK, TAG, TOKEN_HEAD, TOKEN_VERSION, read_fully
from .system import first_installed
from .workers import Buffer, in_processes, in_thread, process_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from .format import Readable
    from .progress import Progress

CHUNK = 1 << 19  # characters decoded at once; a multiple of 4
DECODED_CHUNK = CHUNK // 4 * 3

_NOT_CANONICAL = "token is not canonical URL-safe base64: not an artifact, or changed on its way"

_base64 = first_installed("pybase64", "base64")


class Artifact(NamedTuple):
    """An artifact, to be read once, from its first byte.

    Attributes:
        stream: what it is read from; stays the caller's to close.
        size: its bytes, 0 if they are not known; only for progress and for the room it takes.
        descriptor: the file or pipe below *stream*, which any process may read; None for an
            object of the caller's, which is read by `stream.read` in the caller's process.
    """

    stream: Readable
    size: int
    descriptor: int | None = None

    @classmethod
    def of_file(cls, file: BinaryIO) -> Artifact:
        """Return the artifact in *file*, which may be a pipe."""
        return cls(file, os.fstat(file.fileno()).st_size, file.fileno())

    def copy_size(self) -> int:
        """Return the bytes of its decoded copy."""
        return self.size // 4 * 3


def copy_verified(token: Artifact, copy: BinaryIO, data_key: bytes, progress: Progress) -> None:
    """Decode *token*, which stands behind its header, into *copy* and verify its HMAC.

    *copy* is worthless if this raises.

    Raises:
        FormatError: not canonical URL-safe base64 of a version 0x80 Fernet token.
        AuthenticationError: it is, but not one encrypted under *data_key*, or not unaltered.
    """
    import hmac

    mac = hmac.new(data_key[:BLOCK], digestmod="sha256")
    size = 0
    authenticated = 0
    with _decoders(token, copy) as decoders, in_thread(mac.update) as authenticate:
        for decoder in itertools.cycle(decoders):
            length = next(decoder, 0)
            if not length:
                break
            if size % DECODED_CHUNK:  # only the last chunk may be shorter
                raise FormatError(_NOT_CANONICAL)
            size += length
            # The last bytes so far may be the tag, which is not authenticated: they wait.
            end = max(0, size - TAG)
            authenticate(os.pread(copy.fileno(), end - authenticated, authenticated))
            authenticated = end
            progress.add(length)
    ciphertext = size - TOKEN_HEAD - TAG
    if ciphertext < BLOCK or ciphertext % BLOCK:
        raise FormatError(f"token is {size} bytes long: it was cut off, or is not a Fernet token")
    if not hmac.compare_digest(mac.digest(), os.pread(copy.fileno(), TAG, authenticated)):
        raise AuthenticationError(
            "the token's HMAC does not match the data key: the artifact was changed, "
            "or encrypted under another data key"
        )


@contextlib.contextmanager
def _decoders(token: Artifact, copy: BinaryIO) -> Iterator[Sequence[Iterator[int]]]:
    """Yield iterators that decode the token's chunks in turn and yield each chunk's length."""
    if token.descriptor is None:
        yield [_decode(_StreamText(token.stream), copy, 0, 1)]
        return
    text = _FileText(token.stream, token.descriptor)
    parts = process_count(text.count)
    with in_processes(lambda part: _decode(text, copy, part, parts), range(parts)) as processes:
        yield processes


class _StreamText:
    """The token's text, chunk by chunk, from an object that is read in order."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream

    def read(self, _number: int) -> bytes:
        """Return the next chunk; nothing when there are no more."""
        return read_fully(self._stream, CHUNK)


class _FileText:
    """The token's text, chunk by chunk.

    It is as long as it was at first: a parent instance that keeps writing does not prolong it.

    Attributes:
        count: how many chunks there are; 1 if they come through a pipe, which is read in order.
    """

    def __init__(self, stream: Readable, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self._stream, self._descriptor = stream, descriptor
        self._regular = stat.S_ISREG(status.st_mode)
        self._start = stream.tell() if self._regular else 0  # type: ignore[attr-defined]
        self._size = status.st_size - self._start
        self.count = -(-self._size // CHUNK) if self._regular else 1

    def read(self, number: int) -> bytes:
        """Return a chunk; nothing when there are no more."""
        if not self._regular:
            return self._stream.read(CHUNK)
        offset = number * CHUNK
        size = max(0, min(CHUNK, self._size - offset))
        return os.pread(self._descriptor, size, self._start + offset)


def _decode(text: _FileText | _StreamText, copy: BinaryIO, part: int, parts: int) -> Iterator[int]:
    """Decode every *parts*-th chunk into its place in *copy*; yield their lengths."""
    for number in itertools.count(part, parts):
        chunk = text.read(number)
        if not chunk:
            return
        data = _decoded(chunk)
        if number == 0 and data[0] != TOKEN_VERSION:
            raise FormatError(f"token version is {data[0]:#04x}, not {TOKEN_VERSION:#04x}")
        write_all(copy.fileno(), data, number * DECODED_CHUNK)
        yield len(data)


def _decoded(text: bytes) -> bytes:
    """Decode canonical URL-safe base64: what is not exactly what an encoder writes is refused."""
    try:
        # Decoders take the other alphabet's two characters as well.
        if len(text) % 4 or b"+" in text or b"/" in text:
            raise ValueError  # noqa: TRY301 - one message for all that is not canonical
        data: bytes = _base64.b64decode(text, b"-_", validate=True)
    except ValueError as error:
        raise FormatError(_NOT_CANONICAL) from error
    # The last character of a padded group has unused bits; only zeros are canonical.
    if base64.urlsafe_b64encode(data[(len(data) - 1) // 3 * 3 :]) != text[-4:]:
        raise FormatError(_NOT_CANONICAL)
    return data


def write_all(file: int, data: Buffer, offset: int) -> None:
    """Write *data* at *offset*; a single pwrite may write less."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
