from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.encryptor.bench import CHUNK, write
from tests.support.kms import KEY_ARN
from tests.support.machine import folder
from tests.support.paths import ENVELOPE_ENCRYPTOR
from tests.support.processes import PATIENCE, wait_for

if TYPE_CHECKING:
    from tests.encryptor.bench import Bench

SIGNALS = [
    pytest.param([signal.SIGINT], {130}, id="SIGINT"),
    pytest.param([signal.SIGTERM], {143}, id="SIGTERM"),
    pytest.param([signal.SIGHUP], {129}, id="SIGHUP"),
    pytest.param([signal.SIGQUIT], {131}, id="SIGQUIT"),
    pytest.param([signal.SIGTERM, signal.SIGINT] * 20, {130, 143}, id="many-at-once"),
]
LONG = 400  # chunks
INTERRUPTED = "error: interrupted: nothing was written, start it again\n"
Moment = Callable[["Bench", "subprocess.Popen[Any]"], None]


def incompressible(path: Path, chunks: int) -> None:
    """Create a large file quickly; its repetitions are too far apart for deflate."""
    chunk = os.urandom(CHUNK)
    with path.open("wb") as file:
        for _ in range(chunks):
            file.write(chunk)


@pytest.fixture(scope="module")
def long() -> Iterator[Path]:
    """A file that takes longer to encrypt than a signal to arrive."""
    with folder() as place:
        incompressible(place / "long", LONG)
        yield place / "long"


def small_files(bench: Bench) -> None:
    """Create more small files than the stages can hold."""
    (bench.directory / "small").mkdir()
    for number in range(32):
        incompressible(bench.directory / f"small/{number}", 1)


def asked(bench: Bench, _process: subprocess.Popen[Any]) -> None:
    """Wait until KMS has been called: the directory has been listed by then."""
    assert bench.kms.asked.wait(PATIENCE)


def writing(bench: Bench, process: subprocess.Popen[Any]) -> None:
    """Wait until part of the artifact is written."""
    wait_for(lambda: written(bench, process.pid) > CHUNK)


def written(bench: Bench, pid: int) -> int:
    """Return how many bytes of the artifact are written."""
    path = bench.unfinished(pid)
    return path.stat().st_size if path else 0


@pytest.mark.parametrize(("numbers", "statuses"), SIGNALS)
@pytest.mark.parametrize("moment", [asked, writing])
def test_signal_leaves_only_the_earlier_artifact(
    bench: Bench, long: Path, numbers: list[signal.Signals], statuses: set[int], moment: Moment
) -> None:
    (bench.directory / "file").hardlink_to(long)
    small_files(bench)
    bench.artifact.write_bytes(b"earlier")
    if moment is not writing:
        bench.kms.speaking.clear()
    process = bench.start()
    moment(bench, process)
    for number in numbers:
        process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode in statuses
    assert (out, err) == ("", INTERRUPTED)
    assert bench.leftovers() == ["artifact"]
    assert bench.artifact.read_bytes() == b"earlier"


@pytest.mark.parametrize("moment", [asked, writing])
def test_a_killed_encryptor_leaves_nothing(bench: Bench, long: Path, moment: Moment) -> None:
    (bench.directory / "file").hardlink_to(long)
    if moment is asked:
        bench.kms.speaking.clear()
    process = bench.start()
    moment(bench, process)
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert bench.leftovers() == []


def test_encryptor_is_not_dumpable(bench: Bench) -> None:
    write(bench.directory, {"file": b"content"})
    bench.kms.speaking.clear()
    process = bench.start()
    asked(bench, process)
    proc = Path(f"/proc/{process.pid}")
    assert proc.joinpath("mem").stat().st_uid == 0, "the process is not dumpable"
    bench.kms.speaking.set()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_a_closed_stream_does_not_become_the_artifact(bench: Bench, stream: int) -> None:
    write(bench.directory, {"file": b"content"})
    result = bench.encrypt(("sh", "-c", f'exec "$@" {stream}>&-', "sh"))
    assert (result.returncode, result.stderr) == (0, "")
    assert zipfile.ZipFile(io.BytesIO(bench.decrypted())).namelist() == ["file"]
    (bench.directory / "link").symlink_to("nothing")
    result = bench.encrypt(("sh", "-c", f'exec "$@" {stream}>&-', "sh"))
    assert (result.returncode, result.stdout) == (1, "")


