"""Pass 2, middle: the zip's members, all of them checked before one is written.

The standard library's zipfile reads the central directory; content is read here, since zipfile
would copy it through a decompressor of its own and does not compare a member's two headers.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

from .errors import ArchiveError, LimitError
from .reader import CHUNK, RELEASED
from .system import first_installed
from .workers import Buffer, prefetch

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Iterator, Sequence

    from .reader import DecryptingReader, Window

LOCAL_HEADER = struct.Struct("<4s4xH16xHH")  # signature, method, lengths of name and extra field
NUMBERS = struct.Struct("<H4QIH")  # of a Member
ENCRYPTED_OR_PATCHED = 0x2061  # zip flag bits 0, 5, 6, 13
UTF8_NAME = 0x0800
STORED, DEFLATED = 0, 8  # zip methods
NAME_MAX = 4096  # characters: no path of Linux has more
DIRECTORY_ENTRY = 1024  # bytes of central directory allowed per allowed member

zlib = first_installed("isal.isal_zlib", "zlib")


class Limits(NamedTuple):
    """What is accepted.

    Attributes:
        total_bytes: that the tree's files may have; None: what there is room for.
        members: that the zip may have, and directories that the tree may.
        not_before: seconds since 1970; an artifact that was encrypted earlier is refused.
    """

    total_bytes: int | None
    members: int
    not_before: float = 0


class Member(NamedTuple):
    """A member that may be unpacked; about half of what zipfile keeps of it.

    Attributes:
        path: the name normalised; a directory's ends with a slash.
        name: as the zip has it.
        method: STORED or DEFLATED.
        offset: of its header in the zip.
        end: where the next one begins.
        packed: bytes in the zip.
        size: bytes in the tree.
        checksum: CRC-32 of these.
        mode: executable bits.
    """

    path: bytes
    name: bytes
    method: int
    offset: int
    end: int
    packed: int
    size: int
    checksum: int
    mode: int

    def is_directory(self) -> bool:
        """Tell whether it stands for a directory."""
        return self.path.endswith(b"/")


class Archive:
    """A zip's members, all of them found fit to be unpacked.

    Attributes:
        zipped: what they are read from.
        members: in the order of the file.
        directories: every path that must be a directory, without the root.
    """

    def __init__(self, zipped: DecryptingReader, limits: Limits) -> None:
        """Read the directory of *zipped* and check every entry.

        Raises:
            ArchiveError: not a zip, or a member that must not be unpacked.
            LimitError: more members or bytes than *limits* allow.
        """
        self.zipped = zipped
        self.members = _members(zipped, limits)
        self.directories = _checked_directories(self.members)
        if len(self.directories) > limits.members:
            raise LimitError(
                f"{len(self.directories)} directories, --max-members is {limits.members}"
            )


def _members(zipped: DecryptingReader, limits: Limits) -> list[Member]:
    """Return what the zip's directory lists, in the order of the file."""
    entries, end = _central_directory(zipped)
    if len(entries) > limits.members:
        raise LimitError(f"{len(entries)} members, --max-members is {limits.members}")
    total = sum(info.file_size for info in entries)
    if limits.total_bytes is not None and total > limits.total_bytes:
        raise LimitError(f"{total} bytes unpacked, --max-bytes is {limits.total_bytes}")
    members = []
    while entries:  # what zipfile keeps of them is freed on the way
        info = entries.pop()
        members.append(_checked(info, end))
        end = info.header_offset
    members.reverse()
    return members


def _central_directory(zipped: DecryptingReader) -> tuple[list[zipfile.ZipInfo], int]:
    """Return the entries of the zip's directory, as zipfile reads it, and where it begins."""
    import zipfile

    try:
        with zipfile.ZipFile(zipped) as archive:
            entries = sorted(archive.infolist(), key=lambda info: info.header_offset)
            return entries, archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
        raise ArchiveError(f"the content is not a zip: {error}") from error


