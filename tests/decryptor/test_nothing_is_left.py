"""No plaintext is left, whatever the tree contains, the script does, or ends the program."""

from __future__ import annotations

import fcntl
import functools
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from decryptor import private, script
from tests.decryptor import make_vectors
from tests.support.chain import CHAIN
from tests.support.enclave import PIN, Enclave, one_error, zipped
from tests.support.machine import root
from tests.support.paths import ENVELOPE_DECRYPTOR
from tests.support.processes import PATIENCE, ended, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEEP = "d/" * 1100
STALE = private.PREFIX + "0123456789abcdef"


def run_python(enclave: Enclave, source: str) -> subprocess.CompletedProcess[str]:
    return enclave.run(enclave.artifact(zipped({"start.py": source})), "start.py")


def test_very_deep_artifact_runs_and_is_removed(enclave: Enclave) -> None:
    artifact = enclave.artifact(zipped({"start.py": "print('ran')", f"{DEEP}file": "x"}))
    result = enclave.run(artifact, "start.py")
    assert (result.returncode, result.stdout, result.stderr) == (0, "ran\n", "")
    assert enclave.left_behind() == set()


def test_a_deep_artifact_that_fails_leaves_nothing(enclave: Enclave) -> None:
    members = [make_vectors.Entry(name=b"e" * 255 + b"/" + b"d/" * 1910 + b"f", crc=1)]
    one_error(enclave.decrypt(enclave.artifact(make_vectors.zipped(*members))))
    assert enclave.left_behind() == set()


@pytest.mark.parametrize(
    "deed",
    [
        pytest.param("for _ in range(1200): os.mkdir('d'); os.chdir('d')", id="1200-deep"),
        pytest.param(
            "for _ in range(60): os.mkdir('n' * 250); os.chdir('n' * 250); open('f', 'w')",
            id="paths-of-15000-letters",
        ),
        pytest.param("os.mkdir('a'); open('a/b', 'w'); os.chmod('a', 0)", id="no-permissions"),
        pytest.param("os.rename(W, W + '-away')", id="renames-the-directory-above"),
        pytest.param("os.rename(W, W + '-away'); os.mkdir(W)", id="replaces-it-by-another"),
        pytest.param(
            "os.rename(W, W + '-away'); os.symlink(PRECIOUS, W)", id="replaces-it-by-a-link"
        ),
        pytest.param(
            "os.rename(W, W + '-away'); os.makedirs(W + '/tree'); os.symlink('/', W + '/tree/l')",
            id="replaces-it-by-a-tree",
        ),
        pytest.param("os.rename(W + '/tree', W + '-tree')", id="moves-the-tree-out"),
        pytest.param("shutil.rmtree(W)", id="removes-all-of-it-itself"),
        pytest.param("os.symlink(PRECIOUS, 'link'); os.symlink('..', 'up')", id="links-out"),
        pytest.param("os.mkfifo('p'); s = socket.socket(1); s.bind('s')", id="pipes-and-sockets"),
        pytest.param("[open(f'x{n}', 'w').close() for n in range(1000)]", id="many-files"),
        pytest.param(r"open(b'\xff\n\x1b', 'w').close()", id="names-that-are-no-text"),
    ],
)
def test_whatever_the_script_does_its_tree_is_removed(deed: str, enclave: Enclave) -> None:
    precious = enclave.home / "bin/precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    source = "import os, shutil, socket\nW = os.path.dirname(os.getcwd())\n"
    source += f"PRECIOUS = {str(precious)!r}\n"
    result = run_python(enclave, source + deed)
    assert (result.returncode, result.stderr) == (0, "")
    assert enclave.left_behind() == set()
    assert (precious / "file").read_text() == "mine"


