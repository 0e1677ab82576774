"""How the data key is asked for: both command lines of AWS's tool, its crashes, its refusals."""

from __future__ import annotations

import base64
import signal
import subprocess
from pathlib import Path

import pytest

from tests.decryptor.enclave_fixture import (
    CREDENTIALS,
    ENCRYPTED_KEY,
    KEY_ARN,
    PIN,
    Enclave,
    one_error,
    zipped,
)

HELLO = zipped({"hello": "hello"})
OPTIONS = [
    *("--region", "eu-central-1", "--proxy-port", "8000"),
    *("--aws-access-key-id", "ASIAEXAMPLE", "--aws-secret-access-key", "secret-example"),
    *("--aws-session-token", "token-example"),
    *("--ciphertext", base64.b64encode(ENCRYPTED_KEY).decode()),
]
PINNED = [*OPTIONS, "--key-id", KEY_ARN, "--encryption-algorithm", "SYMMETRIC_DEFAULT"]


@pytest.mark.parametrize(
    ("version", "words", "calls"),
    [
        pytest.param("0.4.0", PIN, [["decrypt", *PINNED]], id="0.4.0-pinned"),
        pytest.param("0.3.0", PIN, [["decrypt", *PINNED], PINNED], id="0.3.0-pinned"),
        pytest.param(
            "0.2.1",
            ("--any-key", "--region", "eu-central-1"),
            [["decrypt", *OPTIONS], OPTIONS],
            id="0.2.1-unpinned",
        ),
    ],
)
def test_each_version_is_called_as_it_wants_and_kms_asked_once(
    version: str, words: tuple[str, ...], calls: list[list[str]], enclave: Enclave
) -> None:
    result = enclave.decrypt(enclave.artifact(HELLO), *words, STAND_IN_VERSION=version)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (enclave.home / "tree/hello").read_text() == "hello"
    assert enclave.calls() == calls
    assert enclave.questions() == 1


def test_a_tool_too_old_to_pin_is_refused(enclave: Enclave) -> None:
    error = one_error(enclave.decrypt(enclave.artifact(HELLO), STAND_IN_VERSION="0.2.1"))
    assert "knows no --key-id, so it cannot pin the key: use " in error
    assert enclave.questions() == 0


@pytest.mark.parametrize(
    ("behaviour", "questions"),
    [
        pytest.param("crash answer", 2, id="killed-by-a-signal-once"),
        pytest.param("abort crash answer", 3, id="crashed-twice"),
        pytest.param("hang answer", 2, id="hung-once"),
    ],
)
def test_crashes_and_hangs_are_tried_again(
    behaviour: str, questions: int, enclave: Enclave
) -> None:
    artifact = enclave.artifact(HELLO)
    result = enclave.decrypt(artifact, "--timeout", "3", STAND_IN_BEHAVIOUR=behaviour)
    assert (result.returncode, result.stderr) == (0, "")
    assert enclave.questions() == questions
    assert not hung_processes(enclave)


def hung_processes(enclave: Enclave) -> list[str]:
    """Return those of the hanging tool's processes, its child included, that still run."""
    record = enclave.tool.with_name("hanging")
    pids = record.read_text().split() if record.exists() else []
    return [pid for pid in pids if runs(pid)]


