"""A run: its input, the script's environment, its output."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from enclave import folders, protocol
from tests.server.harness import Server, client_environment, received, running
from tests.support.chain import CHAIN
from tests.support.enclave import CREDENTIALS
from tests.support.machine import root
from tests.support.processes import PATIENCE, children, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = os.geteuid() == 0
HELLO = "import sys\nprint('hello', *sys.argv[1:])\nprint('oops', file=sys.stderr)\nsys.exit(7)\n"


def script(server: Server, text: str, **files: str) -> Path:
    return server.artifact({"start": f"#!/bin/sh\n{text}\n", **files})


def test_output_errors_and_status_are_those_of_the_script(server: Server) -> None:
    result = server.client(
        server.artifact({"print-hello.py": HELLO}), "print-hello.py", "a b", "-c"
    )
    assert (result.returncode, result.stdout, result.stderr) == (7, "hello a b -c\n", "oops\n")


def test_output_is_streamed_as_it_is_written(server: Server) -> None:
    artifact = script(server, 'echo first; read -r line < "$ENCLAVE_INPUT/never" || sleep 600')
    with subprocess.Popen(
        server.client_command(artifact, "start"),
        env=client_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as client:
        assert client.stdout
        assert client.stdout.readline() == b"first\n"  # while the script still runs
        client.kill()
    server.idle()


def test_large_output_on_both_streams_is_complete(server: Server) -> None:
    artifact = script(server, "seq 200000; seq 100000 >&2")
    answer = server.request(artifact, "start")
    assert answer.output == b"".join(b"%d\n" % n for n in range(1, 200_001))
    assert answer.errors == b"".join(b"%d\n" % n for n in range(1, 100_001))
    assert answer.status == 0


def test_input_and_results_are_transferred(server: Server, tmp_path: Path) -> None:
    given, output = tmp_path / "data", tmp_path / "results"
    (given / "deep" / ("d" * 200)).mkdir(parents=True)
    (given / "deep" / ("d" * 200) / ("n" * 200)).write_bytes(os.urandom(3 << 20))
    (given / "empty").mkdir()
    (given / "tool").write_text("#!/bin/sh\n")
    (given / "tool").chmod(0o755)
    (given / "link").symlink_to("tool")
    artifact = script(server, 'cp -r "$ENCLAVE_INPUT/." "$ENCLAVE_OUTPUT/"; exit 3')
    options = ("--input", str(given), "--output", str(output))
    result = server.client(artifact, "start", options=options)
    assert (result.returncode, result.stderr) == (3, "")
    assert contents(output) == contents(given)
    assert os.access(output / "tool", os.X_OK)
    assert not os.access(output / "deep" / ("d" * 200) / ("n" * 200), os.X_OK)
    assert set(tmp_path.iterdir()) == {given, output}


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def test_without_input_the_directory_is_empty(server: Server) -> None:
    artifact = script(server, 'ls -A "$ENCLAVE_INPUT" "$ENCLAVE_OUTPUT" | grep -c .')
    answer = server.request(artifact, "start")
    assert answer.output == b"2\n"  # the two headings


def test_input_is_read_only(server: Server, tmp_path: Path) -> None:
    given = tmp_path / "data"
    given.mkdir()
    (given / "file").write_text("data")
    text = 'echo x > "$ENCLAVE_INPUT/file" || touch "$ENCLAVE_INPUT/new" || echo read-only'
    artifact = script(
        server, text if ROOT else 'stat -c %a "$ENCLAVE_INPUT/file" && echo read-only'
    )
    answer = server.request(artifact, "start", given=given)
    assert answer.output.endswith(b"read-only\n")


def test_environment_has_no_credentials_and_no_variables_of_the_server(server: Server) -> None:
    answer = server.request(script(server, "env"), "start")
    variables = dict(line.split("=", 1) for line in answer.output.decode().splitlines())
    known = {"PATH", "HOME", "TMPDIR", "ENCLAVE_INPUT", "ENCLAVE_OUTPUT", "PWD", "OLDPWD", "_"}
    assert variables.keys() - known - {"SHLVL", "LC_CTYPE"} == set()
    for secret in (*CREDENTIALS.values(), "of-the-server"):
        assert secret.encode() not in answer.output


def test_script_runs_as_another_user_who_cannot_read_the_server(server: Server) -> None:
    root("to give a script another user")
    artifact = script(
        server,
        f"""id -u
        cat /proc/{server.process.pid}/mem /proc/$PPID/mem /proc/$PPID/environ 2>&1 | wc -c
        ls {server.runs} 2>&1 | grep -c denied
        echo here > kept && cat kept""",
    )
    lines = server.request(artifact, "start").output.decode().splitlines()
    assert int(lines[0]) not in {0, *(user.pw_uid for user in pwd.getpwall())}
    assert lines[2:] == ["1", "here"]
    assert int(lines[1]) < 1000  # only error messages


def test_leftovers_of_a_script_are_removed_with_its_run(server: Server) -> None:
    text = (
        'setsid sleep 600 & echo x > "$TMPDIR/x"; mkdir -p "$HOME/a/b"; chmod 0 "$HOME/a"; echo $!'
    )
    answer = server.request(script(server, text), "start")
    assert answer.status == 0
    server.idle()
    assert not Path(f"/proc/{int(answer.output)}").exists()


@pytest.fixture
def public() -> Iterator[Path]:
    """Return a world-writable directory."""
    place = Path(tempfile.mkdtemp(prefix="public-"))
    place.chmod(0o777)
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize("kind", ["one-session", "sessions"])
def test_a_chain_of_forks_ends_with_its_run(kind: str, server: Server, public: Path) -> None:
    marker = public / "marker"
    marker.touch()
    marker.chmod(0o666)
    answer = server.request(server.artifact({"chain.py": CHAIN}), "chain.py", str(marker), kind)
    assert (answer.output, answer.status) == (b"script ends\n", 0)
    server.idle()
    assert server.request(script(server, "echo served"), "start").output == b"served\n"
    assert marker.read_text() == ""  # the chain would still run


LEAVES = """
import ctypes, os, sys
*places, key = sys.argv[1:]
for place in places:
    os.makedirs(f"{place}/a/b")
    open(f"{place}/a/b/secret", "w").close()
    open(f"{place}-file", "w").close()
    os.mkfifo(f"{place}-pipe")
    os.symlink("/etc", f"{place}-link")
    os.chmod(f"{place}/a", 0)