def test_full_standard_output_keeps_the_artifact_and_is_reported(bench: Bench) -> None:
    write(bench.directory, {"file": b"content"})
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            bench.command(),
            stdout=full,
            stderr=subprocess.PIPE,
            env=bench.kms.environment,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr.decode() == (
        "error: standard output: [Errno 28] No space left on device: "
        f"{bench.artifact} is complete\n"
    )
    assert zipfile.ZipFile(io.BytesIO(bench.decrypted())).namelist() == ["file"]


def full_pipe() -> tuple[int, int]:
    """Return a full pipe's two ends: writing to it blocks until it is read."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(select.PIPE_BUF))
    os.set_blocking(writer, True)
    return reader, writer


def test_signal_after_the_artifact_is_written_changes_nothing(bench: Bench) -> None:
    write(bench.directory, {"file": b"content"})
    reader, writer = full_pipe()
    process = subprocess.Popen(
        bench.command(), stdout=writer, stderr=subprocess.PIPE, env=bench.kms.environment
    )
    os.close(writer)
    wait_for(bench.artifact.exists)  # only the key's ARN is still to be printed
    process.send_signal(signal.SIGTERM)
    with os.fdopen(reader, "rb") as output:
        assert output.read().strip(b"\0") == f"{KEY_ARN}\n".encode()
    assert process.communicate(timeout=PATIENCE)[1] == b""
    assert process.returncode == 0
    assert zipfile.ZipFile(io.BytesIO(bench.decrypted())).namelist() == ["file"]


def test_ignored_sighup_stays_ignored(bench: Bench) -> None:
    write(bench.directory, {"file": b"content"})
    bench.kms.speaking.clear()
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *bench.command()],  # as nohup does
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=bench.kms.environment,
    )
    asked(bench, process)
    process.send_signal(signal.SIGHUP)
    bench.kms.speaking.set()
    assert process.communicate(timeout=PATIENCE)[1] == b""
    assert process.returncode == 0


def become_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda file: file.write_bytes(b"longer than it was"), id="grows"),
        pytest.param(lambda file: file.write_bytes(b""), id="shrinks"),
        pytest.param(lambda file: file.write_bytes(b"CONTENT"), id="is-written"),
        pytest.param(lambda file: (file.parents[1] / "new").rename(file), id="is-replaced"),
        pytest.param(become_a_pipe, id="becomes-a-pipe"),
    ],
)
def test_a_file_that_changes_is_refused_by_name(
    bench: Bench, change: Callable[[Path], object]
) -> None:
    # Until KMS responds, only the first files are read.
    small_files(bench)
    write(bench.directory, {"../new": b"CONTENT", "zzz": b"content"})
    bench.kms.speaking.clear()
    process = bench.start()
    asked(bench, process)
    change(bench.directory / "zzz")
    bench.kms.speaking.set()
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (1, "")
    assert err == "error: zzz: changed while it was read: stop what writes to it\n"
    assert bench.leftovers() == []


def test_a_large_file_that_grows_while_it_is_read_is_refused(bench: Bench) -> None:
    incompressible(bench.directory / "first", 32)
    bench.kms.speaking.clear()
    process = bench.start()
    asked(bench, process)
    with (bench.directory / "first").open("ab") as file:
        file.write(b"more")
    bench.kms.speaking.set()
    _, err = process.communicate(timeout=PATIENCE)
    assert err == "error: first: changed while it was read: stop what writes to it\n"
    assert bench.leftovers() == []


BROKEN = {
    "deflate": (
        "isal/isal_zlib.py",
        "from zlib import *\ndef compressobj(*_): raise MemoryError('deflate is broken')\n",
    ),
    "base64": (
        "pybase64.py",
        "def urlsafe_b64encode(_):\n    raise MemoryError('base64 is broken')\n",
    ),
}


@pytest.mark.parametrize("stage", list(BROKEN))
def test_unexpected_exception_in_a_stage_is_one_line_error(
    bench: Bench, tmp_path: Path, stage: str
) -> None:
    name, text = BROKEN[stage]
    write(tmp_path / "broken", {"isal/__init__.py": b"", name: text.encode()})
    incompressible(bench.directory / "large", 32)
    write(bench.directory, {f"small/{number}": b"text" * 999 for number in range(2000)})
    result = bench.encrypt(PYTHONPATH=str(tmp_path / "broken"))
    assert result.returncode == 1
    defect = "unexpected MemoryError, please report it"
    assert result.stderr == f"error: {stage} is broken: {defect}\n"
    assert bench.leftovers() == []


LIBRARY = """
import os, signal, sys, threading
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from envelope_encryptor import EncryptError, encrypt, replacing

