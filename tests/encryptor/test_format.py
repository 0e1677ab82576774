from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import time
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest
from stream_unzip import stream_unzip

from tests.encryptor.bench import CHUNK, KEY, write
from tests.support.kms import KEY_ARN, WRAPPED_SIZE
from tests.support.machine import program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.encryptor.bench import Bench

WITHOUT_ACCELERATORS = "raise ImportError\n"


def test_artifact_is_key_length_encrypted_key_and_canonical_token(bench: Bench) -> None:
    write(bench.directory, {"print-hello.py": b"print('hello')\n"})
    before = int(time.time())
    result = bench.encrypt()
    after = int(time.time())
    assert (result.returncode, result.stdout, result.stderr) == (0, KEY_ARN + "\n", "")
    artifact = bench.artifact.read_bytes()
    assert int.from_bytes(artifact[:4], "big") == WRAPPED_SIZE
    assert artifact[4 : 4 + WRAPPED_SIZE] in bench.kms.keys
    text = artifact[4 + WRAPPED_SIZE :]
    assert re.fullmatch(rb"[A-Za-z0-9_-]+={0,2}", text)
    token = base64.urlsafe_b64decode(text)
    assert base64.urlsafe_b64encode(token) == text
    assert token[0] == 0x80
    assert before <= int.from_bytes(token[1:9], "big") <= after
    assert (len(token) - 1 - 8 - 16 - 32) % 16 == 0


def test_one_aes_256_data_key_is_requested_without_encryption_context(bench: Bench) -> None:
    write(bench.directory, {"a": b""})
    bench.encrypted()
    asked = {"KeyId": KEY, "KeySpec": "AES_256"}
    assert bench.kms.requests == [("TrentService.GenerateDataKey", asked)]


def test_default_output_is_in_the_working_directory(bench: Bench) -> None:
    write(bench.directory, {"a": b""})
    place = bench.artifact.parent
    result = subprocess.run(
        bench.command()[:-2], env=bench.kms.environment, cwd=place, capture_output=True, check=False
    )
    assert result.returncode == 0
    assert bench.leftovers() == ["application_code.zip.encrypted"]


def test_existing_artifact_is_replaced_and_each_has_its_own_data_key(bench: Bench) -> None:
    write(bench.directory, {"a": b"same"})
    first = bench.encrypted()
    artifact = bench.artifact.read_bytes()
    assert bench.encrypted() == first
    assert bench.artifact.read_bytes()[:300] != artifact[:300]
    assert len(bench.kms.keys) == 2


@pytest.mark.parametrize("kind", ["random", "text"])
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(0, id="empty"),
        pytest.param(1, id="one-byte"),
        pytest.param(CHUNK - 1, id="one-short-of-a-chunk"),
        pytest.param(CHUNK, id="exactly-a-chunk"),
        pytest.param(CHUNK + 1, id="one-over"),
        pytest.param(3 * CHUNK, id="three-chunks"),
        pytest.param(3 * CHUNK + 12345, id="chunks-and-a-rest"),
    ],
)
def test_files_of_every_size_round_trip(bench: Bench, size: int, kind: str) -> None:
    content = os.urandom(size) if kind == "random" else (b"All work and no play. " * size)[:size]
    write(bench.directory, {"file": content})
    assert bench.contents() == {"file": content}


@pytest.mark.parametrize("rest", range(16))
def test_every_length_of_padding_round_trips(bench: Bench, rest: int) -> None:
    write(bench.directory, {"n" * (rest + 1): b""})
    assert bench.contents() == {"n" * (rest + 1): b""}


def test_only_compressible_files_are_deflated(bench: Bench) -> None:
    write(
        bench.directory,
        {
            "large/random": os.urandom(CHUNK + 1),
            "large/text": b"text " * CHUNK,
            "small/random": os.urandom(100_000),
            "small/text": b"text " * 20_000,
            "tiny/random": os.urandom(100),
        },
    )
    with zipfile.ZipFile(io.BytesIO(bench.encrypted())) as archive:
        stored = {i.filename for i in archive.infolist() if i.compress_type == zipfile.ZIP_STORED}
        random = archive.getinfo("large/random")
    directories = {"large/", "small/", "tiny/"}
    assert stored == directories | {"small/random", "tiny/random"}
    assert random.compress_type == zipfile.ZIP_DEFLATED, "stored by deflate, for readers of streams"
    assert random.file_size < random.compress_size < random.file_size + 200


