"""Randomly mutated headers and tars, in this process: refused in one line, and nothing escapes."""

from __future__ import annotations

import collections
import io
import os
import tarfile
from random import Random
from typing import TYPE_CHECKING

from enclave import folders, protocol
from enclave.protocol import Request, Size
from tests.support.enclave import CREDENTIALS
from tests.support.mutations import mutated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEED = os.environ.get("FUZZ_SEED", "1")
TARS, HEADERS = 500, 10_000
ALLOWED = Size(1 << 20, 50)
CHECKSUM = slice(148, 156)  # of a block


def tar(**members: bytes | None) -> bytes:
    """Return a tar; None means a directory, and an underscore in a name means a slash."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("_", "/"))
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))
    return stream.getvalue()


def summed(content: bytes) -> bytes:
    """Return *content* with correct checksums, so that later checks are reached."""
    blocks = bytearray(content)
    for start in range(0, len(blocks) - tarfile.BLOCKSIZE + 1, tarfile.BLOCKSIZE):
        block = blocks[start : start + tarfile.BLOCKSIZE]
        if any(block):
            block[CHECKSUM] = b" " * 8
            block[CHECKSUM] = b"%06o\0 " % sum(block)
            blocks[start : start + tarfile.BLOCKSIZE] = block
    return bytes(blocks)


def pieces(content: bytes, size: int) -> Iterator[bytes]:
    yield from (content[start : start + size] for start in range(0, len(content), size))


def test_mutated_tar_stays_in_its_directory(tmp_path: Path) -> None:
    corpus = [tar(a=b"hello"), tar(d=None, d_e=b"x" * 600, d_f=b""), tar(**{"n" * 300: b"1"})]
    dice = Random(f"tars {SEED}")  # noqa: S311 - nothing here is secret
    outcomes: collections.Counter[str] = collections.Counter()
    said: list[str] = []
    for number in range(TARS):
        content = mutated(dice.choice(corpus), corpus, dice)
        content = summed(content) if dice.random() < 0.8 else content
        folder = tmp_path / "tree"
        folder.mkdir()
        try:
            folders.unpack(pieces(content, dice.randint(1, 2000)), folder, ALLOWED, read_only=True)
            outcomes["unpacked"] += 1
        except folders.FolderError as error:
            outcomes["refused"] += 1
            said.append(str(error))
        except OSError as error:  # a name is too long
            outcomes[str(error.strerror)] += 1
        assert [path.name for path in tmp_path.iterdir()] == ["tree"], number
        folders.remove(folder)
    assert outcomes.keys() == {"unpacked", "refused", "File name too long"}
    assert all(map(str.isprintable, said))


def test_mutated_header_is_refused_or_valid() -> None:
    valid = Request("start", ("a",), CREDENTIALS, 5, Size(1, 2), results=True).encoded()[4:]
    corpus = [valid, b'{"version": 1e999, "script": "\\ud800", "input": [NaN, -0]}']
    dice = Random(f"headers {SEED}")  # noqa: S311 - nothing here is secret
    said: list[str] = []
    for _ in range(HEADERS):
        try:
            request = Request.parse(mutated(valid, corpus, dice))
        except protocol.ProtocolError as error:
            said.append(str(error))
        else:
            assert Request.parse(request.encoded()[4:]) == request
    assert 0 < len(said) < HEADERS
    assert all(map(str.isprintable, said))
