r"""Pass 2, middle layer: members' names, as common zip readers interpret them.

Without the UTF-8 flag, readers do not agree on a name's encoding. Info-ZIP and macOS write UTF-8
without the flag, and unzip, bsdtar, Go and Java read it as such; Python would read cp437. Names
that these readers interpret in two ways are refused, since they would unpack two different trees.
Tried in 2026: unzip 6.0 converts names made on FAT; bsdtar 3.6 turns each backslash into a slash.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import TYPE_CHECKING

from .directory import UNICODE_PATH, extra_fields
from .errors import ArchiveError

if TYPE_CHECKING:
    from .directory import Entry

UTF8 = 0x0800  # flag bit 11
ON_FAT = 0  # the system that the member was made on
PATH_MAX = 4095  # bytes: the longest path on Linux
COMPONENT_MAX = 255  # bytes
PLAIN = re.compile(rb"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]{0,254}(?:/|$))+")
UNICODE_HEAD = struct.Struct("<BI")  # of the field: version 1, CRC-32 of the name


def path_of(entry: Entry) -> bytes:
    """Return the path that *entry* means, normalised, in UTF-8; a directory's ends with a slash.

    Raises:
        ArchiveError: it is not a path inside the tree, or one that readers disagree on.
    """
    name = entry.name
    if not name.isascii() or b"up" in entry.extra:
        name = _in_utf8(entry)
    if PLAIN.fullmatch(name) and len(name) <= PATH_MAX:
        return name  # the fast path: nearly all names, and there can be a million of them
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    is_directory = name.endswith(b"/")
    fault = _fault(name, parts, is_directory=is_directory)
    if fault:
        raise refusal(entry.name, fault)
    return b"/".join(parts) + b"/" * is_directory


def _fault(name: bytes, parts: list[bytes], *, is_directory: bool) -> str:
    faults = {
        "absolute name": name.startswith(b"/"),
        "component '..' in its name": b".." in parts,
        "NUL in its name": b"\0" in name,
        "backslash in its name, which some zip readers read as a slash": b"\\" in name,
        "no name": not parts and not is_directory,
        "'/.' at the end of its name": name.endswith(b"/.") and bool(parts),
        "name too long": len(name) > PATH_MAX or any(len(part) > COMPONENT_MAX for part in parts),
    }
    return next((fault for fault, found in faults.items() if found), "")


def _in_utf8(entry: Entry) -> bytes:
    name = entry.name
    unicode_name = _unicode_path(entry)
    if unicode_name is not None and not entry.flags & UTF8:
        name = unicode_name
    elif unicode_name not in (None, name):
        raise refusal(entry.name, "its name and its Unicode path differ")
    elif not entry.flags & UTF8 and entry.system == ON_FAT and not name.isascii():
        raise refusal(entry.name, "zip readers disagree on the encoding of its name")
    try:
        name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refusal(
            entry.name, "its name is not UTF-8, and zip readers disagree on other encodings"
        ) from error
    return name


def _unicode_path(entry: Entry) -> bytes | None:
    """Return the Info-ZIP Unicode path, if there is one and it belongs to the name.

    A tool that renames a member without knowing the field leaves a wrong CRC-32 in it: then the
    field is ignored (APPNOTE 4.6.9).
    """
    field = extra_fields(entry.extra).get(UNICODE_PATH, b"")
    if len(field) < UNICODE_HEAD.size:
        return None
    version, checksum = UNICODE_HEAD.unpack_from(field)
    if version != 1 or checksum != zlib.crc32(entry.name):
        return None
    return field[UNICODE_HEAD.size :]


def refusal(name: bytes, why: str) -> ArchiveError:
    """Return the error that refuses the member called *name*."""
    return ArchiveError(f"member {name.decode(errors='backslashreplace')!r} is refused: {why}")
