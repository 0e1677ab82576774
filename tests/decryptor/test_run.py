"""Running a script from an artifact: what it can see, how it ends, and that nothing outlives it."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.enclave import PIN, Enclave, one_error, zipped
from tests.support.machine import lacking

REPORT = """
import json, os, stat, sys
kind = lambda path: stat.filemode(os.stat(path).st_mode)
print(json.dumps({
    "arguments": sys.argv[1:],
    "input": sys.stdin.read(),
    "aws": [name for name in os.environ if name.startswith("AWS_")],
    "other": os.environ.get("KMSTOOL_VERSION"),
    "here": os.getcwd(),
    "files": sorted(os.listdir()),
    "around": kind(".."),
    "beside": os.listdir(".."),
}))
print("complaint", file=sys.stderr)
sys.exit(7)
"""
ARGUMENTS = ["--", "-f", "a b", "", "$HOME", "--key-id", "ü"]


def test_script_gets_its_arguments_and_streams_but_no_credentials(
    enclave: Enclave,
) -> None:
    artifact = enclave.artifact(zipped({"bin/report.py": REPORT, "data": ""}))
    result = enclave.run(
        artifact, "bin/report.py", *ARGUMENTS, stdin="question", KMSTOOL_VERSION="0.4.0"
    )
    assert (result.returncode, result.stderr) == (7, "complaint\n")
    report = json.loads(result.stdout)
    here = Path(report.pop("here"))
    assert report == {
        "arguments": ARGUMENTS,
        "input": "question",
        "aws": [],
        "other": "0.4.0",
        "files": ["bin", "data"],
        "around": "drwx------",
        "beside": ["tree"],
    }
    assert here.is_relative_to(enclave.home)
    assert not here.exists()
    assert enclave.left_behind() == set()


def test_by_default_the_tree_is_in_memory(enclave: Enclave) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    if " tmpfs rw" not in mounts:
        lacking("a memory file system (tmpfs)")
    script = "import subprocess; subprocess.run(['stat', '-f', '-c', '%T', '.'])"
    artifact = enclave.artifact(zipped({"where.py": script}))
    assert enclave.run(artifact, "where.py", TMPDIR="").stdout == "tmpfs\n"


@pytest.mark.parametrize(
    ("script", "executable"),
    [
        pytest.param("#!/bin/sh\necho $1 $#", ("start",), id="executable"),
        pytest.param("#!/bin/sh\necho $1 $#", (), id="by-its-first-line"),
        pytest.param("#! /bin/sh -e\necho $1 $#", (), id="with-an-option"),
    ],
)
def test_script_is_started_by_its_shebang(
    script: str, executable: tuple[str, ...], enclave: Enclave
) -> None:
    artifact = enclave.artifact(zipped({"start": script}, executable))
    result = enclave.run(artifact, "./start", "x y", "z")
    assert (result.returncode, result.stdout, result.stderr) == (0, "x y 2\n", "")


@pytest.mark.parametrize(
    ("script", "status"),
    [
        pytest.param("exit 0", 0, id="success"),
        pytest.param("exit 255", 255, id="255"),
        pytest.param("kill -KILL $$", 137, id="killed"),
        pytest.param("kill -SEGV $$", 139, id="crashed"),
    ],
)
def test_exit_status_is_that_of_the_script(script: str, status: int, enclave: Enclave) -> None:
    artifact = enclave.artifact(zipped({"start": f"#!/bin/sh\n{script}\n"}))
    assert enclave.run(artifact, "start").returncode == status
    assert enclave.left_behind() == set()


OUTSIDE = "is not a regular file of the artifact"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        pytest.param("../bin/kmstool_enclave_cli", OUTSIDE, id="climbing"),
        pytest.param("sub/../start", OUTSIDE, id="climbing-inside"),
        pytest.param("/bin/sh", OUTSIDE, id="absolute"),
        pytest.param("nothing", OUTSIDE, id="missing"),
        pytest.param("sub", OUTSIDE, id="directory"),
        pytest.param(
            "sub/data", "is not executable, has no #! line and does not end in .py", id="data"
        ),
        pytest.param("broken", "broken does not start: ", id="interpreter-missing"),
    ],
)
def test_only_scripts_of_the_artifact_are_run(script: str, message: str, enclave: Enclave) -> None:
    files: dict[str, bytes | str] = {
        "start": "#!/bin/sh\n",
        "sub/data": "x",
        "broken": "#!/no/sh\n",
    }
    content = zipped(files, executable=("start", "broken"))
    assert message in one_error(enclave.run(enclave.artifact(content), script))
    assert enclave.left_behind() == set()


def test_run_without_a_script_is_a_usage_error(enclave: Enclave) -> None:
    result = enclave.run(enclave.artifact(zipped({"a": ""})))
    assert result.returncode == 2
    assert "-- SCRIPT" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_signals_are_forwarded_to_the_script(number: signal.Signals, enclave: Enclave) -> None:
    name = number.name.removeprefix("SIG")
    script = f"#!/bin/sh\ntrap 'echo caught; exit 5' {name}\necho ready\nread line\n"
    artifact = enclave.artifact(zipped({"start": script}))
    process = started(enclave, artifact)
    process.send_signal(number)
    process.wait(timeout=20)
    output, errors = process.communicate()
    assert (process.returncode, output, errors) == (5, "caught\n", "")
    assert enclave.left_behind() == set()


def test_script_killed_by_a_signal_gives_128_plus_its_number(enclave: Enclave) -> None:
    artifact = enclave.artifact(zipped({"start": "#!/bin/sh\necho ready\nread line\n"}))
    process = started(enclave, artifact)
    process.terminate()
    process.wait(timeout=20)
    process.communicate()
    assert process.returncode == 143
    assert enclave.left_behind() == set()


def started(enclave: Enclave, artifact: Path) -> subprocess.Popen[str]:
    """Start the artifact's `start` and return once it has said `ready`."""
    process = subprocess.Popen(
        enclave.command("run", artifact, *PIN, "--", "start"),
        env=enclave.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def test_daemons_end_with_the_script(enclave: Enclave) -> None:
    """They would keep plaintext: in memory, in open files, in their directory."""
    script = "#!/bin/sh\nsetsid sh -c 'echo $$; exec sleep 600' </dev/null 2>/dev/null &\n"
    artifact = enclave.artifact(zipped({"start": script + "sleep 0.3 & exit 3\n"}))
    result = enclave.run(artifact, "start")
    assert result.returncode == 3
    for pid in result.stdout.split():
        assert not Path("/proc", pid).exists()
    assert enclave.left_behind() == set()