def test_owner_removes_directories_without_permissions(tmp_path: Path) -> None:
    """Root needs no permission, so another user has to try."""
    tmp_path.chmod(0o755)
    place = tmp_path / "place"
    place.mkdir()
    os.chown(place, 65534, 65534) if os.geteuid() == 0 else None
    directory = os.open(place, private.DIRECTORY)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.fchdir(directory)
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            for name in ("a", "b"):
                Path(name, "c/d").mkdir(parents=True)
                Path(name, "c/d/file").write_text("x")
                Path(name, "c").chmod(0)
                Path(name).chmod(0o500)
            private.empty(directory)
            status = len(list(Path().iterdir()))
        finally:
            os._exit(status)
    os.close(directory)
    assert os.waitpid(child, 0)[1] == 0


def test_what_cannot_be_removed_does_not_keep_the_rest(tmp_path: Path) -> None:
    root("to mount a file system")
    for folder in ("a", "m/n", "m/n/mounted", "m/z", "z"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "file").write_text("plaintext")
    mounted = tmp_path / "m/n/mounted"
    subprocess.run(["mount", "-t", "tmpfs", "none", mounted], check=True)
    directory = os.open(tmp_path, private.DIRECTORY)
    try:
        with pytest.raises(OSError, match="busy"):
            private.empty(directory)
        left = [name for _, _, names in os.walk(tmp_path) for name in names]
    finally:
        os.close(directory)
        point = next(line.split()[1] for line in mounts() if str(tmp_path) in line)
        subprocess.run(["umount", point], check=True)
    assert left == []


def mounts() -> list[str]:
    return Path("/proc/self/mounts").read_text().splitlines()


# --- SIGKILL ------------------------------------------------------------------------------------

# In memory, a thousand are written in 30 ms: these take longer than a busy machine to wake us.
MEMBERS = 12_000


@functools.cache
def many_members() -> bytes:
    entries = (make_vectors.Entry(name=b"%d" % number) for number in range(MEMBERS))
    return make_vectors.zipped(*entries)


def files(enclave: Enclave) -> int:
    return sum(len(names) for _, _, names in os.walk(enclave.home))


@contextmanager
def unpacking(enclave: Enclave) -> Iterator[subprocess.Popen[str]]:
    """Start to decrypt many members; continue once some of them exist."""
    with enclave.start(enclave.artifact(many_members())) as process:
        wait_for(lambda: process.poll() is not None or files(enclave) > 200)
        assert process.poll() is None
        yield process


def guard_of(enclave: Enclave) -> int:
    """Return the process that holds the private directory's descriptor and has its own session."""
    (place,) = enclave.home.glob(private.PREFIX + "*")
    for process in Path("/proc").glob("[0-9]*"):
        pid = int(process.name)
        try:
            holds = any(link.readlink() == place for link in (process / "fd").iterdir())
            if holds and os.getsid(pid) == pid:
                return pid
        except OSError:
            continue
    raise AssertionError("no guard")


def test_a_killed_decrypt_leaves_nothing(enclave: Enclave) -> None:
    with unpacking(enclave) as process:
        process.kill()
    wait_for(lambda: enclave.left_behind() == set())


SLEEPER = "#!/bin/sh\nsetsid sleep 600 & echo $!\necho $$\nexec sleep 600\n"


