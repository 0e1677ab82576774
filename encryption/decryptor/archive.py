"""Pass 2, middle layer: the zip's members, all checked before the first is written.

The limits are checked while the directory is read, before memory or disk is used.
"""

from __future__ import annotations

import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

from . import directory, names
from .directory import IN_ZIP64, UNICODE_PATH, Entry, extra_fields, zip64_numbers
from .errors import ArchiveError, LimitError
from .names import refusal
from .reader import CHUNK, RELEASED
from .system import first_installed
from .workers import Buffer, prefetch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .reader import DecryptingReader, Window

LOCAL_HEADER = struct.Struct("<4s2x2H4x3I2H")  # flags, method, CRC-32, sizes, lengths
ENCRYPTED_OR_PATCHED = 0x2061  # zip flag bits 0, 5, 6, 13
SIZES_FOLLOW = 0x0008  # flag bit 3: in a data descriptor after the content
STORED, DEFLATED = 0, 8  # zip methods
DOS_DIRECTORY = 0x10  # attribute
DIRECTORY_ENTRY = 1024  # bytes of central directory allowed per allowed member

zlib = first_installed("isal.isal_zlib", "zlib")


class Limits(NamedTuple):
    """What is accepted.

    Attributes:
        total_bytes: of the tree's files at most; None: as many as there is room for.
        members: of the zip at most, and directories of the tree at most.
        not_before: seconds since 1970; an artifact that was encrypted earlier is refused.
    """

    total_bytes: int | None
    members: int
    not_before: float = 0


class Member(NamedTuple):
    """A member that may be unpacked.

    Attributes:
        path: the name normalised; a directory's ends with a slash.
        name: as the zip has it.
        flags: as the zip has them.
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
    flags: int
    method: int
    offset: int
    end: int
    packed: int
    size: int
    checksum: int
    mode: int

    def is_directory(self) -> bool:
        """Return whether it stands for a directory."""
        return self.path.endswith(b"/")


class Archive:
    """A zip's members, all of them found fit to be unpacked.

    Attributes:
        zipped: what they are read from.
        members: in the order of the file.
        directories: that the members need, each after its parent: the parent's number, the name.
            They are numbered from 1 on; 0 is the root.
    """

    def __init__(self, zipped: DecryptingReader, limits: Limits) -> None:
        """Read the directory of *zipped* and check every entry.

        Raises:
            ArchiveError: not a zip, or a member that must not be unpacked.
            LimitError: more members or bytes than *limits* allow.
        """
        self.zipped = zipped
        self.members = _members(zipped, limits)
        self.directories = _directories(self.members, limits)


def _members(zipped: DecryptingReader, limits: Limits) -> list[Member]:
    """Return what the zip's central directory lists, in the order of the file."""
    place = directory.find(zipped)
    if not place.entries:
        raise ArchiveError("the zip has no members")
    if place.entries > limits.members:
        raise LimitError(
            f"it has {place.entries} members, but --max-members is {limits.members}: raise it if "
            "you trust this artifact"
        )
    if place.end - place.start > limits.members * DIRECTORY_ENTRY:
        raise LimitError(
            f"the zip's central directory has {place.end - place.start} bytes, "
            f"too many for --max-members {limits.members}: raise it if you trust this artifact"
        )
    members: list[Member] = []
    total = 0
    previous: Entry | None = None
    in_order = True
    for entry in directory.entries(zipped, place):
        total += entry.size
        if limits.total_bytes is not None and total > limits.total_bytes:
            raise LimitError(
                f"it has {total} bytes or more uncompressed, but --max-bytes is "
                f"{limits.total_bytes}: raise it if you trust this artifact"
            )
        if previous:
            in_order = in_order and entry.offset > previous.offset
            members.append(_checked(previous, entry.offset))
        previous = entry
    if previous:
        members.append(_checked(previous, place.start))
    if not in_order:  # which is allowed, and rare
        members = _sorted(members, place.start)
    if members[0].offset:
        raise ArchiveError("the zip does not begin with a member, and zip readers disagree on that")
    return members


def _sorted(members: Sequence[Member], end: int) -> list[Member]:
    """Return *members* in the order of the file, each ending where the next one begins."""
    ordered = sorted(members, key=lambda member: member.offset)
    ends = [member.offset for member in ordered[1:]] + [end]
    return [m._replace(end=end) for m, end in zip(ordered, ends, strict=True)]


def _checked(entry: Entry, end: int) -> Member:
    """Refuse what is not a plain file or directory inside the tree."""
    path = names.path_of(entry)
    is_directory = path.endswith(b"/") or not path
    kind = stat.S_IFMT(entry.attributes >> 16)
    stored = entry.method == STORED
    if kind not in (0, stat.S_IFDIR if is_directory else stat.S_IFREG) or (
        not is_directory and entry.attributes & DOS_DIRECTORY
    ):
        raise refusal(entry.name, "not a file or directory")
    if is_directory and entry.size:
        raise refusal(entry.name, "directory with content")
    if entry.flags & ENCRYPTED_OR_PATCHED:
        raise refusal(entry.name, "encrypted or a patch")
    if not stored and entry.method != DEFLATED:
        raise refusal(entry.name, "neither stored nor deflated")
    if stored and entry.packed != entry.size:
        raise refusal(entry.name, "sizes contradict")
    return Member(
        path if path != entry.name else entry.name,
        entry.name,
        entry.flags,
        entry.method,
        entry.offset,
        end,
        entry.packed,
        entry.size,
        entry.checksum,
        (entry.attributes >> 16) & 0o111,
    )


