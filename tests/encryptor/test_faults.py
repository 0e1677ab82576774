from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.kms_server import KEY_ARN
from tests.encryptor.bench import ENCRYPTOR, PIECE, write
from tests.processes import PATIENCE, children, ended, wait_for

if TYPE_CHECKING:
    from tests.encryptor.bench import Bench

SIGNALS = [
    pytest.param([signal.SIGINT], {130}, id="SIGINT"),
    pytest.param([signal.SIGTERM], {143}, id="SIGTERM"),
    pytest.param([signal.SIGHUP], {129}, id="SIGHUP"),
    pytest.param([signal.SIGTERM, signal.SIGINT] * 20, {130, 143}, id="many-at-once"),
]
LONG = 400  # pieces, which take longer to seal than a signal to arrive
Moment = Callable[["Bench", "subprocess.Popen[Any]"], None]


def incompressible(path: Path, pieces: int) -> None:
    """Make a large file quickly; deflate does not see that it repeats."""
    piece = os.urandom(PIECE)
    with path.open("wb") as file:
        for _ in range(pieces):
            file.write(piece)


def small_files(bench: Bench) -> None:
    """Make files that fill every pipe when nobody reads them."""
    (bench.directory / "small").mkdir()
    for number in range(32):
        incompressible(bench.directory / f"small/{number}", 1)


def asked(bench: Bench, process: subprocess.Popen[Any]) -> None:
    """Wait until KMS has been asked, and the directory been listed: then threads start."""
    tasks = Path(f"/proc/{process.pid}/task")
    wait_for(lambda: bench.kms.asked.is_set() and len(list(tasks.iterdir())) > 1)


def writing(bench: Bench, _process: subprocess.Popen[Any]) -> None:
    """Wait until a part of the artifact is written."""
    wait_for(lambda: written(bench, PIECE))


def written(bench: Bench, place: int) -> bool:
    """Tell whether there is something at *place*; room for it may be reserved already."""
    path = bench.unfinished()
    if not path:
        return False
    with path.open("rb") as file:
        file.seek(place)
        return file.read(1) > b"\0"


