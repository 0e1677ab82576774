from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

from tests.encryptor.bench import CHUNK
from tests.encryptor.test_faults import incompressible
from tests.support.paths import PROJECT

if TYPE_CHECKING:
    from tests.encryptor.bench import Bench

PEAK = 96 << 20
PER_MEMBER = 1 << 10


def peak(bench: Bench) -> int:
    """Return the encryptor's peak memory, measured from a smaller process."""
    command = [sys.executable, "-m", "benchmarks.measure", *bench.command()]
    result = subprocess.run(
        command, cwd=PROJECT, env=bench.kms.environment, capture_output=True, check=True
    )
    return int(json.loads(result.stdout)["peak_bytes"])


def test_memory_does_not_grow_with_a_stored_file(bench: Bench) -> None:
    incompressible(bench.directory / "file", 512)
    assert peak(bench) <= PEAK


def test_memory_does_not_grow_with_a_deflated_file(bench: Bench) -> None:
    with (bench.directory / "file").open("wb") as file:
        file.truncate(512 << 20)
    assert peak(bench) <= PEAK


def test_memory_does_not_grow_with_files_of_one_chunk(bench: Bench) -> None:
    for number in range(300):
        incompressible(bench.directory / str(number), 1)
    assert (bench.directory / "0").stat().st_size == CHUNK
    assert peak(bench) <= PEAK


def test_more_than_65535_members_cost_one_kibibyte_each(bench: Bench) -> None:
    folders, files = 66, 1000
    for folder in range(folders):
        path = bench.directory / f"{folder}"
        path.mkdir()
        (path / "file").write_bytes(b"text")
        for number in range(1, files):
            os.link(f"{path}/file", f"{path}/{number:060}")  # pathlib takes longer than the rest
    members = folders * (1 + files)
    assert peak(bench) <= PEAK + members * PER_MEMBER
    content = bench.decrypted()
    assert b"PK\x06\x06" in content[-200:], "zip64's own end record"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert len(archive.namelist()) == members
        assert archive.read(f"65/{999:060}") == b"text"