def _directories(members: Sequence[Member], limits: Limits) -> list[tuple[int, bytes]]:
    """Return every directory that *members* need, each after its parent.

    Each is kept as its parent's number and its own name: as paths, a chain of 2,000 directories
    would have four million characters.

    Raises:
        ArchiveError: a path is ambiguous.
        LimitError: there are more than *limits* allow.
    """
    numbers: dict[tuple[int, bytes], int] = {}
    parents: dict[bytes, int] = {b"": 0}
    paths: set[bytes] = set()
    for member in members:
        path = member.path.removesuffix(b"/")
        if path in paths:
            raise refusal(path, "another member has the same path")
        paths.add(path)
        parent = path if member.is_directory() else path.rpartition(b"/")[0]
        if parent not in parents:
            number = 0
            for name in parent.split(b"/"):
                number = numbers.setdefault((number, name), len(numbers) + 1)
                if len(numbers) > limits.members:
                    raise LimitError(
                        f"it has {len(numbers)} directories or more, but --max-members is "
                        f"{limits.members}: raise it if you trust this artifact"
                    )
            parents[parent] = number
    for member in members:
        if not member.is_directory():
            parent, _, name = member.path.rpartition(b"/")
            if (parents[parent], name) in numbers:
                raise refusal(member.path, "another member uses this file as a directory")
    return list(numbers)


def content(member: Member, window: Window) -> Iterator[Buffer]:
    """Yield what *member* unpacks to, at most CHUNK bytes at a time.

    Raises:
        ArchiveError: its local header contradicts the directory, or its stream is broken.
    """
    header = window.read(member.offset, LOCAL_HEADER.size + len(member.name))
    if len(header) < LOCAL_HEADER.size:
        raise refusal(member.name, "it is outside the zip")
    signature, flags, method, *numbers, name_length, extra_length = LOCAL_HEADER.unpack_from(header)
    start = member.offset + LOCAL_HEADER.size + name_length + extra_length
    after = start + member.packed
    if (
        (signature, flags, method) != (b"PK\3\4", member.flags, member.method)
        or name_length != len(member.name)
        or header[LOCAL_HEADER.size :] != member.name
        or after > member.end
    ):
        raise _contradiction(member)
    if extra_length or numbers != [member.checksum, member.packed, member.size]:
        extra = window.read(start - extra_length, extra_length)
        _check_local(member, numbers, bytes(extra))
    chunks = (window.read(at, min(CHUNK, after - at)) for at in range(start, after, CHUNK))
    # A thread only helps with long members: the next chunk is decrypted while one is inflated.
    packed = prefetch(chunks) if member.packed > RELEASED else chunks
    yield from packed if method == STORED else _inflated(packed)
    if after != member.end:
        _check_descriptor(member, bytes(window.read(after, min(CHUNK, member.end - after))))


def _contradiction(member: Member) -> ArchiveError:
    return refusal(member.name, "its local header contradicts the zip's central directory")


def _check_local(member: Member, numbers: Sequence[int], extra: bytes) -> None:
    """Compare the local header, which stream readers use, with the directory's entry."""
    checksum, packed, size = numbers
    if IN_ZIP64 in (packed, size):
        size, packed = zip64_numbers(extra, size, packed)
    expected = (member.checksum, member.packed, member.size)
    unknown = bool(member.flags & SIZES_FOLLOW)
    if (checksum, packed, size) != expected and not (unknown and not any((checksum, packed, size))):
        raise _contradiction(member)
    if b"up" in extra and UNICODE_PATH in extra_fields(extra):
        entry = Entry(3, member.flags, 0, 0, 0, 0, 0, 0, member.name, extra)
        if names.path_of(entry) != member.path:
            raise _contradiction(member)


def _check_descriptor(member: Member, rest: bytes) -> None:
    """Refuse anything after a member's content except the data descriptor that its flags announce.

    A reader of the zip as a stream would take anything else for another member.
    """
    numbers = (member.checksum, member.packed, member.size)
    forms = {
        mark + struct.pack(form, *numbers)
        for mark in (b"", b"PK\7\10")
        for form in ("<IQQ", "<III")
        if form == "<IQQ" or max(numbers) <= IN_ZIP64
    }
    if not member.flags & SIZES_FOLLOW or rest not in forms:
        raise refusal(
            member.name, "it is followed by data that the zip's central directory does not list"
        )


def _inflated(packed: Iterator[Buffer]) -> Iterator[bytes]:
    """Inflate one raw deflate stream, at most CHUNK bytes at a time."""
    engine = zlib.decompressobj(-15)
    rest: Buffer = b""
    full = False
    while not engine.eof:
        if not rest and not full:  # after a full chunk the engine may have more output
            rest = next(packed, b"")
            if not rest:
                break
        chunk = engine.decompress(rest, CHUNK)
        rest, full = engine.unconsumed_tail, len(chunk) == CHUNK
        yield chunk
    if not engine.eof or engine.unused_data or next(packed, None):
        raise ArchiveError("a member's deflate stream does not end with the member")
