"""Pass 1: the token becomes a private copy, and nothing is parsed before its HMAC matches.

    artifact ─► text of base64 ─► decoded, still encrypted copy ─► HMAC over all of it

Pass 2 reads the copy. The parent instance may rewrite its own file at any moment, so that file is
read only once; its base64 is not stored.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import itertools
import os
import select
import stat
from typing import TYPE_CHECKING, NamedTuple

from .errors import AuthenticationError, FormatError, OutdatedError, TimeLimitError
from .format import BLOCK, TAG, TIME, TOKEN_HEAD, TOKEN_VERSION, read_fully
from .system import first_installed
from .workers import Buffer, in_processes, in_thread, process_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from .format import Readable
    from .progress import Progress

CHUNK = 1 << 19  # characters decoded at once; a multiple of 4
DECODED_CHUNK = CHUNK // 4 * 3

_NOT_CANONICAL = (
    "the token is not canonical URL-safe base64, so this is not an artifact, or it was changed: "
    "copy it again"
)

_base64 = first_installed("pybase64", "base64")


class Artifact(NamedTuple):
    """An artifact, to be read once, from its first byte.

    Attributes:
        stream: where it is read from; the caller closes it.
        size: in bytes, 0 if not known; only for progress and to check that there is room.
        descriptor: the file or pipe of *stream*, which any process may read; None for an object
            of the caller's, which is read with `stream.read` in the caller's process.
    """

    stream: Readable
    size: int
    descriptor: int | None = None

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path, patience: float) -> Iterator[Artifact]:
        """Open the file or pipe at *path*; a pipe may be silent for *patience* seconds.

        Raises:
            OSError: it cannot be opened, or is a directory.
        """
        # Without O_NONBLOCK, opening a pipe waits for a writer, perhaps forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            regular = stat.S_ISREG(status.st_mode)
            stream = file if regular else _Pipe(descriptor, patience)
            yield cls(stream, status.st_size, descriptor)

    def copy_size(self) -> int:
        """Return the bytes of its decoded copy."""
        return self.size // 4 * 3


class _Pipe:
    """A pipe, whose writer may be silent for some seconds, but not forever."""

    def __init__(self, descriptor: int, patience: float) -> None:
        self._descriptor, self._patience = descriptor, patience

    def read(self, size: int, /) -> bytes:
        """Return some of the next *size* bytes; none at the end."""
        readable, _, _ = select.select([self._descriptor], [], [], self._patience)
        if not readable:
            raise TimeLimitError(
                f"no data arrived for {self._patience:g} s: is the program that writes to this "
                "pipe still running?"
            )
        return os.read(self._descriptor, size)


def copy_verified(token: Artifact, copy: BinaryIO, data_key: bytes, progress: Progress) -> None:
    """Decode *token*, whose header has been read, into *copy* and verify its HMAC.

    *copy* must not be used if this raises.

    Raises:
        FormatError: not canonical URL-safe base64 of a version 0x80 Fernet token.
        AuthenticationError: it was not encrypted under *data_key*, or was changed.
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
            # The last bytes so far may be the tag, which is not authenticated: keep them back.
            end = max(0, size - TAG)
            authenticate(os.pread(copy.fileno(), end - authenticated, authenticated))
            authenticated = end
            progress.add(length)
    ciphertext = size - TOKEN_HEAD - TAG
    if ciphertext < BLOCK or ciphertext % BLOCK:
        raise FormatError(
            f"the token has {size} bytes: it is cut off, or not a Fernet token: copy it again"
        )
    if not hmac.compare_digest(mac.digest(), os.pread(copy.fileno(), TAG, authenticated)):
        raise AuthenticationError(
            "the token's HMAC does not match the data key, so the artifact was changed, or "
            "encrypted under another data key: copy it again"
        )
    # If the file was changed meanwhile, a decoder may have written more than was authenticated.
    copy.truncate(size)


def require_not_before(copy: BinaryIO, not_before: float) -> None:
    """Refuse a verified token that was encrypted before *not_before*, seconds since 1970.

    The time is authenticated. The host cannot make tokens, but it can keep old ones.

    Raises:
        OutdatedError: it was encrypted earlier.
    """
    made = int.from_bytes(os.pread(copy.fileno(), TIME, 1), "big")
    if made < not_before:
        raise OutdatedError(
            f"it was encrypted at {_utc(made)}, before --not-before {_utc(not_before)}: "
            "use a newer artifact"
        )


def _utc(seconds: float) -> str:
    from datetime import UTC, datetime, timedelta

    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


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

    Its length is that at the start: a parent instance that keeps writing does not make it longer.

    Attributes:
        count: the number of chunks; 1 for a pipe, which is read in order.
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
            return read_fully(self._stream, CHUNK)
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
            raise FormatError(
                f"the token's version is {data[0]:#04x}, not {TOKEN_VERSION:#04x}: "
                "is this an application_code.zip.encrypted?"
            )
        write_all(copy.fileno(), data, number * DECODED_CHUNK)
        yield len(data)


def _decoded(text: bytes) -> bytes:
    """Decode canonical URL-safe base64, and refuse anything that an encoder would not write."""
    try:
        # Decoders also accept the two characters of the standard alphabet.
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
