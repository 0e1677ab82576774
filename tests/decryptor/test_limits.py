"""Limits: one below, at, and one above; and refusals that cost little memory."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.decryptor.make_vectors import Entry, zipped
from tests.decryptor.test_decrypt import MEASURED
from tests.support.enclave import PIN, Enclave, one_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT = 100


@pytest.fixture(autouse=True)
def _removed(enclave: Enclave) -> Iterator[None]:
    """Remove trees that are too deep for pytest's cleanup."""
    yield
    subprocess.run(["rm", "-rf", enclave.home / "tree"], check=True)


def files(number: int) -> bytes:
    return zipped(*[Entry(name=b"%d" % n, data=b"x") for n in range(number)])


def explicit_directories(number: int) -> bytes:
    return zipped(*[Entry(name=b"%d/" % n, data=b"", mode=0) for n in range(number)])


def implicit_directories(number: int) -> bytes:
    """Two members with one chain of directories each, which share the first."""
    deep = number - number // 2
    chains = (b"d/" + b"a/" * (deep - 1) + b"f", b"d/" + b"b/" * (number - deep) + b"f")
    return zipped(*[Entry(name=chain) for chain in chains])


def bytes_of_directory(number: int) -> bytes:
    """A zip with one member, whose directory entry has *number* bytes."""
    name = b"n" * 200 + b"/" + b"m"
    entry = 46 + len(name)
    rest = number - entry
    return zipped(
        Entry(name=name, extra=b"xx" + (rest - 4).to_bytes(2, "little") + bytes(rest - 4))
    )


@pytest.mark.parametrize("above", [-1, 0, 1])
@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        pytest.param(files, "--max-members", "101 members, but --max-members is 100", id="members"),
        pytest.param(
            explicit_directories,
            "--max-members",
            "101 members, but --max-members is",
            id="directories",
        ),
        pytest.param(
            implicit_directories,
            "--max-members",
            "101 directories or more, but --max-members is 100",
            id="directories-that-have-no-entry",
        ),
        pytest.param(
            files, "--max-bytes", "101 bytes or more uncompressed, but --max-bytes", id="bytes"
        ),
    ],
)
def test_each_limit_is_exact(
    content: Callable[[int], bytes],
    options: str,
    message: str,
    above: int,
    enclave: Enclave,
) -> None:
    artifact = enclave.artifact(content(LIMIT + above))
    result = enclave.decrypt(artifact, options, str(LIMIT))
    if above > 0:
        assert message in one_error(result)
        assert enclave.left_behind() == set()
    else:
        assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("above", [-1, 0, 1])
def test_zip_directory_may_have_one_kibibyte_per_member(above: int, enclave: Enclave) -> None:
    result = enclave.decrypt(
        enclave.artifact(bytes_of_directory(1024 + above)), "--max-members", "1"
    )
    if above > 0:
        assert (
            "the zip's central directory has 1025 bytes, too many for --max-members"
            in one_error(result)
        )
    else:
        assert result.returncode == 0


@pytest.mark.parametrize("above", [-1, 0, 1])
def test_paths_may_be_as_long_as_linux_allows(above: int, enclave: Enclave) -> None:
    letters = 4095 + above
    result = enclave.decrypt(enclave.artifact(zipped(Entry(name=b"d/" * (letters // 2) + b"f"))))
    if letters // 2 * 2 + 1 > 4095:
        assert "name too long" in one_error(result)
    else:
        assert (result.returncode, result.stderr) == (0, "")


def measured(enclave: Enclave, content: bytes, *words: str) -> tuple[str, int]:
    """Decrypt *content*; return the error, and the peak memory in KiB."""
    artifact = enclave.artifact(content)
    _, *command = enclave.command("decrypt", artifact, "-d", str(enclave.home / "tree"), *PIN)
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, *command, *words],
        env=enclave.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stderr, int(result.stdout.split()[1])


CHAINS = [b"%d/" % n + b"d/" * 1998 + b"f" for n in range(1000)]


def test_directories_without_entries_are_refused_before_they_cost_memory(enclave: Enclave) -> None:
    """Each of 1,000 members needs 2,000 directories, whose paths have four million letters."""
    content = zipped(*[Entry(name=chain, data=b"") for chain in CHAINS])
    error, memory = measured(enclave, content, "--max-members", "50000")
    assert "50001 directories or more, but --max-members is 50000" in error
    assert memory < 96 << 10
    assert enclave.left_behind() == set()


def test_allowed_number_of_directories_is_created_in_little_memory(enclave: Enclave) -> None:
    content = zipped(*[Entry(name=chain, data=b"") for chain in CHAINS[:2]])
    error, memory = measured(enclave, content)
    assert error == ""
    assert memory < 96 << 10
    find = ["find", str(enclave.home / "tree"), "-mindepth", "1", "-type", "d", "-printf", "."]
    assert len(subprocess.run(find, capture_output=True, check=True).stdout) == 3998


def test_a_count_that_is_too_large_is_refused_before_any_entry_is_read(enclave: Enclave) -> None:
    content = bytearray(zipped(Entry()))
    content[-14:-10] = b"\xf0\xff\xf0\xff"
    error = one_error(enclave.decrypt(enclave.artifact(bytes(content)), "--max-members", "9"))
    assert "65520 members, but --max-members is 9" in error
