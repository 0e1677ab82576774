"""Pass 2, middle layer: the zip's central directory, entry by entry.

It is read more strictly than zipfile does: the zip must fill the whole content, from its first
member to its end record, without contradictions. Two readers would see two different trees in
anything looser, such as two zips one after the other.

Source: APPNOTE.TXT 6.3.10 of PKWARE, sections 4.3 to 4.5.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from .errors import ArchiveError
from .reader import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .reader import DecryptingReader

END = struct.Struct("<4s4H2IH")  # signature, disks, entries here and in all, size, offset, comment
END64 = struct.Struct("<4sQ2H2I4Q")  # its size, versions, disks, entries, size, offset
LOCATOR64 = struct.Struct("<4sIQI")  # disk, offset of END64, disks
HEADER = struct.Struct("<4s2B3H4x3I5H2I")  # one entry; a name, extra fields and a comment follow
COMMENT_MAX = 0xFFFF
IN_ZIP64 = 0xFFFFFFFF  # the number is in the zip64 field instead
IN_END64 = 0xFFFF
ZIP64, UNICODE_PATH = 0x0001, 0x7075  # extra fields


class Entry(NamedTuple):
    """A member's entry in the central directory; numbers are as in APPNOTE."""

    system: int
    flags: int
    method: int
    checksum: int
    packed: int
    size: int
    attributes: int
    offset: int
    name: bytes
    extra: bytes


class Directory(NamedTuple):
    """Where the central directory is, and how many entries it has."""

    start: int
    end: int
    entries: int


def find(zipped: DecryptingReader) -> Directory:
    """Find the central directory of *zipped*.

    Raises:
        ArchiveError: not a zip, or one that does not fill the content.
    """
    tail_start = max(0, zipped.size - END.size - COMMENT_MAX)
    tail = zipped.read_at(tail_start, zipped.size - tail_start)
    at = tail.rfind(b"PK\5\6")
    if tail[-END.size :].startswith(b"PK\5\6"):  # whose own numbers may contain the signature
        at = len(tail) - END.size
    if at < 0 or len(tail) - at < END.size:
        raise ArchiveError("the content has no end record, so it is not a zip")
    _, disk, first_disk, here, count, size, offset, comment = END.unpack_from(tail, at)
    if at + END.size + comment != len(tail):
        raise ArchiveError("the zip has bytes after its end record")
    end = tail_start + at
    if tail[max(0, at - LOCATOR64.size) : at].startswith(b"PK\6\7"):
        end, whole = _zip64(zipped, end - LOCATOR64.size)
        for short, long, replaced in zip(
            (here, count, size, offset),
            whole,
            (IN_END64, IN_END64, IN_ZIP64, IN_ZIP64),
            strict=True,
        ):
            if short not in (long, replaced):
                raise ArchiveError("the zip's two end records contradict each other")
        here, count, size, offset = whole
    if disk or first_disk or here != count:
        raise ArchiveError("the zip has more than one volume")
    if offset + size != end:
        raise ArchiveError(
            "the zip has data before its first member, and zip readers disagree on what such a "
            "zip contains"
        )
    return Directory(offset, end, count)


def _zip64(zipped: DecryptingReader, locator: int) -> tuple[int, tuple[int, int, int, int]]:
    """Return where the zip64 end record begins, and its four numbers."""
    _, disk, place, _ = LOCATOR64.unpack(zipped.read_at(locator, LOCATOR64.size))
    record = zipped.read_at(place, END64.size)
    if disk or place + END64.size != locator or not record.startswith(b"PK\6\6"):
        raise ArchiveError("the zip's zip64 end record is not directly before its locator")
    _, _, _, _, disk, first_disk, *numbers = END64.unpack(record)
    if disk or first_disk:
        raise ArchiveError("the zip has more than one volume")
    here, count, size, offset = numbers
    return place, (here, count, size, offset)


def entries(zipped: DecryptingReader, directory: Directory) -> Iterator[Entry]:
    """Yield the entries of *directory*, keeping little of it in memory at a time.

    Raises:
        ArchiveError: they do not fill it exactly.
    """
    position, data = directory.start, b""
    at = 0
    for _ in range(directory.entries):
        # The longest entry has three parts of up to 64 KiB.
        if len(data) - at < HEADER.size + 3 * COMMENT_MAX and position < directory.end:
            more = zipped.read_at(position, min(CHUNK, directory.end - position))
            position += len(more)
            data, at = data[at:] + more, 0
        if len(data) - at < HEADER.size or data[at : at + 4] != b"PK\1\2":
            raise ArchiveError("the zip's central directory is damaged, or has too few entries")
        entry, at = _entry(data, at)
        yield entry
    if position != directory.end or at != len(data):
        raise ArchiveError("the zip's central directory has more entries than its end record says")


def _entry(data: bytes, at: int) -> tuple[Entry, int]:
    """Return the entry at *at* and where it ends."""
    (
        _signature,
        _version,
        system,
        _needed,
        flags,
        method,
        checksum,
        packed,
        size,
        name_length,
        extra_length,
        comment_length,
        disk,
        _internal,
        attributes,
        offset,
    ) = HEADER.unpack_from(data, at)
    at += HEADER.size
    name = data[at : at + name_length]
    extra = data[at + name_length : at + name_length + extra_length]
    end = at + name_length + extra_length + comment_length
    if end > len(data) or disk:
        raise ArchiveError("the zip's central directory is damaged, or has more than one volume")
    if IN_ZIP64 in (packed, size, offset):
        size, packed, offset = zip64_numbers(extra, size, packed, offset)
    return Entry(
        system, flags, method, checksum, packed, size, attributes, offset, name, extra
    ), end


def zip64_numbers(extra: bytes, *numbers: int) -> tuple[int, ...]:
    """Return *numbers*, with those that are in the zip64 field taken from it, in order.

    Raises:
        ArchiveError: the field is missing, or too short.
    """
    field = extra_fields(extra).get(ZIP64, b"")
    missing = numbers.count(IN_ZIP64)
    if len(field) < 8 * missing:
        raise ArchiveError("a member of the zip lacks its zip64 sizes")
    long = iter(struct.unpack_from(f"<{missing}Q", field))
    return tuple(next(long) if number == IN_ZIP64 else number for number in numbers)


def extra_fields(extra: bytes) -> dict[int, bytes]:
    """Return the extra fields by their number.

    Raises:
        ArchiveError: they do not fill *extra*, or there is a duplicate.
    """
    found: dict[int, bytes] = {}
    at = 0
    while at < len(extra):
        if len(extra) - at < 4:  # noqa: PLR2004 - number and length
            raise ArchiveError("an extra field of the zip is cut off")
        number, length = struct.unpack_from("<HH", extra, at)
        value = extra[at + 4 : at + 4 + length]
        if len(value) < length or number in found:
            raise ArchiveError("an extra field of the zip is cut off, or is a duplicate")
        found[number] = value
        at += 4 + length
    return found