def stuck(bench: Bench, process: subprocess.Popen[Any]) -> None:
    """Stop a process that packs small files, and wait until all before these is written."""
    asked(bench, process)
    *_, packing = children(process.pid)
    os.kill(packing, signal.SIGSTOP)
    bench.kms.speaking.set()
    wait_for(lambda: written(bench, LONG * PIECE * 4 // 3))


@pytest.mark.parametrize(("numbers", "statuses"), SIGNALS)
@pytest.mark.parametrize("moment", [asked, writing, stuck])
def test_a_signal_leaves_the_earlier_artifact_and_nothing_else(
    bench: Bench, numbers: list[signal.Signals], statuses: set[int], moment: Moment
) -> None:
    incompressible(bench.directory / "file", LONG)
    small_files(bench)
    bench.artifact.write_bytes(b"earlier")
    if moment is not writing:
        bench.kms.speaking.clear()
    process = bench.start()
    moment(bench, process)
    others = children(process.pid)
    for number in numbers:
        process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert others
    assert all(map(ended, others))
    assert process.returncode in statuses
    assert (out, err) == ("", "error: interrupted: start it again\n")
    assert bench.leftovers() == ["sealed"]
    assert bench.artifact.read_bytes() == b"earlier"


def full_pipe() -> tuple[int, int]:
    """Return a pipe's two ends; what is written to it waits until somebody has read."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(select.PIPE_BUF))
    os.set_blocking(writer, True)
    return reader, writer


def test_a_signal_after_the_artifact_has_appeared_changes_nothing(bench: Bench) -> None:
    write(bench.directory, {"file": b"content"})
    reader, writer = full_pipe()
    process = subprocess.Popen(
        bench.command(), stdout=writer, stderr=subprocess.PIPE, env=bench.kms.environment
    )
    os.close(writer)
    wait_for(bench.artifact.exists)  # only its key is still to be told
    process.send_signal(signal.SIGTERM)
    with os.fdopen(reader, "rb") as told:
        assert told.read().strip(b"\0") == f"{KEY_ARN}\n".encode()
    assert process.communicate(timeout=PATIENCE)[1] == b""
    assert process.returncode == 0
    assert zipfile.ZipFile(io.BytesIO(bench.opened())).namelist() == ["file"]


def test_a_hangup_that_is_ignored_stays_ignored(bench: Bench) -> None:
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


# The oldest asks KMS, the others read.
@pytest.mark.parametrize("helper", [0, 1, 2], ids=["asks-kms", "reads", "reads-too"])
def test_a_process_that_is_killed_ends_all_in_one_line(bench: Bench, helper: int) -> None:
    small_files(bench)
    bench.kms.speaking.clear()
    process = bench.start()
    asked(bench, process)
    others = children(process.pid)
    os.kill(others[helper], signal.SIGKILL)
    bench.kms.speaking.set()
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (1, "")
    assert err == "error: a process was killed: free memory, try again\n"
    assert bench.leftovers() == []
    assert all(map(ended, others))


def test_when_it_is_killed_its_processes_end(bench: Bench) -> None:
    small_files(bench)
    bench.kms.speaking.clear()
    process = bench.start()
    asked(bench, process)
    others = children(process.pid)
    process.kill()
    bench.kms.speaking.set()
    process.communicate(timeout=PATIENCE)
    wait_for(lambda: all(map(ended, others)))


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
    # While KMS is silent, only the beginning is read.
    small_files(bench)
    write(bench.directory, {"../new": b"CONTENT", "zzz": b"content"})
    bench.kms.speaking.clear()
    process = bench.start()
    asked(bench, process)
    change(bench.directory / "zzz")
    bench.kms.speaking.set()
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (1, "")
    assert err == "error: zzz: changed while it was read: seal it at rest\n"
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
    assert err == "error: first: changed while it was read: seal it at rest\n"
    assert bench.leftovers() == []


BROKEN = {
    "deflate": (
        "isal/isal_zlib.py",
        "from zlib import *\ndef compressobj(*_, zdict): raise MemoryError('deflate is broken')\n",
    ),
    "base64": (
        "pybase64.py",
        "def urlsafe_b64encode(_):\n    raise MemoryError('base64 is broken')\n",
    ),
}


@pytest.mark.parametrize("stage", list(BROKEN))
def test_a_thread_that_dies_ends_all_in_one_line(bench: Bench, tmp_path: Path, stage: str) -> None:
    name, text = BROKEN[stage]
    write(tmp_path / "broken", {"isal/__init__.py": b"", name: text.encode()})
    incompressible(bench.directory / "large", 32)
    write(bench.directory, {f"small/{number}": b"text" * 999 for number in range(2000)})
    result = bench.seal(PYTHONPATH=str(tmp_path / "broken"))
    assert result.returncode == 1
    assert result.stderr == f"error: {stage} is broken: a defect (MemoryError)\n"
    assert bench.leftovers() == []


LIBRARY = """
import os, signal, sys, threading
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from envelope_encryptor import SealError, seal

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
for words in (
    (broken, "alias/k", artifact, None, go_on),
    (directory, arn, artifact, None, go_on),
    (directory, "alias/k", artifact, None, stop),
    (directory, "alias/k", artifact, None, go_on),
):
    try:
        seal(*words)
        print("sealed")
    except (OSError, SealError) as error:
        print(getattr(error, "strerror", "no data key"))
    assert state() == before, state()
"""


def test_as_a_library_it_leaves_nothing_behind(bench: Bench, tmp_path: Path) -> None:
    write(bench.directory, {"a": b"text" * 9999, "b/c": b""})
    incompressible(bench.directory / "large", 32)
    write(tmp_path / "broken", {"a": b"", "b": b""})
    (tmp_path / "broken/x").symlink_to("nothing")
    places = [bench.directory, tmp_path / "broken", bench.artifact]
    result = subprocess.run(
        [sys.executable, "-c", LIBRARY, str(ENCRYPTOR), *map(str, places)],
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
        "sealed",
    ]
    assert result.stderr == ""
    assert bench.leftovers() == ["sealed"]


def test_progress_and_a_summary_appear_on_a_terminal(bench: Bench) -> None:
    incompressible(bench.directory / "file", 128)
    ours, theirs = pty.openpty()
    result = subprocess.run(
        bench.command(),
        env=bench.kms.environment,
        stderr=theirs,
        stdout=subprocess.PIPE,
        check=True,
    )
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 1 << 16):
            text += part
    except OSError:  # how Linux tells that a terminal's other side is closed
        pass
    os.close(ours)
    lines = text.decode().split("\r\33[K")
    assert len(lines) > 3
    assert lines[-1].startswith("64 of 64 MiB in, 85 MiB out, ")
    assert lines[-1].endswith(" MiB/s, 0 s left\r\n")
    assert b"enclave" not in result.stdout
