"""Writes vectors.json: artifacts with one fault each, their expected outcome, and why.

    python tests/decryptor/make_vectors.py

Everything but the named fault is valid: a zip fault is in an authentic token, a base64 fault
in a token whose HMAC matches once a lenient decoder has read it.
"""

from __future__ import annotations

import base64
import hmac
import json
import stat
import string
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

DATA_KEY = bytes(range(32))
ENCRYPTED_KEY = b"encrypted data key " * 9
ALPHABET = (string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_").encode()
FILE = stat.S_IFREG | 0o644


class Vector(TypedDict):
    """One artifact: *expect* is the error's class, or `opens`."""

    name: str
    expect: str
    why: str
    artifact: str


@dataclass
class Entry:
    """A zip member; None is computed, *local* replaces fields of the local header."""

    name: bytes = b"a"
    data: bytes = b"hello"
    packed: bytes | None = None
    method: int = 0
    flags: int = 0
    mode: int = FILE
    crc: int | None = None
    size: int | None = None
    packed_size: int | None = None
    offset: int | None = None
    system: int = 3  # Unix
    extra: bytes = b""
    behind: bytes = b""
    local: dict[str, int | bytes] = field(default_factory=dict)


def deflated(data: bytes) -> bytes:
    """Wrap *data* in one stored block (RFC 1951, 3.2.4): the same on every machine."""
    return b"\1" + struct.pack("<HH", len(data), ~len(data) & 0xFFFF) + data


def zipped(*entries: Entry) -> bytes:
    body, directory = bytearray(), bytearray()
    for entry in entries:
        packed = entry.data if entry.packed is None else entry.packed
        fields: dict[str, int | bytes] = {
            "flags": entry.flags,
            "method": entry.method,
            "crc": zlib.crc32(entry.data) if entry.crc is None else entry.crc,
            "packed": len(packed) if entry.packed_size is None else entry.packed_size,
            "size": len(entry.data) if entry.size is None else entry.size,
            "name": entry.name,
            "extra": entry.extra,
        }
        offset = len(body) if entry.offset is None else entry.offset
        local = fields | entry.local
        body += b"PK\3\4" + header(local) + text(local) + packed + entry.behind
        directory += (
            b"PK\1\2\24"  # made by version 2.0
            + bytes([entry.system])
            + header(fields)
            + struct.pack("<HHHII", 0, 0, 0, entry.mode << 16, offset)
            + text(fields)
        )
    sizes = (len(entries), len(entries), len(directory), len(body))
    return bytes(body + directory) + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, *sizes, 0)


def header(fields: dict[str, int | bytes]) -> bytes:
    """Build what local and central header share, except name and extra field."""
    numbers = [fields[key] for key in ("flags", "method")]
    sizes = [fields[key] for key in ("crc", "packed", "size")]
    lengths = [len(_bytes(fields[key])) for key in ("name", "extra")]
    return struct.pack("<HHHHHIIIHH", 20, *numbers, 0, 33, *sizes, *lengths)


def text(fields: dict[str, int | bytes]) -> bytes:
    """Return the name and the extra field."""
    return _bytes(fields["name"]) + _bytes(fields["extra"])


