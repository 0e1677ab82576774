"""One artifact, one tree: how common zip readers read an archive, compared with ours.

If they agree, our tree is theirs. If they do not, the archive is refused.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.decryptor.make_vectors import Entry, deflated, zipped
from tests.support.enclave import Enclave, one_error
from tests.support.machine import program

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMANDS = {
    "unzip": ["unzip", "-qq", "-o"],
    "bsdtar": ["bsdtar", "-xf"],
    "bsdtar, as a stream": ["sh", "-c", 'bsdtar -xf - <"$1"', "sh"],
}
CAFE = "café.py".encode()
NEITHER = b"caf\x82.py"  # é in the code page of DOS
UTF8 = 0x0800
FOLLOW = 8  # flag: a data descriptor follows
HELLO = b"hello"
NUMBERS = struct.pack("<III", zlib.crc32(HELLO), 5, 5)


def unicode_path(name: bytes, new: bytes, *, right: bool = True) -> bytes:
    checksum = zlib.crc32(name) ^ (not right)
    value = struct.pack("<BI", 1, checksum) + new
    return struct.pack("<HH", 0x7075, len(value)) + value


def renamed(name: bytes, new: bytes, *, right: bool = True) -> Entry:
    return Entry(name=name, extra=unicode_path(name, new, right=right))


def followed(mark: bytes, *, known: bool = False) -> Entry:
    """A deflated member whose local header leaves its sizes to a data descriptor."""
    packed = deflated(HELLO)
    sizes = struct.pack("<III", zlib.crc32(HELLO), len(packed), 5)
    local: dict[str, int | bytes] = {} if known else {"crc": 0, "packed": 0, "size": 0}
    return Entry(method=8, packed=packed, flags=FOLLOW, behind=mark + sizes, local=local)


def commented(comment: bytes) -> bytes:
    return zipped(Entry())[:-2] + struct.pack("<H", len(comment)) + comment


def without_order() -> bytes:
    """Return a zip whose directory lists its members backwards."""
    content = zipped(Entry(), Entry(name=b"b"))
    at = content.index(b"PK\1\2")
    first, second = content[at : at + 47], content[at + 47 : at + 94]
    return content[:at] + second + first + content[at + 94 :]


def read_by(command: list[str], archive: Path, into: Path) -> dict[str, bytes] | None:
    """Return what a reader extracts from *archive*; None if it refuses."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    result = subprocess.run(
        [*command, str(archive)], cwd=into, env=environment, capture_output=True, check=False
    )
    return None if result.returncode else tree(into)


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


class Java:
    """A virtual machine that reads archives with Java's two classes for that."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Send requests to *process*, a running `ReadZips`."""
        self._process = process

    def read(self, how: str, archive: Path, into: Path) -> dict[str, bytes] | None:
        """Return what is extracted from *archive*, as a file or as a stream; None if nothing is."""
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir()
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{how}\t{archive}\t{into}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer in ("read\n", "refused\n")
        return tree(into) if answer == "read\n" else None