def runs(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize(
    ("settings", "words", "questions", "message"),
    [
        pytest.param(
            {"STAND_IN_BEHAVIOUR": "crash"}, (), 3, "crashed (status 139), 3 times", id="crash"
        ),
        pytest.param(
            {"STAND_IN_BEHAVIOUR": "abort"}, (), 3, "crashed (status 134), 3 times", id="abort"
        ),
        pytest.param(
            {"STAND_IN_BEHAVIOUR": "hang"},
            ("--timeout", "2"),
            3,
            "gave no answer in 2 s, 3 times",
            id="hang",
        ),
        pytest.param({"STAND_IN_BEHAVIOUR": "refuse"}, (), 1, "status 255", id="refusal"),
        pytest.param(
            {"STAND_IN_BEHAVIOUR": "refuse", "STAND_IN_VERSION": "0.3.0"},
            (),
            1,
            "status 1,",
            id="refusal-by-0.3.0",
        ),
        pytest.param(
            {}, ("--key-id", KEY_ARN + "0"), 1, "another key than " + KEY_ARN + "0", id="other-key"
        ),
        pytest.param(
            {"STAND_IN_BEHAVIOUR": "babble"}, (), 1, "not a 32-byte data key", id="babble"
        ),
        pytest.param(
            {"AWS_SESSION_TOKEN": ""}, (), 0, "AWS_SESSION_TOKEN is not in the", id="no-token"
        ),
        pytest.param(
            {}, ("--kmstool", "no-such-tool"), 0, "no-such-tool is not a program", id="no-tool"
        ),
    ],
)
def test_a_key_that_is_not_released_is_one_line_without_secrets(
    settings: dict[str, str],
    words: tuple[str, ...],
    questions: int,
    message: str,
    enclave: Enclave,
) -> None:
    error = one_error(enclave.decrypt(enclave.artifact(HELLO), *words, **settings))
    assert message in error
    for secret in (*CREDENTIALS.values(), "TRACE", "bm90"):
        assert secret not in error
    assert enclave.questions() == questions
    assert not hung_processes(enclave)
    assert enclave.left_behind() == set()


@pytest.mark.parametrize(
    ("words", "settings", "region"),
    [
        pytest.param(("--region", "us-east-1", *PIN), {}, "us-east-1", id="given-beside-an-ARN"),
        pytest.param(
            ("--any-key",), {"AWS_REGION": "a-1", "AWS_DEFAULT_REGION": "b-1"}, "a-1", id="region"
        ),
        pytest.param(("--any-key",), {"AWS_DEFAULT_REGION": "b-1"}, "b-1", id="default-region"),
    ],
)
def test_the_region_is_the_nearest_one_named(
    words: tuple[str, ...], settings: dict[str, str], region: str, enclave: Enclave
) -> None:
    assert enclave.decrypt(enclave.artifact(HELLO), *words, **settings).returncode == 0
    assert enclave.calls()[0][1:3] == ["--region", region]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(("--any-key",), "names no region", id="no-region"),
        pytest.param(("--key-id", "alias/enclavekey"), "takes a key's ARN", id="alias-as-pin"),
        pytest.param(("--any-key", *PIN), "not allowed with", id="pinned-and-not"),
        pytest.param(("--", "hello"), "takes -- SCRIPT", id="script-for-decrypt"),
    ],
)
def test_wrong_usage_ends_with_2_and_asks_nobody(
    words: tuple[str, ...], message: str, enclave: Enclave
) -> None:
    result = enclave.decrypt(enclave.artifact(HELLO), *words)
    assert result.returncode == 2
    assert message in result.stderr
    assert not enclave.tool.with_name("calls").exists()


def test_without_a_pin_nothing_is_opened(enclave: Enclave) -> None:
    command = enclave.command("decrypt", enclave.artifact(HELLO), "-d", str(enclave.home / "tree"))
    result = subprocess.run(command, env=enclave.environment(), capture_output=True, check=False)
    assert result.returncode == 2
    assert b"--key-id --any-key is required" in result.stderr


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_a_hanging_tool_too(
    number: signal.Signals, status: int, enclave: Enclave
) -> None:
    artifact = enclave.artifact(HELLO)
    process = enclave.start(artifact, STAND_IN_BEHAVIOUR="hang")
    hanging = enclave.tool.with_name("hanging")
    while not (hanging.exists() and hanging.read_text()):
        assert process.poll() is None
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == status
    assert errors == f"error: ended by {number.name}, nothing is left\n"
    assert not hung_processes(enclave)
    assert enclave.left_behind() == set()