def _bytes(value: int | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value


def padded(plaintext: bytes) -> bytes:
    padding = 16 - len(plaintext) % 16
    return plaintext + bytes([padding]) * padding


def raw_token(blocks: bytes, version: int = 0x80, key: bytes = DATA_KEY) -> bytes:
    """Encrypt *blocks*, padding and all, and sign; not encoded yet."""
    iv = bytes(range(100, 116))
    encryptor = Cipher(algorithms.AES128(key[16:]), modes.CBC(iv)).encryptor()
    whole = len(blocks) // 16 * 16
    ciphertext = encryptor.update(blocks[:whole]) + blocks[whole:]
    return signed(struct.pack(">BQ", version, 1_700_000_000) + iv + ciphertext, key)


def signed(body: bytes, key: bytes = DATA_KEY) -> bytes:
    return body + hmac.digest(key[:16], body, "sha256")


def artifact(token: bytes) -> bytes:
    return struct.pack(">I", len(ENCRYPTED_KEY)) + ENCRYPTED_KEY + token


def encoded(raw: bytes) -> bytes:
    return artifact(base64.urlsafe_b64encode(raw))


GOOD_ZIP = zipped(Entry())
GOOD = raw_token(padded(GOOD_ZIP))
# Its base64 ends in padding, and has both of the alphabet's special letters.
TOKEN = base64.urlsafe_b64encode(raw_token(padded(zipped(Entry(data=bytes(256))))))


def flipped(raw: bytes, position: int) -> bytes:
    changed = bytearray(raw)
    changed[position] ^= 1
    return bytes(changed)


def header_faults() -> list[tuple[str, str, str, bytes]]:
    whole = encoded(GOOD)
    return [
        ("empty-file", "FormatError", "nothing to read", b""),
        ("length-field-cut-off", "FormatError", "two of four bytes", b"\0\0"),
        ("length-0", "FormatError", "no such data key", bytes(4) + whole[4:]),
        (
            "length-6145",
            "FormatError",
            "one over KMS's limit",
            struct.pack(">I", 6145) + bytes(6145),
        ),
        (
            "length-4-GiB",
            "FormatError",
            "refused before memory is allocated",
            b"\xff" * 4 + whole,
        ),
        ("ends-inside-the-key", "FormatError", "shorter than its header says", whole[:50]),
        (
            "length-6144-but-cut-off",
            "FormatError",
            "allowed, but not there",
            b"\0\0\x18\0" + whole[4:],
        ),
    ]


def base64_faults() -> list[tuple[str, str, str, bytes]]:
    middle = len(TOKEN) // 8 * 4
    letter = next(i for i, c in enumerate(TOKEN) if c in b"-")
    bar = next(i for i, c in enumerate(TOKEN) if c in b"_")
    # Of the last character's six bits some are unused: the next letter decodes to the same.
    letters = TOKEN.rstrip(b"=")
    last = ALPHABET[ALPHABET.index(letters[-1]) + 1]
    other = letters[:-1] + bytes([last]) + TOKEN[len(letters) :]
    faults = {
        "newline-inside": (
            TOKEN[:middle] + b"\n" + TOKEN[middle:],
            "stock decoder skips it: two files, one meaning",
        ),
        "newline-at-the-end": (
            TOKEN + b"\n",
            "an editor or echo added it: not the file that was encrypted",
        ),
        "four-foreign-characters": (
            TOKEN[:middle] + b"!!!!" + TOKEN[middle:],
            "stock decoder skips them",
        ),
        "space-for-a-character": (TOKEN[:middle] + b" " + TOKEN[middle + 1 :], "foreign character"),
        "plus-for-minus": (TOKEN[:letter] + b"+" + TOKEN[letter + 1 :], "the other alphabet"),
        "slash-for-underscore": (TOKEN[:bar] + b"/" + TOKEN[bar + 1 :], "the other alphabet"),
        "no-padding": (TOKEN.rstrip(b"="), "two files, one meaning"),
        "padding-twice": (TOKEN + b"====", "text after the end"),
        "padding-inside": (TOKEN[:middle] + b"AA==" + TOKEN[middle:], "text after the end"),
        "token-after-the-padding": (TOKEN + TOKEN, "stock decoder stops at the padding"),
        "unused-bits-set": (other, "two files, one meaning"),
        "last-character-cut-off": (TOKEN[:-1], "not a whole group of four"),
        "byte-beyond-ascii": (TOKEN[:middle] + b"\xe9" + TOKEN[middle + 1 :], "foreign character"),
    }
    return [(name, "FormatError", why, artifact(token)) for name, (token, why) in faults.items()]


def token_faults() -> list[tuple[str, str, str, bytes]]:
    wrong = "AuthenticationError"
    return [
        ("no-token", "FormatError", "the header alone", artifact(b"")),
        ("one-group", "FormatError", "too short for a version and a tag", encoded(b"\x80\0\0")),
        ("no-ciphertext", "FormatError", "PKCS7 always leaves a block", encoded(raw_token(b""))),
        (
            "half-a-block",
            "FormatError",
            "AES works on 16 bytes",
            encoded(raw_token(padded(GOOD_ZIP) + bytes(8))),
        ),
        (
            "version-0x81",
            "FormatError",
            "another format, although authentic",
            encoded(raw_token(padded(GOOD_ZIP), 0x81)),
        ),
        ("time-altered", wrong, "the HMAC covers it", encoded(flipped(GOOD, 3))),
        ("iv-altered", wrong, "the HMAC covers it", encoded(flipped(GOOD, 12))),
        ("ciphertext-altered", wrong, "the HMAC covers it", encoded(flipped(GOOD, 60))),
        ("tag-altered", wrong, "its last bit counts", encoded(flipped(GOOD, -1))),
        ("block-missing", wrong, "the HMAC covers the length", encoded(GOOD[:-48] + GOOD[-32:])),
        (
            "another-data-key",
            wrong,
            "encrypted for somebody else",
            encoded(raw_token(padded(GOOD_ZIP), key=bytes(32))),
        ),
        (
            "key-halves-swapped",
            wrong,
            "the first half signs",
            encoded(raw_token(padded(GOOD_ZIP), key=DATA_KEY[16:] + DATA_KEY[:16])),
        ),
        (
            "padding-of-0",
            "FormatError",
            "PKCS7 pads 1 to 16",
            encoded(raw_token(GOOD_ZIP + bytes(16 - len(GOOD_ZIP) % 16))),
        ),
        ("padding-of-17", "FormatError", "PKCS7 pads 1 to 16", encoded(raw_token(b"\x11" * 32))),
        (
            "padding-uneven",
            "FormatError",
            "all padding bytes are equal",
            encoded(raw_token(bytes(14) + b"\1\2")),
        ),
        (
            "only-padding",
            "ArchiveError",
            "an empty plaintext is not a zip",
            encoded(raw_token(padded(b""))),
        ),
    ]


def zip_faults() -> list[tuple[str, str, str, bytes]]:
    text = deflated(b"hello")
    big = deflated(bytes(1000))
    above = Entry(name=b"b")
    faults = {
        "no-zip": (b"hello", "authentic, but nothing to unpack"),
        "no-members": (zipped(), "some readers refuse it"),
        "zip-cut-off": (GOOD_ZIP[:-30], "the end is where its directory is"),
        "absolute-name": (zipped(Entry(name=b"/tmp/a")), "would leave the tree"),
        "climbing-name": (zipped(Entry(name=b"../a")), "would leave the tree"),
        "climbing-inside-a-name": (zipped(Entry(name=b"a/../../b")), "would leave the tree"),
        "climbing-but-inside": (zipped(Entry(name=b"a/../b")), "two names, one file"),
        "nul-in-a-name": (zipped(Entry(name=b"a\0b")), "two readers, two names"),
        "empty-name": (zipped(Entry(name=b".")), "names the root itself"),
        "name-of-5000-letters": (zipped(Entry(name=b"a/" * 2500 + b"a")), "longer than any path"),
        "symbolic-link": (
            zipped(Entry(mode=stat.S_IFLNK | 0o777, data=b"/etc/passwd")),
            "leads out",
        ),
        "device": (zipped(Entry(mode=stat.S_IFCHR | 0o600)), "not a regular file or directory"),
        "pipe": (zipped(Entry(mode=stat.S_IFIFO | 0o600)), "not a regular file or directory"),
        "socket": (zipped(Entry(mode=stat.S_IFSOCK | 0o600)), "not a regular file or directory"),
        "directory-named-as-a-file": (zipped(Entry(mode=stat.S_IFDIR | 0o755)), "one or the other"),
        "file-named-as-a-directory": (zipped(Entry(name=b"a/", data=b"")), "one or the other"),
        "directory-with-content": (
            zipped(Entry(name=b"a/", mode=0)),
            "content that no reader shows",
        ),
        "same-name-twice": (zipped(Entry(), Entry()), "two readers, two contents"),
        "same-name-after-a-dot": (zipped(Entry(), Entry(name=b"./a")), "one file after all"),
        "same-name-after-slashes": (
            zipped(Entry(name=b"a/b"), Entry(name=b"a//b")),
            "one file after all",
        ),
        "file-and-directory": (
            zipped(Entry(), Entry(name=b"a/", data=b"", mode=0)),
            "one or the other",
        ),
        "file-below-a-file": (zipped(Entry(), Entry(name=b"a/b")), "one or the other"),
        "file-deep-below-a-file": (
            zipped(Entry(name=b"a/b/c/d"), Entry(name=b"a/b")),
            "one or the other",
        ),
        "encrypted-member": (zipped(Entry(flags=1)), "no password here"),
        "patch-member": (zipped(Entry(flags=0x20)), "compressed patched data"),
        "strongly-encrypted-member": (zipped(Entry(flags=0x40)), "no password here"),
        "bzip2-member": (zipped(Entry(method=12)), "stored and deflated are the format"),
        "unknown-method": (zipped(Entry(method=99)), "stored and deflated are the format"),
        "more-than-declared": (
            zipped(Entry(method=8, packed=big, data=bytes(1000), size=500)),
            "a bomb",
        ),
        "less-than-declared": (zipped(Entry(method=8, packed=text, size=6)), "cut off unseen"),
        "stored-sizes-differ": (zipped(Entry(size=4)), "stored means the same"),
        "wrong-checksum": (zipped(Entry(crc=1)), "altered before it was encrypted"),
        "deflate-broken": (zipped(Entry(method=8, packed=b"\xff" * 9)), "not a deflate stream"),
        "deflate-cut-off": (
            zipped(Entry(method=8, packed=text[:-1])),
            "the stream has an end mark",
        ),
        "deflate-with-a-tail": (
            zipped(Entry(method=8, packed=text + b"tail")),
            "content that no reader shows",
        ),
        "deflate-of-nothing": (
            zipped(Entry(method=8, packed=b"", data=b"")),
            "the stream has an end mark",
        ),
        "local-name-differs": (zipped(Entry(local={"name": b"b"})), "two readers, two names"),
        "local-method-differs": (zipped(Entry(local={"method": 8})), "two readers, two contents"),
        "member-inside-another": (
            zipped(Entry(data=zipped(above)), Entry(name=b"b", offset=31)),
            "a quine or a bomb",
        ),
        "two-names-one-content": (
            zipped(above, Entry(name=b"a", offset=0, local={"name": b"b"})),
            "a bomb",
        ),
        "content-beyond-the-members": (
            zipped(Entry(packed_size=500, size=500)),
            "reads the directory",
        ),
        "member-outside": (zipped(Entry(offset=1 << 20)), "no bytes there"),
        "one-good-one-bad": (zipped(above, Entry(crc=1)), "a tree appears whole or not at all"),
    }
    return [
        (name, "ArchiveError", why, encoded(raw_token(padded(content))))
        for name, (content, why) in faults.items()
    ]


def harmless() -> list[tuple[str, str, str, bytes]]:
    text = deflated(b"hello")
    contents = {
        "stored": (GOOD_ZIP, "the smallest artifact"),
        "deflated": (zipped(Entry(method=8, packed=text)), "the usual method"),
        "name-from-a-dot": (zipped(Entry(name=b"./a")), "what `zip -r x .` may write"),
        "directory-entries": (
            zipped(Entry(name=b"./", data=b"", mode=0), Entry(name=b"d/", data=b"", mode=0)),
            "the root may be named",
        ),
        "no-unix-mode": (zipped(Entry(mode=0)), "zipped on another system"),
        "setuid-bit": (zipped(Entry(mode=FILE | 0o6755)), "kept as executable, without the bit"),
        "empty-deflated": (
            zipped(Entry(method=8, data=b"", packed=deflated(b""))),
            "two bytes for none",
        ),
        "letters-that-fold": (
            zipped(Entry(name=b"A"), Entry(name=b"a")),
            "two names on a case-sensitive file system",
        ),
    }
    return [
        (name, "opens", why, encoded(raw_token(padded(content))))
        for name, (content, why) in contents.items()
    ]


def vectors() -> list[Vector]:
    rows = [*header_faults(), *base64_faults(), *token_faults(), *zip_faults(), *harmless()]
    return [
        {"name": name, "expect": expect, "why": why, "artifact": base64.b64encode(content).decode()}
        for name, expect, why, content in rows
    ]


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(vector) for vector in vectors())
    Path(__file__).with_name("vectors.json").write_text(f"[\n{lines}\n]\n")