@pytest.fixture(scope="module")
def java() -> Iterator[Java | None]:
    """Start Java once, if it is there, with the compiler that `jar` comes with."""
    if not shutil.which("jar"):
        yield None
        return
    light = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8")
    with subprocess.Popen(
        ["java", *light, Path(__file__).with_name("ReadZips.java")],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Java(process)
        assert process.stdin
        process.stdin.close()


def readings(content: bytes, work: Path, java: Java | None) -> dict[str, dict[str, bytes] | None]:
    """Return what each reader extracts from *content*; Java is optional."""
    archive = work / "archive.zip"
    archive.write_bytes(content)
    for name in ("unzip", "bsdtar"):
        program(name, "libarchive-tools" if name == "bsdtar" else name)
    found = {name: read_by(command, archive, work / "reader") for name, command in COMMANDS.items()}
    if java:
        found["jar"] = java.read("file", archive, work / "reader")
        found["jar, as a stream"] = java.read("stream", archive, work / "reader")
    try:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(work / "zipfile")
        found["zipfile"] = tree(work / "zipfile")
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        found["zipfile"] = None
    return found


@pytest.fixture
def work(enclave: Enclave) -> Path:
    path = enclave.home / "bin/work"
    path.mkdir()
    return path


STREAMS = {"bsdtar, as a stream", "jar, as a stream"}
CP437 = {"zipfile"}  # for names without the flag
WITHOUT_7075 = {"zipfile", "jar", "jar, as a stream"}


@pytest.mark.parametrize(
    ("content", "expected", "others"),
    [
        pytest.param(zipped(Entry()), {"a"}, set(), id="plain"),
        pytest.param(zipped(Entry(name=b"d/", data=b"", mode=0), Entry()), {"a"}, set(), id="dir"),
        pytest.param(zipped(Entry(name=CAFE, flags=UTF8)), {"café.py"}, set(), id="utf-8-flag"),
        pytest.param(zipped(Entry(name=CAFE)), {"café.py"}, CP437, id="utf-8-without-the-flag"),
        pytest.param(zipped(Entry(name=CAFE, system=19)), {"café.py"}, CP437, id="utf-8-by-macos"),
        pytest.param(
            zipped(renamed(b"caf#U00e9.py", CAFE)), {"café.py"}, WITHOUT_7075, id="unicode-path"
        ),
        pytest.param(
            zipped(renamed(NEITHER, CAFE)), {"café.py"}, WITHOUT_7075, id="unicode-path-of-cp437"
        ),
        pytest.param(
            zipped(renamed(b"b.py", CAFE, right=False)), {"b.py"}, set(), id="unicode-path-stale"
        ),
        pytest.param(commented(b"a comment"), {"a"}, set(), id="comment"),
        pytest.param(zipped(followed(b"PK\7\10")), {"a"}, set(), id="sizes-follow"),
        pytest.param(zipped(followed(b"")), {"a"}, set(), id="sizes-follow-unmarked"),
        pytest.param(zipped(Entry(name=b"x/y")), {"x/y"}, set(), id="folder-without-an-entry"),
        pytest.param(zipped(Entry(name=b"./a")), {"a"}, set(), id="dot-in-front"),
        pytest.param(without_order(), {"a", "b"}, set(), id="directory-in-another-order"),
    ],
)
def test_decrypted_tree_matches_other_zip_readers(  # noqa: PLR0913, PLR0917 - a table, and fixtures
    content: bytes,
    expected: set[str],
    others: set[str],
    enclave: Enclave,
    work: Path,
    java: Java | None,
) -> None:
    result = enclave.decrypt(enclave.artifact(content))
    assert (result.returncode, result.stderr) == (0, "")
    ours = tree(enclave.home / "tree")
    assert set(ours) == expected
    read = readings(content, work, java)
    assert {name for name, theirs in read.items() if theirs != ours} <= others


def moved(entry: Entry, before: bytes) -> bytes:
    """A zip after other bytes, whose offsets count from their start."""
    content = zipped(entry)
    at = content.index(b"PK\1\2")
    central = content[at:-22]
    central = central[:42] + struct.pack("<I", len(before)) + central[46:]
    end = content[-22:-6] + struct.pack("<IH", at + len(before), 0)
    return before + content[:at] + central + end


HIDDEN = zipped(Entry(name=b"hidden"))[:36]  # a local header and its five bytes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(zipped(Entry(name=CAFE, system=0)), "encoding", id="utf-8-on-fat"),
        pytest.param(zipped(Entry(name=NEITHER)), "not UTF-8", id="cp437"),
        pytest.param(zipped(Entry(name=NEITHER, system=0)), "encoding", id="cp437-on-fat"),
        pytest.param(zipped(Entry(name=NEITHER, flags=UTF8)), "not UTF-8", id="flag-without-utf-8"),
        pytest.param(
            zipped(Entry(name=CAFE, flags=UTF8, local={"flags": 0})),
            "local header contradicts",
            id="flags-differ",
        ),
        pytest.param(zipped(Entry(name=b"a\\b")), "backslash", id="backslash"),
        pytest.param(zipped(Entry(name=b"a\\b", system=0)), "backslash", id="backslash-on-fat"),
        pytest.param(
            zipped(Entry()) + zipped(Entry(name=b"b")),
            "before its first member",
            id="zip-behind-a-zip",
        ),
        pytest.param(
            moved(Entry(), zipped(Entry(name=b"b"))),
            "does not begin",
            id="zip-behind-adjusted",
        ),
        pytest.param(
            b"#!/bin/sh\n" + zipped(Entry()), "before its first member", id="script-before"
        ),
        pytest.param(moved(Entry(), b"#!/bin/sh\n"), "does not begin", id="script-before-adjusted"),
        pytest.param(
            commented(zipped(Entry(name=b"b"))),
            "before its first member",
            id="a-zip-as-the-comment",
        ),
        pytest.param(zipped(), "no members", id="no-members"),
        pytest.param(
            zipped(Entry(behind=HIDDEN)),
            "central directory does not list",
            id="member-only-in-the-stream",
        ),
        pytest.param(
            zipped(Entry(name=b"d/", data=b"", mode=0, behind=HIDDEN)),
            "central directory does not list",
            id="member-behind-a-directory",
        ),
        pytest.param(
            zipped(Entry(name=b"a", flags=UTF8, extra=unicode_path(b"a", b"other"))),
            "Unicode path differ",
            id="utf-8-flag-and-another-path",
        ),
        pytest.param(
            zipped(Entry(extra=unicode_path(b"a", b"../a"))), "'..' in", id="unicode-path-climbs"
        ),
        pytest.param(
            zipped(Entry(local={"extra": unicode_path(b"a", b"b")})),
            "local header contradicts",
            id="unicode-path-only-local",
        ),
        pytest.param(zipped(Entry(local={"size": 4})), "contradicts", id="local-size-differs"),
        pytest.param(zipped(Entry(local={"packed": 4})), "contradicts", id="local-packed-differs"),
        pytest.param(zipped(Entry(local={"crc": 1})), "contradicts", id="local-checksum-differs"),
    ],
)
def test_archive_that_zip_readers_read_differently_is_refused(
    content: bytes, message: str, enclave: Enclave, work: Path, java: Java | None
) -> None:
    assert message in one_error(enclave.decrypt(enclave.artifact(content)))
    read = list(readings(content, work, java).values())
    assert any(theirs != read[0] for theirs in read), read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(zipped(Entry()) + b"tail", "end record", id="bytes-behind"),
        pytest.param(zipped(Entry(name=b"a/.")), "'/.' at the end", id="dot-at-the-end"),
        pytest.param(zipped(Entry(name=b"n" * 256)), "too long", id="component-of-256"),
        pytest.param(zipped(Entry(extra=b"up")), "cut off", id="extra-field-cut-off"),
        pytest.param(
            zipped(Entry(extra=2 * unicode_path(b"a", b"b"))),
            "is a duplicate",
            id="unicode-path-twice",
        ),
        pytest.param(zipped(Entry(size=0xFFFFFFFF)), "zip64", id="zip64-size-missing"),
        pytest.param(zipped(Entry())[:-14] + b"\2\0" * 2 + zipped(Entry())[-10:], "", id="count+1"),
        pytest.param(
            zipped(Entry(behind=NUMBERS)),
            "central directory does not list",
            id="descriptor-without-flag",
        ),
        pytest.param(
            zipped(Entry(flags=FOLLOW, behind=b"PK\7\10" + b"\1" + NUMBERS[1:])),
            "central directory does not list",
            id="descriptor-differs",
        ),
        pytest.param(
            zipped(Entry(flags=FOLLOW, behind=2 * NUMBERS)),
            "central directory does not list",
            id="descriptor-twice",
        ),
    ],
)
def test_damaged_or_noncanonical_archive_is_refused(
    content: bytes, message: str, enclave: Enclave
) -> None:
    assert message in one_error(enclave.decrypt(enclave.artifact(content)))