def test_middle_of_a_file_is_sampled_for_compressibility(bench: Bench) -> None:
    weights = b"a header of text, long " * 5000 + os.urandom(4 * CHUNK)
    write(bench.directory, {"weights": weights})
    with zipfile.ZipFile(io.BytesIO(bench.encrypted())) as archive:
        weights_in_zip = archive.getinfo("weights")
    assert weights_in_zip.compress_size > weights_in_zip.file_size, "stored"


def test_zip_order_and_headers_depend_on_the_directory_alone(bench: Bench, tmp_path: Path) -> None:
    names = ["a/b", "a.txt", "a-", "B", "\u00e9", "z/", "a/\U0001f511", "a/\uffee", "\u0065\u0301"]
    names.sort(key=lambda name: zlib.crc32(name.encode()))
    tree = {name: name.encode() * 300 for name in names} | {"large": b"1 and 2" * CHUNK}
    write(bench.directory, tree)
    for path in [bench.directory, *bench.directory.rglob("*")]:
        os.utime(path, (0, 1_700_000_000))
    first = bench.encrypted()
    bench.directory.rename(tmp_path / "first")
    bench.directory.mkdir()
    write(bench.directory, dict(reversed(tree.items())))
    for path in [bench.directory, *bench.directory.rglob("*")]:
        os.utime(path, (0, 1_700_000_000))
    assert members(bench.encrypted(TZ="Asia/Tokyo", LC_ALL="C")) == members(first)
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        found = [name.encode() for name in archive.namelist()]
    assert found == sorted(found)
    assert len(found) == len(tree) + 1


def members(content: bytes) -> list[tuple[object, ...]]:
    """Return each member's fields, except the compression, which varies with isal."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [
            (i.filename, i.date_time, i.external_attr, i.CRC, i.file_size)
            for i in archive.infolist()
        ]


def test_contents_are_the_same_without_isal_and_pybase64(bench: Bench, tmp_path: Path) -> None:
    tree = {"text": b"abc" * CHUNK, "random": os.urandom(2 * CHUNK + 7), "small": b"abc" * 99}
    write(bench.directory, tree)
    for name in ("isal", "pybase64"):
        (tmp_path / f"{name}.py").write_text(WITHOUT_ACCELERATORS)
    assert bench.contents(PYTHONPATH=str(tmp_path)) == tree


def test_file_over_4_gib_is_written_with_zip64(bench: Bench, tmp_path: Path) -> None:
    size = (4 << 30) + 5
    with (bench.directory / "sparse").open("wb") as file:
        file.truncate(size)
    write(bench.directory, {"after": b"it"})
    content = bench.encrypted()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.getinfo("sparse").file_size == size
        assert archive.read("after") == b"it"
    (tmp_path / "zip").write_bytes(content)
    assert "sparse" in unzip("-l", str(tmp_path / "zip"))


def test_unzip_restores_the_tree(bench: Bench, tmp_path: Path) -> None:
    tree = {"bin/run": b"#!/bin/sh\n", "weights": os.urandom(CHUNK + 1), "text": b"t" * 3 * CHUNK}
    write(bench.directory, tree | {"empty/": b""})
    (bench.directory / "bin/run").chmod(0o755)
    (tmp_path / "zip").write_bytes(bench.encrypted())
    unzip("-tqq", str(tmp_path / "zip"))
    unzip("-q", str(tmp_path / "zip"), "-d", str(tmp_path / "tree"))
    for name, content in tree.items():
        assert (tmp_path / "tree" / name).read_bytes() == content
    assert os.access(tmp_path / "tree/bin/run", os.X_OK)
    assert not os.access(tmp_path / "tree/text", os.X_OK)
    assert (tmp_path / "tree/empty").is_dir()


def test_streaming_zip_reader_reads_every_kind_of_member(bench: Bench) -> None:
    tree = {
        "empty": b"",
        "small/random": os.urandom(1000),
        "small/text": b"text" * 1000,
        "large/random": os.urandom(3 * CHUNK + 1),
        "large/text": b"text" * CHUNK,
    }
    write(bench.directory, tree)
    members = stream_unzip([bench.encrypted()])
    assert {
        name.decode(): b"".join(chunks) for name, _, chunks in members if not name.endswith(b"/")
    } == tree


def test_zip64_is_used_only_where_needed(bench: Bench) -> None:
    write(bench.directory, {"large": os.urandom(CHUNK + 1), "small": b"text"})
    with zipfile.ZipFile(io.BytesIO(bench.encrypted())) as archive:
        assert [info.extra for info in archive.infolist()] == [b"", b""]
    assert b"PK\x06\x06" not in bench.decrypted()[-100:]


def unzip(*arguments: str) -> str:
    """Return what Info-ZIP's unzip prints; it must succeed."""
    result = subprocess.run(
        [program("unzip"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"LC_ALL": "C.UTF-8"},
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout
