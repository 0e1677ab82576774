"""Transfers directories as a tar, which is unpacked without trusting its author.

Only regular files and directories are transferred, and of their modes only the executable bits. The
tar has GNU's format and is written by the standard library. It is read here block by block, since
`tarfile` allocates as much memory as a header asks for, and supports links, devices and sparse
files.
"""

from __future__ import annotations

import itertools
import os
import secrets
import stat
import tarfile
from typing import IO, TYPE_CHECKING, Final, NamedTuple, cast

from enclave.protocol import Size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BLOCK: Final = tarfile.BLOCKSIZE
NAME_MAX: Final = 4096  # bytes: the longest path on Linux
COPIED: Final = 1 << 18  # bytes read and written at once
NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
SPECIAL: Final = "is neither a regular file nor a directory, so it cannot be transferred"


class FolderError(Exception):
    """A directory cannot be transferred, or a tar is refused; the message says why."""


class Entry(NamedTuple):
    """One file or directory; *name* is relative to the root, *mode* as `os.stat` returns it."""

    path: Path
    name: str
    mode: int
    size: int


def entries(folder: Path, *, follow: bool) -> Iterator[Entry]:
    """Yield everything in *folder*, a directory before what it holds, names in order.

    Args:
        folder: not yielded itself.
        follow: replace a link to a file with the file; otherwise a link is refused.

    Raises:
        FolderError: there is something other than files and directories.
    """
    pending = [folder]
    while pending:
        directory = pending.pop()
        found = sorted(directory.iterdir())
        for path in found:
            name = str(path.relative_to(folder))
            status = path.stat() if follow and not path.is_dir() else path.lstat()
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                raise FolderError(f"{name!r} {SPECIAL}")
            yield Entry(path, name, status.st_mode, status.st_size)
        pending += [path for path in reversed(found) if path.is_dir() and not path.is_symlink()]


def measured(folder: Path, *, follow: bool) -> Size:
    """Return the size of *folder*.

    Raises:
        FolderError: it contains something that cannot be transferred.
    """
    sizes = [entry.size for entry in entries(folder, follow=follow) if stat.S_ISREG(entry.mode)]
    members = sum(1 for _ in entries(folder, follow=follow))
    return Size(sum(sizes), members)


