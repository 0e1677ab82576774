"""Decrypting an artifact into a directory: all or nothing, within limits, in little memory."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import os
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest

from tests.decryptor import make_vectors
from tests.support.enclave import PIN, Enclave, encrypted, one_error, zipped
from tests.support.machine import lacking
from tests.support.paths import ENVELOPE_DECRYPTOR
from tests.support.processes import PATIENCE, children, ended, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILES: dict[str, bytes | str] = {
    "print-hello.py": "print('hello')",
    ".hidden/empty": b"",
    "über/ß/文": "unicode",
    "same/e\u0301": "decomposed",
    "same/\u00e9": "composed",
    "with space/a\tb": b"\0\xff" * 700_000,
    "random": os.urandom(3_000_000),
}

ZIPPED = zipped(FILES)
TOTAL = sum(len(c.encode() if isinstance(c, str) else c) for c in FILES.values())


def test_artifact_made_with_standard_libraries_is_decrypted(enclave: Enclave) -> None:
    content = zipped({**FILES, "no-files-here/": b""}, executable=("print-hello.py",))
    result = enclave.decrypt(enclave.artifact(content))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    tree = enclave.home / "tree"
    found = {str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob("*") if p.is_file()}
    assert found == {k: v.encode() if isinstance(v, str) else v for k, v in FILES.items()}
    assert (tree / "no-files-here").is_dir()
    assert os.access(tree / "print-hello.py", os.X_OK)
    assert not (tree / "random").stat().st_mode & 0o111
    assert enclave.left_behind() == {"tree"}


def test_only_the_executable_bits_of_modes_are_restored(enclave: Enclave) -> None:
    entry = make_vectors.Entry(mode=stat.S_IFREG | 0o6777)
    previous = os.umask(0o022)
    try:
        assert enclave.decrypt(enclave.artifact(make_vectors.zipped(entry))).returncode == 0
    finally:
        os.umask(previous)
    assert (enclave.home / "tree/a").stat().st_mode == stat.S_IFREG | 0o755
    assert (enclave.home / "tree").stat().st_mode == stat.S_IFDIR | 0o755


def test_many_members_of_both_methods_are_decrypted(enclave: Enclave) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(3000):
            method = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            archive.writestr(f"{number % 7}/{number}", str(number) * number, method)
    assert enclave.decrypt(enclave.artifact(buffer.getvalue())).returncode == 0
    for number in range(3000):
        text = (enclave.home / f"tree/{number % 7}/{number}").read_text()
        assert text == str(number) * number


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: path.write_text("mine"), id="file"),
        pytest.param(lambda path: path.mkdir(), id="empty-directory"),
        pytest.param(lambda path: path.symlink_to("nowhere"), id="dangling-link"),
    ],
)
def test_existing_path_is_never_replaced(make: Callable[[Path], None], enclave: Enclave) -> None:
    make(enclave.home / "tree")
    before = (enclave.home / "tree").lstat()
    error = one_error(enclave.decrypt(enclave.artifact(ZIPPED)))
    assert "tree exists: choose a directory that does not" in error
    assert (enclave.home / "tree").lstat() == before
    assert not enclave.tool.with_name("calls").exists()


def test_a_missing_parent_is_named(enclave: Enclave) -> None:
    error = one_error(enclave.decrypt(enclave.artifact(ZIPPED), "-d", "/no/such/tree"))
    assert "/no/such is not a directory: create it first" in error


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        pytest.param(ZIPPED, ("--max-members", "6"), "7 members", id="members"),
        pytest.param(ZIPPED, ("--max-bytes", str(TOTAL - 1)), f"{TOTAL} bytes", id="bytes"),
        pytest.param(zipped({"a/b/c/d": ""}), ("--max-members", "2"), "3 directories", id="deep"),
        pytest.param(
            make_vectors.zipped(make_vectors.Entry(name=b"a" * 3000)),
            ("--max-members", "2"),
            "directory has",
            id="size-of-the-zip's-directory",
        ),
    ],
)
def test_artifact_that_exceeds_a_limit_is_refused(
    content: bytes, words: tuple[str, ...], message: str, enclave: Enclave
) -> None:
    assert message in one_error(enclave.decrypt(enclave.artifact(content), *words))
    assert enclave.left_behind() == set()


def test_artifact_that_needs_more_room_than_there_is_is_refused(enclave: Enclave) -> None:
    bombs = [make_vectors.Entry(name=b"%d" % n, method=8, size=0xFFFFFFF0) for n in range(9000)]
    assert "are free" in one_error(enclave.decrypt(enclave.artifact(make_vectors.zipped(*bombs))))
    assert enclave.left_behind() == set()


def test_artifact_exactly_at_its_limits_is_decrypted(enclave: Enclave) -> None:
    words = ("--max-members", "7", "--max-bytes", str(TOTAL))
    assert enclave.decrypt(enclave.artifact(ZIPPED), *words).returncode == 0


def test_zip_bomb_is_stopped_while_it_is_written(enclave: Enclave) -> None:
    packed = zlib.compressobj(wbits=-15)
    bomb = packed.compress(bytes(64 << 20)) + packed.flush()
    entry = make_vectors.Entry(method=8, packed=bomb, data=bytes(100))
    artifact = enclave.artifact(make_vectors.zipped(entry))
    result = enclave.decrypt_to_small_files(artifact)
    assert "'a': size or checksum is not that of" in one_error(result)
    assert enclave.left_behind() == set()


def test_padding_at_the_end_of_a_full_chunk_ends_the_token(enclave: Enclave) -> None:
    ended = base64.urlsafe_b64encode(b"\x80" + bytes((1 << 19) // 4 * 3 - 2))
    assert len(ended) == 1 << 19
    artifact = enclave.home / "application_code.zip.encrypted"
    artifact.write_bytes(make_vectors.artifact(ended + b"AAAA"))
    assert "not canonical" in one_error(enclave.decrypt(artifact))


@pytest.mark.parametrize("fault", ["altered", "no-such-file", "directory"])
def test_bad_artifact_is_one_line_error(fault: str, enclave: Enclave) -> None:
    artifact = enclave.artifact(ZIPPED)
    if fault == "altered":
        content = bytearray(artifact.read_bytes())
        content[-60] ^= 1
        artifact.write_bytes(content)
    else:
        artifact = enclave.home / ("bin" if fault == "directory" else "nothing")
    one_error(enclave.decrypt(artifact))
    assert enclave.left_behind() == set()


class Midway:
    """A decryptor that waits in the middle of a token, which it reads from a pipe."""

    def __init__(self, enclave: Enclave) -> None:
        """Start it, and write most of a token."""
        pipe = enclave.home / "application_code.zip.encrypted"
        os.mkfifo(pipe)
        self.process = enclave.start(pipe)
        self.writer = pipe.open("wb", buffering=0)
        self.writer.write(encrypted(os.urandom(4 << 20))[: 3 << 20])
        wait_for(lambda: children(self.process.pid))
        (self.decoder,) = children(self.process.pid)

    def end(self, again: int | None = None) -> tuple[int, str]:
        """Close the pipe; return status and errors.

        Python notices a signal that arrives just before it waits only at the next one: as a user
        would, send the signal *again* if nothing happens.
        """
        with self.writer:
            try:
                _, errors = self.process.communicate(timeout=PATIENCE if again is None else 10)
            except subprocess.TimeoutExpired:
                if again is None:
                    raise
                self.process.send_signal(again)
                _, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, errors


@pytest.fixture
def midway(enclave: Enclave) -> Midway:
    return Midway(enclave)


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param([signal.SIGTERM], id="one"),
        pytest.param([signal.SIGTERM, signal.SIGINT] * 20, id="many-at-once"),
    ],
)
def test_signals_in_the_middle_of_the_token_leave_nothing(
    numbers: list[signal.Signals], enclave: Enclave, midway: Midway
) -> None:
    for number in numbers:
        midway.process.send_signal(number)
    endings = {
        (128 + n, f"error: terminated by {n.name}, nothing is left behind\n") for n in numbers
    }
    assert midway.end(again=numbers[0]) in endings
    assert enclave.requests() == 1
    assert enclave.left_behind() == set()
    assert ended(midway.decoder)


def test_killed_worker_is_one_line_error(enclave: Enclave, midway: Midway) -> None:
    os.kill(midway.decoder, signal.SIGKILL)
    status, errors = midway.end()
    assert status == 1
    assert errors.startswith("error: ")
    assert errors.endswith(": a process was killed: give the enclave more memory\n")
    assert enclave.left_behind() == set()


def test_unexpected_exception_in_a_worker_is_reported_as_a_bug(enclave: Enclave) -> None:
    broken = enclave.home / "bin/pybase64.py"
    broken.write_text("def b64decode(*_, **__):\n    raise MemoryError('decoding is broken')\n")
    artifact = enclave.artifact(ZIPPED)
    error = one_error(enclave.decrypt(artifact, PYTHONPATH=str(broken.parent)))
    assert error.endswith(": decoding is broken (unexpected MemoryError, please report it)")


def test_killing_the_decryptor_ends_its_workers(midway: Midway) -> None:
    midway.process.kill()
    wait_for(lambda: ended(midway.decoder))
    assert midway.end() == (-signal.SIGKILL, "")


@pytest.mark.parametrize("spoilt", [10, 300, 700, 1999])
def test_corrupt_member_is_named_whichever_worker_writes_it(spoilt: int, enclave: Enclave) -> None:
    members = [make_vectors.Entry(name=b"%d" % number) for number in range(2000)]
    members[spoilt].crc = 1
    error = one_error(enclave.decrypt(enclave.artifact(make_vectors.zipped(*members))))
    assert f"'{spoilt}': size or checksum is not that of" in error
    assert enclave.left_behind() == set()


LONG = os.urandom(6 << 20)
DEFLATED = zlib.compress(LONG, 1, -15)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (make_vectors.Entry(data=LONG, crc=1), "size or checksum is not that of"),
        (
            make_vectors.Entry(data=LONG, packed=DEFLATED[:-9], method=8),
            "deflate stream does not end with the member",
        ),
        (
            make_vectors.Entry(data=LONG, packed=DEFLATED + b"tail", method=8),
            "deflate stream does not end with the member",
        ),
    ],
    ids=["checksum", "cut-off", "tail"],
)
def test_corrupt_long_member_is_one_line_error(
    wrong: make_vectors.Entry, said: str, enclave: Enclave
) -> None:
    last = make_vectors.Entry(name=b"last")
    error = one_error(enclave.decrypt(enclave.artifact(make_vectors.zipped(wrong, last))))
    assert said in error
    assert enclave.left_behind() == set()


def test_signals_after_the_tree_has_appeared_change_nothing(enclave: Enclave) -> None:
    process = enclave.start(enclave.artifact(ZIPPED))
    wait_for((enclave.home / "tree").exists)
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
    assert (process.returncode, process.communicate()[1]) == (0, "")
    assert enclave.left_behind() == {"tree"}


def test_signal_does_not_interrupt_cleanup_after_a_failure(enclave: Enclave) -> None:
    members = [make_vectors.Entry(name=b"%d" % number) for number in range(15000)]
    members[-1].crc = 1
    process = enclave.start(enclave.artifact(make_vectors.zipped(*members)))
    most = 0

    def falls() -> bool:
        nonlocal most
        now = sum(len(files) for _, _, files in os.walk(enclave.home))
        most = max(most, now)
        return now < most or process.poll() is not None

    wait_for(falls)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert errors.endswith("'14999': size or checksum is not that of the zip's central directory\n")
    assert enclave.left_behind() == set()


def test_worker_that_cannot_write_is_one_line_error(enclave: Enclave) -> None:
    artifact = enclave.artifact(ZIPPED)
    result = enclave.decrypt_to_small_files(artifact)
    assert one_error(result).endswith(": File too large")
    assert enclave.left_behind() == set()


MEASURED = """
import runpy, sys
sys.argv.pop(0)
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(*[line for line in open("/proc/self/status") if line.startswith("VmHWM")])
"""


def test_memory_stays_small_however_large_the_artifact(enclave: Enclave) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("weights", os.urandom(1 << 20) * 72)
        archive.writestr("zeros", bytes(72 << 20), zipfile.ZIP_DEFLATED)
    artifact = enclave.artifact(buffer.getvalue())
    _, *command = enclave.command("decrypt", artifact, "-d", str(enclave.home / "tree"), *PIN)
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, *command],
        env=enclave.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(result.stdout.split()[1]) < 64 << 10
    assert (enclave.home / "tree/weights").stat().st_size == 72 << 20


@functools.cache
def several_members() -> tuple[bytes, str]:
    """Return an artifact of 48 MiB in several members, and the sums of its files."""
    sizes = {"a": 5, "b": 18, "c": 1, "d": 1, "e": 18, "f": 5}  # MiB
    content = {name: os.urandom(size << 20) for name, size in sizes.items()}
    sums = [f"{hashlib.sha256(data).hexdigest()}  tree/in/{name}" for name, data in content.items()]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (name, data) in enumerate(content.items()):
            archive.writestr(name, data, 8 if number % 2 else 0, compresslevel=1)
    return encrypted(buffer.getvalue()), "\n".join(sums)


def decrypted_within(mebibytes: int, enclave: Enclave) -> subprocess.CompletedProcess[str]:
    """Decrypt `several_members` in a memory file system of this size."""
    if subprocess.run(["sh", "-c", "unshare -rm true"], check=False).returncode:
        lacking("the package util-linux, and the right to mount in a namespace")
    content, sums = several_members()
    (enclave.home / "tree").mkdir()
    (enclave.home / "sums").write_text(sums)
    artifact = enclave.home / "application_code.zip.encrypted"
    artifact.write_bytes(content)
    words = enclave.command("decrypt", artifact, "-d", str(enclave.home / "tree/in"), *PIN)
    mount = f'mount -t tmpfs -o size={mebibytes}m none tree && "$@" && sha256sum --quiet -c sums'
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "sh", *words],
        env=enclave.environment(),
        cwd=enclave.home,
        capture_output=True,
        text=True,
        check=False,
    )


def test_space_of_the_copy_is_reused_for_the_tree(enclave: Enclave) -> None:
    result = decrypted_within(48 + 40, enclave)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_tree_that_does_not_fit_next_to_the_rest_of_the_copy_is_refused(
    enclave: Enclave,
) -> None:
    assert "are free" in one_error(decrypted_within(48 + 4, enclave))


@pytest.mark.parametrize("before", [0, 3, 6])
def test_freed_pages_of_the_copy_are_not_needed_by_other_workers(
    before: int, enclave: Enclave
) -> None:
    """The second member begins this many bytes before a page of the copy, inside an AES block.

    It is short: the pages before it are freed long before the first member is read to its end.
    """
    heads = 25 + 31  # bytes, of the token and of the first member
    members = {b"a": os.urandom((24 << 20) - heads - before), b"b": os.urandom(5 << 20)}
    entries = (make_vectors.Entry(name=name, data=data) for name, data in members.items())
    assert enclave.decrypt(enclave.artifact(make_vectors.zipped(*entries))).returncode == 0
    for name, data in members.items():
        assert (enclave.home / "tree" / name.decode()).read_bytes() == data


def test_decryptor_needs_no_package_but_cryptography(enclave: Enclave) -> None:
    """Imports of the optional packages fail."""
    alone = (
        "import runpy, sys\n"
        "for name in ('isal', 'pybase64', 'boto3'): sys.modules[name] = None\n"
        "sys.argv[0] = sys.argv.pop(1)\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    artifact = enclave.artifact(ZIPPED)
    words = ["decrypt", "-f", str(artifact), "-d", str(enclave.home / "tree"), *PIN]
    subprocess.run(
        [sys.executable, "-c", alone, str(ENVELOPE_DECRYPTOR), *words],
        env=enclave.environment(),
        check=True,
    )
    assert (enclave.home / "tree/random").read_bytes() == FILES["random"]


@pytest.mark.parametrize("options", [[], ["-P"], ["-I"]])
def test_decryptor_needs_only_its_own_folder(options: list[str], enclave: Enclave) -> None:
    """As after `COPY encryption/ /opt/encryption/`, whatever the working directory holds."""
    copied = enclave.home / "bin/encryption"
    shutil.copytree(ENVELOPE_DECRYPTOR.parent, copied)
    (enclave.home / "bin/decryptor.py").write_text("raise SystemExit('not this one')\n")
    _, _, _, *words = enclave.command("decrypt", enclave.artifact(ZIPPED), *PIN)
    program = str(copied / ENVELOPE_DECRYPTOR.name)
    subprocess.run(
        [sys.executable, *options, program, "decrypt", *words, "-d", str(enclave.home / "tree")],
        env=enclave.environment(),
        cwd=enclave.home / "bin",
        check=True,
    )
    assert (enclave.home / "tree/random").read_bytes() == FILES["random"]