def test_killing_run_ends_its_script_and_daemons(enclave: Enclave) -> None:
    artifact = enclave.artifact(zipped({"start": SLEEPER}))
    with subprocess.Popen(
        enclave.command("run", artifact, *PIN, "--", "start"),
        env=enclave.environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        pids = [int(process.stdout.readline()) for _ in range(2)]
        process.kill()
        wait_for(lambda: all(ended(pid) for pid in pids))
    wait_for(lambda: enclave.left_behind() == set())


@pytest.mark.parametrize("kind", ["one-session", "sessions"])
def test_a_chain_of_forks_ends_with_its_run(kind: str, enclave: Enclave) -> None:
    marker = enclave.home / "bin/marker"
    marker.touch()
    artifact = enclave.artifact(zipped({"chain.py": CHAIN}))
    result = enclave.run(artifact, "chain.py", str(marker), kind)
    assert (result.returncode, result.stdout, result.stderr) == (0, "script ends\n", "")
    assert marker.read_text() == ""  # the chain would still run
    assert enclave.left_behind() == set()


def test_killing_the_decryptor_ends_kmstool(enclave: Enclave) -> None:
    with enclave.start(enclave.artifact(zipped({"a": ""})), KMSTOOL_BEHAVIOUR="hang") as process:
        hanging = enclave.tool.with_name("hanging")
        wait_for(lambda: hanging.exists() and hanging.read_text())
        process.kill()
    tool = int(hanging.read_text().split()[0])
    wait_for(lambda: ended(tool))


def test_leftovers_of_a_killed_guard_are_removed_by_the_next_run(enclave: Enclave) -> None:
    with unpacking(enclave) as process:
        os.kill(guard_of(enclave), signal.SIGKILL)
        process.kill()
    assert files(enclave) > 200
    # The killed processes held the lock; they end a moment later than their parent.
    artifact = enclave.artifact(zipped({"a": "b"}))

    def swept() -> bool:
        return enclave.run(artifact, "none").returncode == 1 and enclave.left_behind() == set()

    wait_for(swept)


def test_directory_of_a_running_process_is_not_removed(enclave: Enclave) -> None:
    with unpacking(enclave) as process:
        process.send_signal(signal.SIGSTOP)
        other = enclave.home / "bin/other"
        artifact = enclave.home / "bin/small"
        artifact.write_bytes(make_vectors.encoded(make_vectors.GOOD))
        command = enclave.command("decrypt", artifact, *PIN, "-d", str(enclave.home / "beside"))
        subprocess.run(command, env=enclave.environment(), check=True)
        assert not other.exists()
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE) == 0
    assert len(list((enclave.home / "tree").iterdir())) == MEMBERS


def _locked(path: Path) -> None:
    path.mkdir()
    fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX)  # until the test's process ends


def _given_away(path: Path) -> None:
    root("to give a directory away")
    path.mkdir()
    os.chown(path, 65534, -1)


@pytest.mark.parametrize(
    ("name", "make", "swept"),
    [
        pytest.param(STALE, Path.mkdir, True, id="ours"),
        pytest.param(STALE, _locked, False, id="in-use"),
        pytest.param(STALE, lambda path: path.write_text("x"), False, id="a-file"),
        pytest.param(STALE, lambda path: path.symlink_to("bin"), False, id="a-link"),
        pytest.param(STALE + "0", Path.mkdir, False, id="longer-name"),
        pytest.param(STALE[:-1] + "g", Path.mkdir, False, id="other-name"),
        pytest.param("." + STALE, Path.mkdir, False, id="other-start"),
        pytest.param(STALE, _given_away, False, id="not-ours"),
    ],
)
def test_only_our_own_abandoned_directories_are_removed(
    name: str,
    make: Callable[[Path], object],
    swept: bool,  # noqa: FBT001
    enclave: Enclave,
) -> None:
    make(enclave.home / name)
    assert enclave.decrypt(enclave.artifact(zipped({"a": ""}))).returncode == 0
    assert os.path.lexists(enclave.home / name) is not swept


# --- Memory -------------------------------------------------------------------------------------


def test_neither_the_program_nor_its_children_write_core_files(enclave: Enclave) -> None:
    result = run_python(enclave, "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))")
    assert result.stdout == "(0, 0)\n"
    assert enclave.tool.with_name("limits").read_text().endswith("(0, 0)\n")


def test_memory_is_not_readable_by_other_processes() -> None:
    """PR_GET_DUMPABLE is 3: 0 means no core file, and no reading by processes of the same user."""
    source = (
        "import ctypes, sys; sys.path.insert(0, sys.argv[1]); from decryptor import system; "
        "system.write_no_core(); print(ctypes.CDLL(None).prctl(3))"
    )
    command = [sys.executable, "-c", source, str(ENVELOPE_DECRYPTOR.parent)]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"0\n"


def test_memory_directory_exists() -> None:
    assert Path(script.memory_directory()).is_dir()