class _Sink:
    """The file object that tarfile writes to."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, data: bytes) -> int:
        self._write(data)
        return len(data)


def pack(folder: Path, write: Callable[[bytes], object], *, follow: bool) -> None:
    """Pass a tar of *folder* to *write*, chunk by chunk.

    Raises:
        FolderError: it contains something that cannot be transferred, or that changes meanwhile.
        OSError: a file cannot be read.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    sink = cast("IO[bytes]", _Sink(write))  # in this mode tarfile needs only a write method
    with tarfile.open(mode="w|", fileobj=sink, bufsize=COPIED, format=tarfile.GNU_FORMAT) as tar:
        for entry in entries(folder, follow=follow):
            info = tarfile.TarInfo(entry.name)
            info.mode = 0o644 | entry.mode & 0o111
            if stat.S_ISDIR(entry.mode):
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
                continue
            with os.fdopen(os.open(entry.path, flags), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise FolderError(f"{entry.name!r} {SPECIAL}")
                info.size = status.st_size
                try:
                    tar.addfile(info, file)
                except OSError as error:
                    if error.errno is not None:
                        raise
                    raise FolderError(
                        f"{entry.name!r} changed while it was read: stop what writes to it"
                    ) from error


# --- unpacking ------------------------------------------------------------------------------------


class _Source:
    """Reads exact numbers of bytes from pieces of any length."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def some(self, size: int) -> memoryview:
        """Return the next 1 to *size* bytes."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                raise FolderError("the tar ends too early")
            self._rest = memoryview(piece)
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def exactly(self, size: int) -> bytes:
        """Return the next *size* bytes; the caller has checked *size* against its limit."""
        data = b""
        while len(data) < size:
            data += self.some(size - len(data))
        return data

    def skip_to_end(self) -> None:
        """Read the rest, which must be padding with zeros."""
        for piece in itertools.chain((bytes(self._rest),), self._pieces):
            if piece.strip(b"\0"):
                raise FolderError("the tar has data after its end")


def unpack(pieces: Iterator[bytes], folder: Path, allowed: Size, *, read_only: bool) -> None:
    """Unpack a tar into *folder*, an empty directory that no other process writes to.

    Args:
        pieces: of the tar; all of them are read.
        folder: keeps what has been unpacked if this raises.
        allowed: what the tar may contain at most.
        read_only: remove all write permissions from what is unpacked.

    Raises:
        FolderError: the tar is not one that `pack` would write, contains more than *allowed*, or
            has a name that leaves *folder*.
        OSError: a file cannot be written.
    """
    source = _Source(pieces)
    content, members = allowed
    directories = []
    while info := _header(source):
        members -= 1
        content -= info.size
        if members < 0 or content < 0:
            raise FolderError("the tar contains more than was announced")
        path = folder / _checked(info.name)
        executable = info.mode & 0o111
        try:
            if info.isdir():
                path.mkdir()
                directories.append(path)
            else:
                with os.fdopen(os.open(path, NEW_FILE, 0o644 | executable), "wb") as file:
                    _copy(source, file, info.size)
                    if read_only:
                        os.fchmod(file.fileno(), 0o444 | executable)
        except FileExistsError as error:
            raise FolderError(f"{info.name!r} is in the tar twice") from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FolderError(f"{info.name!r} precedes its directory in the tar") from error
    source.skip_to_end()
    for path in [*directories, folder] if read_only else []:
        path.chmod(0o555)


def _header(source: _Source) -> tarfile.TarInfo | None:
    """Read the next member's header; None at the end."""
    info = _block(source)
    if info is None or info.type != tarfile.GNUTYPE_LONGNAME:
        return info
    if not 0 < info.size <= NAME_MAX + 1:
        raise FolderError(f"a name in the tar has {info.size:,} bytes, not 1 to {NAME_MAX:,}")
    name = source.exactly(-(-info.size // BLOCK) * BLOCK)[: info.size].rstrip(b"\0")
    named = _block(source)
    if named is None or named.type == tarfile.GNUTYPE_LONGNAME:
        raise FolderError("the tar is damaged")
    named.name = os.fsdecode(name).rstrip("/") if named.isdir() else os.fsdecode(name)
    return named


def _block(source: _Source) -> tarfile.TarInfo | None:
    block = source.exactly(BLOCK)
    if not any(block):
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise FolderError("the tar is damaged") from error
    plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.GNUTYPE_LONGNAME)
    if not (plain or (info.type == tarfile.DIRTYPE and info.size == 0)) or info.size < 0:
        raise FolderError(f"{info.name!r} in the tar {SPECIAL}")
    return info


def _checked(name: str) -> str:
    """Return *name*, unless it leaves the directory."""
    parts = name.split("/")
    bad = not name or name.startswith("/") or "\0" in name or len(os.fsencode(name)) > NAME_MAX
    if bad or ".." in parts:
        raise FolderError(f"{name!r} in the tar leaves its directory")
    return name


def _copy(source: _Source, file: IO[bytes], size: int) -> None:
    left = size
    while left:
        data = source.some(min(left, COPIED))
        file.write(data)
        left -= len(data)
    source.exactly(-size % BLOCK)


# --- removing -------------------------------------------------------------------------------------


def remove(folder: Path) -> None:
    """Remove *folder* and its contents, at any depth and with any permissions.

    Every directory inside is moved to the top before it is emptied, so nothing here recurses and
    no path becomes too long. No other process may write to it meanwhile.
    """
    folder.chmod(0o700)
    pending = [folder]
    emptied = []
    while pending:
        directory = pending.pop()
        with os.scandir(directory) as found:
            inside = list(found)
        for entry in inside:
            if entry.is_dir(follow_symlinks=False):
                moved = folder / secrets.token_hex(16)
                os.chmod(entry, 0o700)  # noqa: PTH101 - saves an object for each of a million entries
                os.rename(entry, moved)  # noqa: PTH104
                pending.append(moved)
            else:
                os.unlink(entry)  # noqa: PTH108
        emptied.append(directory)
    for directory in reversed(emptied):
        directory.rmdir()
