"""Sessions, as a server runs them: the artifact is a stream, output goes to a callback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.enclave import Enclave, zipped
from tests.support.machine import root
from tests.support.processes import PATIENCE

DRIVER = Path(__file__).with_name("session_driver.py")


def start(enclave: Enclave, script: str, **wish: Any) -> subprocess.Popen[str]:  # noqa: ANN401
    """Have the driver serve one request for *script*, which is next to a large file."""
    files: dict[str, bytes | str] = {"start": f"#!/bin/sh\n{script}\n", "large": os.urandom(2**21)}
    command = [sys.executable, str(DRIVER), str(enclave.artifact(zipped(files)))]
    return subprocess.Popen(
        [*command, json.dumps(wish), "start", "a b"],
        # No other user may enter pytest's own directories.
        env=enclave.environment(**({"TMPDIR": ""} if "user" in wish else {})),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def served(process: subprocess.Popen[str]) -> tuple[dict[int, str], dict[str, Any]]:
    """Return each stream's output, and the result."""
    output, _ = process.communicate(timeout=PATIENCE)
    *chunks, end = [json.loads(line) for line in output.splitlines()]
    streams = {1: "", 2: ""}
    for chunk in chunks:
        streams[chunk["stream"]] += chunk["data"]
    return streams, end


@pytest.mark.parametrize("old", [False, True], ids=["here", "on-the-kernel-of-nitro-cli"])
def test_both_streams_arrive_whole_with_the_exit_status_of_the_script(
    old: bool,  # noqa: FBT001 - a row of the table
    enclave: Enclave,
) -> None:
    script = 'echo "$1"; seq 20000; echo oops >&2; exit 7'
    streams, end = served(start(enclave, script, old_kernel=old))
    lines = streams[1].splitlines()
    assert lines == ["a b", *map(str, range(1, 20001))]
    assert streams[2] == "oops\n"
    assert end == {"status": 7, "children": []}
    assert enclave.left_behind() == set()


def test_script_leads_a_session_without_a_terminal(enclave: Enclave) -> None:
    """In ours it could type into the terminal, or join a process group that is killed later."""
    streams, _ = served(start(enclave, "echo $$; cut -d' ' -f6,7 /proc/$$/stat"))
    pid, stat = streams[1].splitlines()
    assert stat == f"{pid} 0"


def test_environment_is_that_of_the_session_without_aws_variables(enclave: Enclave) -> None:
    streams, _ = served(start(enclave, "env | cut -d= -f1 | sort"))
    assert set(streams[1].split()) - {"OLDPWD", "PWD", "SHLVL", "_"} == {"ENCLAVE_INPUT", "PATH"}


def test_daemons_do_not_keep_the_session_open(enclave: Enclave) -> None:
    streams, end = served(start(enclave, "setsid sleep 600 & echo done"))
    assert streams[1] == "done\n"
    assert end == {"status": 0, "children": []}


@pytest.mark.parametrize(
    ("wish", "script", "error"),
    [
        pytest.param({"seconds": 0.5}, "sleep 600", "TimeLimitError", id="too-long"),
        pytest.param({"gone": True}, "echo x; sleep 600", "BrokenPipeError", id="nobody-reads"),
        pytest.param({"fault": "torn"}, "echo x", "OSError", id="the-stream-breaks-off"),
    ],
)
def test_session_that_ends_early_leaves_nothing(
    wish: dict[str, Any], script: str, error: str, enclave: Enclave
) -> None:
    _, end = served(start(enclave, script, **wish))
    assert end["error"].startswith(f"{error}: ")
    assert end["children"] == []
    assert enclave.left_behind() == set()


def test_signal_from_the_client_reaches_the_script(enclave: Enclave) -> None:
    script = "trap 'echo caught; exit 5' INT\necho ready\nwhile :; do sleep 0.1; done"
    with start(enclave, script, control=True) as process:
        assert process.stdin
        assert process.stdout
        assert json.loads(process.stdout.readline())["data"] == "ready\n"
        process.stdin.write("2\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readlines()[-1])["status"] == 5


def test_disconnected_client_ends_a_silent_script(enclave: Enclave) -> None:
    _, end = served(start(enclave, "exec sleep 600", control=True))
    assert end == {"error": "ConnectionResetError: [Errno 104] the client has gone", "children": []}
    assert enclave.left_behind() == set()


def test_script_can_run_as_another_user_who_owns_only_the_tree(
    enclave: Enclave,
) -> None:
    root("to become somebody else")
    script = "id -u; id -G; stat -c '%u %g' . start large; ls .. 2>&1; echo x >new && cat new"
    streams, end = served(start(enclave, script, user=[20_777, 20_778]))
    owner = "20777 20778\n"
    assert streams[1].startswith("20777\n20778\n" + 3 * owner)
    assert "Permission denied" in streams[1]
    assert streams[1].endswith("x\n")
    assert end == {"status": 0, "children": []}
    assert enclave.left_behind() == set()