def test_zip64_written_by_python_is_decrypted(enclave: Enclave) -> None:
    """Its end record and its sizes, known at first or later."""
    archive = enclave.home / "bin/a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, force in (("known", True), ("later", False)):
            with file.open(name, "w", force_zip64=force) as member:
                member.write(b"x" * 100)
        for number in range(65540):
            file.writestr(str(number), b"")
    result = enclave.decrypt(enclave.artifact(archive.read_bytes()))
    assert (result.returncode, result.stderr) == (0, "")
    assert (enclave.home / "tree/known").read_bytes() == b"x" * 100
    assert (enclave.home / "tree/later").read_bytes() == b"x" * 100
    assert len(os.listdir(enclave.home / "tree")) == 65542  # noqa: PTH208


def test_end_record_may_contain_its_own_signature(enclave: Enclave) -> None:
    """19,280 members, and the size of their directory, are the letters PK and the numbers 5 6."""
    count = 0x4B50
    more = (0x0605 - count * (46 + 5)) % 0x10000  # characters of names, besides five for each
    names = [b"%05d" % n + b"x" * max(0, min(200, more - 200 * n)) for n in range(count)]
    content = zipped(*(Entry(name=name, data=b"") for name in names))
    assert b"PK\5\6" in content[-18:]
    result = enclave.decrypt(enclave.artifact(content))
    assert (result.returncode, result.stderr) == (0, "")
    assert {each.name for each in (enclave.home / "tree").iterdir()} == {*map(os.fsdecode, names)}