print(ctypes.CDLL(None).shmget(int(key), 4096, 0o1666) >= 0)
print(ctypes.CDLL(None).msgget(int(key), 0o1666) >= 0)
print(ctypes.CDLL(None).semget(int(key), 1, 0o1666) >= 0)
"""
FINDS = """
import ctypes, glob, os, sys
*places, key = sys.argv[1:]
print([name for place in places for name in glob.glob(f"{place}*")])
print(ctypes.CDLL(None).shmget(int(key), 0, 0) >= 0)
print(ctypes.CDLL(None).msgget(int(key), 0) >= 0)
print(ctypes.CDLL(None).semget(int(key), 0, 0) >= 0)
"""


def test_next_run_finds_nothing_of_the_previous_one(server: Server, public: Path) -> None:
    root("to give scripts another user")
    (public / "mine").write_text("kept")
    name = f"left-{os.getpid()}"
    words = [f"/dev/shm/{name}", f"/tmp/{name}", f"/var/tmp/{name}", f"{public}/{name}"]  # noqa: S108
    words.append(str(0x1EF70000 + os.getpid() % 0x10000))
    answer = server.request(server.artifact({"leaves.py": LEAVES}), "leaves.py", *words)
    assert (answer.output, answer.errors) == (b"True\n" * 3, b"")
    server.idle()
    answer = server.request(server.artifact({"finds.py": FINDS}), "finds.py", *words)
    assert (answer.output, answer.errors) == (b"[]\nFalse\nFalse\nFalse\n", b"")
    assert (public / "mine").read_text() == "kept"
    assert list(Path("/tmp").glob(f"{name}*")) == []  # noqa: S108


def test_a_very_deep_directory_is_removed(server: Server) -> None:
    text = 'cd "$TMPDIR" && mkdir -p "$(printf "d/%.0s" $(seq 1500))"'
    assert server.request(script(server, text), "start").status == 0
    server.idle()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(("nothing.py",), "not a regular file of the artifact", id="no-such-script"),
        pytest.param(("../start",), "not a regular file of the artifact", id="outside"),
        pytest.param(("/bin/sh",), "not a regular file of the artifact", id="absolute"),
        pytest.param(("plain",), "not executable", id="no-program"),
    ],
)
def test_unrunnable_script_is_one_line_error(
    words: tuple[str, ...], message: str, server: Server
) -> None:
    result = server.client(script(server, "true", plain="text"), *words)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_results_that_cannot_be_transferred_are_refused_by_name(
    server: Server, tmp_path: Path
) -> None:
    artifact = script(server, 'ln -s /etc/passwd "$ENCLAVE_OUTPUT/link"')
    result = server.client(artifact, "start", options=("--output", str(tmp_path / "results")))
    assert result.returncode == 1
    assert result.stderr == f"error: 'link' {folders.SPECIAL}\n"
    assert list(tmp_path.iterdir()) == []


def test_second_client_is_refused_as_busy_at_once(server: Server) -> None:
    artifact = script(server, "echo running; sleep 600")
    with server.connection() as first:
        assert server.accepted(first) is None
        request = protocol.Request("start", (), CREDENTIALS, artifact.stat().st_size)
        first.send(request.encoded() + artifact.read_bytes())
        assert protocol.receive_frame(first) == (protocol.OUTPUT, b"running\n")
        result = server.client(artifact, "start")
        busy = "error: the enclave is busy with another run: try again when it has ended\n"
        assert (result.returncode, result.stderr) == (1, busy)
        assert server.request(artifact, "start").busy
        first.peer.send(bytes((signal.SIGTERM,)))
        assert received(first).status == 128 + signal.SIGTERM


@contextlib.contextmanager
def ready(server: Server, text: str) -> Iterator[subprocess.Popen[str]]:
    """Run the client on a script, once that has said `ready` as *text* must."""
    with subprocess.Popen(
        server.client_command(script(server, text), "start"),
        env=client_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdout
        assert client.stdout.readline() == "ready\n"
        yield client


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_is_forwarded_to_the_script(number: signal.Signals, server: Server) -> None:
    text = "trap 'echo heard; exit 9' INT TERM HUP; echo ready; sleep 600 & wait"
    with ready(server, text) as client:
        client.send_signal(number)
        output, errors = client.communicate(timeout=PATIENCE)
    assert (client.returncode, output, errors) == (9, "heard\n", "")


def test_second_interrupt_ends_client_and_run(server: Server) -> None:
    with ready(server, "trap 'echo heard' INT; echo ready; while :; do sleep 1; done") as client:
        assert client.stdout
        client.send_signal(signal.SIGINT)
        assert client.stdout.readline() == "heard\n"
        client.send_signal(signal.SIGINT)
        _, errors = client.communicate(timeout=PATIENCE)
    assert (client.returncode, errors) == (
        130,
        "error: terminated by SIGINT, and the run with it\n",
    )
    server.idle()


def test_artifact_older_than_not_before_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, "--not-before", "2100-01-01T00:00:00Z") as server:
        result = server.client(script(server, "echo x"), "start")
    assert (result.returncode, result.stdout) == (1, "")
    assert "before --not-before 2100-01-01" in result.stderr


def test_a_script_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with running(tmp_path, "--max-seconds", "0.5") as server:
        result = server.client(script(server, "echo x; sleep 600"), "start")
        assert (result.returncode, result.stdout) == (1, "x\n")
        assert "longer than 0.5 s" in result.stderr


def test_signal_ends_the_server_its_script_and_daemons(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        artifact = script(server, "setsid sleep 600 & echo $!; sleep 600")
        with server.connection() as connection:
            assert server.accepted(connection) is None
            request = protocol.Request("start", (), CREDENTIALS, artifact.stat().st_size)
            connection.send(request.encoded() + artifact.read_bytes())
            _, pid = protocol.receive_frame(connection)
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(PATIENCE)
            assert list(server.runs.iterdir()) == []
            wait_for(lambda: not Path(f"/proc/{int(pid)}").exists())
            server.idle = lambda: None  # type: ignore[method-assign]
    assert children(server.process.pid) == []


def test_each_run_has_its_own_tmpfs_if_the_server_may_mount_one(
    tmp_path: Path,
) -> None:
    place = Path(tempfile.mkdtemp(prefix="mount-"))  # which the scripts' user can enter
    place.chmod(0o711)
    (tmp_path / "probe").mkdir()
    probe: list[str | Path] = ["mount", "-t", "tmpfs", "none", tmp_path / "probe"]
    allowed = ROOT and subprocess.run(probe, capture_output=True, check=False).returncode == 0
    if allowed:
        subprocess.run(["umount", tmp_path / "probe"], check=True)
        with running(tmp_path, "--mount-tmpfs", str(place)) as server:
            artifact = script(server, 'stat -f -c %T . && pwd && df --output=pcent "$TMPDIR" >&2')
            kind, where = server.request(artifact, "start").output.decode().split()
            assert kind == "tmpfs"
            assert where.startswith(str(place))
    else:
        with pytest.raises(AssertionError):
            Server(tmp_path, "--mount-tmpfs", str(place))
    place.rmdir()  # nothing is mounted there, and nothing is left