def _checked(info: zipfile.ZipInfo, end: int) -> Member:
    """Refuse what is not a plain file or directory inside the tree."""
    raw = info.orig_filename  # zipfile cuts `filename` at a NUL
    parts = [part for part in raw.split("/") if part not in ("", ".")]
    is_directory = raw.endswith("/")
    kind = stat.S_IFMT(info.external_attr >> 16)
    stored = info.compress_type == STORED
    faults = {
        "absolute name": raw.startswith("/"),
        "'..' in its name": ".." in parts,
        "NUL in its name": "\0" in raw,
        "no name": not parts and not is_directory,
        "name too long": len(raw) > NAME_MAX,
        "outside the zip": info.header_offset < 0,
        "not a file or directory": kind not in (0, stat.S_IFDIR if is_directory else stat.S_IFREG),
        "directory with content": is_directory and info.file_size > 0,
        "encrypted or a patch": info.flag_bits & ENCRYPTED_OR_PATCHED,
        "neither stored nor deflated": not stored and info.compress_type != DEFLATED,
        "sizes contradict": stored and info.compress_size != info.file_size,
    }
    for fault, found in faults.items():
        if found:
            raise ArchiveError(f"member {raw!r} is refused: {fault}")
    name = raw.encode("utf-8" if raw.isascii() or info.flag_bits & UTF8_NAME else "cp437")
    path = ("/".join(parts) + "/" * is_directory).encode()
    numbers = NUMBERS.pack(
        info.compress_type,
        info.header_offset,
        end,
        info.compress_size,
        info.file_size,
        info.CRC,
        (info.external_attr >> 16) & 0o111,
    )
    # As new objects, so that all the memory of zipfile's is freed before processes share it.
    return Member(name if path == name else path, name, *NUMBERS.unpack(numbers))


def _checked_directories(members: Sequence[Member]) -> set[bytes]:
    """Return every directory the members need; no path may mean two things."""
    seen: set[bytes] = set()
    directories: set[bytes] = set()
    for member in members:
        path = member.path.removesuffix(b"/")
        if path in seen:
            raise ArchiveError(f"member {os.fsdecode(path)!r} is refused: its path is there twice")
        seen.add(path)
        parent = path if member.is_directory() else path.rpartition(b"/")[0]
        while parent and parent not in directories:
            directories.add(parent)
            parent = parent.rpartition(b"/")[0]
    for path in directories.intersection(member.path for member in members):
        raise ArchiveError(f"member {os.fsdecode(path)!r} is refused: others lie below this file")
    return directories


def content(member: Member, window: Window) -> Iterator[Buffer]:
    """Yield what *member* unpacks to, at most CHUNK bytes at a time.

    Raises:
        ArchiveError: its local header contradicts the directory, or its stream is broken.
    """
    header = window.read(member.offset, LOCAL_HEADER.size + len(member.name))
    if len(header) < LOCAL_HEADER.size:
        raise ArchiveError(f"{os.fsdecode(member.name)!r}: lies outside the zip")
    signature, method, name_length, extra_length = LOCAL_HEADER.unpack_from(header)
    same = header[LOCAL_HEADER.size :] == member.name and name_length == len(member.name)
    start = member.offset + LOCAL_HEADER.size + name_length + extra_length
    after = start + member.packed
    if signature != b"PK\3\4" or not same or method != member.method or after > member.end:
        raise ArchiveError(
            f"{os.fsdecode(member.name)!r}: local header contradicts the zip's directory"
        )
    chunks = (window.read(at, min(CHUNK, after - at)) for at in range(start, after, CHUNK))
    # A thread pays only for long members: decrypting goes on while the last chunk is inflated.
    packed = prefetch(chunks) if member.packed > RELEASED else chunks
    return packed if method == STORED else _inflated(packed)


def _inflated(packed: Iterator[Buffer]) -> Iterator[bytes]:
    """Inflate one raw deflate stream, at most CHUNK bytes at a time."""
    engine = zlib.decompressobj(-15)
    rest: Buffer = b""
    full = False
    while not engine.eof:
        if not rest and not full:  # a full chunk can have left more inside the engine
            rest = next(packed, b"")
            if not rest:
                break
        chunk = engine.decompress(rest, CHUNK)
        rest, full = engine.unconsumed_tail, len(chunk) == CHUNK
        yield chunk
    if not engine.eof or engine.unused_data or next(packed, None):
        raise ArchiveError("the deflate stream does not end where it should")