def stop(*_):
    raise OSError(0, "stopped on the way", "it")

def go_on(*_):
    pass

def state():
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    children = open(f"/proc/self/task/{os.getpid()}/children").read()
    return threading.active_count(), len(os.listdir("/proc/self/fd")), mask, children

before = state()
directory, broken, artifact = sys.argv[2:]
arn = "arn:aws:kms:no_region:111122223333:key/k"
for source, key, progress in (
    (broken, "alias/k", go_on),
    (directory, arn, go_on),
    (directory, "alias/k", stop),
    (directory, "alias/k", go_on),
):
    try:
        with replacing(artifact) as file:
            encrypt(source, key, file, None, progress)
        print("encrypted")
    except (OSError, EncryptError) as error:
        print(getattr(error, "strerror", "no data key"))
    assert state() == before, state()
"""


def test_use_as_a_library_leaks_no_resources(bench: Bench, tmp_path: Path) -> None:
    write(bench.directory, {"a": b"text" * 9999, "b/c": b""})
    incompressible(bench.directory / "large", 32)
    write(tmp_path / "broken", {"a": b"", "b": b""})
    (tmp_path / "broken/x").symlink_to("nothing")
    places = [bench.directory, tmp_path / "broken", bench.artifact]
    result = subprocess.run(
        [sys.executable, "-c", LIBRARY, str(ENVELOPE_ENCRYPTOR), *map(str, places)],
        env=bench.kms.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert result.stdout.splitlines() == [
        "No such file or directory",
        "no data key",
        "stopped on the way",
        "encrypted",
    ]
    assert result.stderr == ""
    assert bench.leftovers() == ["artifact"]


@pytest.mark.parametrize("columns", [40, 120])
def test_progress_appears_on_a_terminal_and_is_cleared(bench: Bench, columns: int) -> None:
    incompressible(bench.directory / "file", 128)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    with subprocess.Popen(
        bench.command("-v"),
        env=bench.kms.environment,
        stderr=theirs,
        stdout=theirs,
    ) as process:
        os.close(theirs)
        text = b""
        with suppress(OSError):  # Linux's end of file, once a terminal's other side is closed
            while part := os.read(ours, 1 << 16):
                text += part
    os.close(ours)
    assert process.returncode == 0
    *progress, last = text.decode().split("\r\33[K")
    assert progress[-1] == ""
    shown = "63 of 63 MiB, "
    assert [line for line in progress if line.startswith(shown[: columns - 1])]
    assert max(map(len, progress)) < columns
    assert last.splitlines() == ["encrypted: 67,107,840 bytes, 1 files and folders", KEY_ARN]
