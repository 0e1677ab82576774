"""Requesting the data key: both command lines of kmstool, its crashes, its refusals."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.enclave import (
    CREDENTIALS,
    ENCRYPTED_KEY,
    KEY_ARN,
    PIN,
    Enclave,
    one_error,
    zipped,
)
from tests.support.processes import wait_for

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
def test_each_version_gets_its_own_arguments_and_calls_kms_once(
    version: str, words: tuple[str, ...], calls: list[list[str]], enclave: Enclave
) -> None:
    result = enclave.decrypt(enclave.artifact(HELLO), *words, KMSTOOL_VERSION=version)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (enclave.home / "tree/hello").read_text() == "hello"
    assert enclave.calls() == calls
    assert enclave.requests() == 1


def test_version_that_cannot_pin_the_key_is_refused(enclave: Enclave) -> None:
    error = one_error(enclave.decrypt(enclave.artifact(HELLO), KMSTOOL_VERSION="0.2.1"))
    assert "has no option --key-id, so it cannot pin the key: use " in error
    assert enclave.requests() == 0


@pytest.mark.parametrize(
    ("behaviour", "requests"),
    [
        pytest.param("crash answer", 2, id="killed-by-a-signal-once"),
        pytest.param("abort crash answer", 3, id="crashed-twice"),
        pytest.param("hang answer", 2, id="hung-once"),
        pytest.param("crash " * 10 + "answer", 11, id="crashed-ten-times"),
        pytest.param("crash " * 10 + "drop fail answer", 13, id="each-kind-counts-by-itself"),
        pytest.param("unreachable unreachable answer", 3, id="the-proxy-came-late"),
    ],
)
def test_crashes_and_hangs_are_retried(behaviour: str, requests: int, enclave: Enclave) -> None:
    artifact = enclave.artifact(HELLO)
    seconds = "3" if "hang" in behaviour else "60"
    result = enclave.decrypt(artifact, "--timeout", seconds, KMSTOOL_BEHAVIOUR=behaviour)
    assert (result.returncode, result.stderr) == (0, "")
    assert enclave.requests() == requests
    assert not hung_processes(enclave)


def hung_processes(enclave: Enclave) -> list[str]:
    """Return the processes of the hanging kmstool, its child included, that still run."""
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
    ("settings", "words", "requests", "message"),
    [
        pytest.param(
            {"KMSTOOL_BEHAVIOUR": "hang"},
            ("--timeout", "2"),
            3,
            "gave no answer in 2 s, 3 times",
            id="hang",
        ),
        pytest.param(
            {"KMSTOOL_BEHAVIOUR": "no-document", "KMSTOOL_VERSION": "0.3.0"},
            (),
            1,
            "got no attestation document (status 1): KMS was not asked",
            id="no-document-in-0.3.0",
        ),
        pytest.param(
            {"KMSTOOL_BEHAVIOUR": "refuse", "KMSTOOL_VERSION": "0.3.0"},
            (),
            1,
            "was refused by KMS (status 1): ",
            id="refusal-by-0.3.0",
        ),
        pytest.param(
            {"KMSTOOL_BEHAVIOUR": "endless"}, (), 1, "wrote too much", id="endless-answer"
        ),
        pytest.param(
            {"KMSTOOL_BEHAVIOUR": "endless-log"}, (), 1, "wrote too much", id="endless-log"
        ),
        pytest.param(
            {"KMSTOOL_VERSION": "0.3.1"}, (), 0, "as version 0.3.1 does: use ", id="0.3.1"
        ),
        pytest.param(
            {}, ("--key-id", KEY_ARN + "0"), 1, "another key than " + KEY_ARN + "0", id="other-key"
        ),
        pytest.param({"KMSTOOL_BEHAVIOUR": "babble"}, (), 1, "not a 32-byte data key", id="babble"),
        pytest.param(
            {"AWS_SESSION_TOKEN": ""}, (), 0, "AWS_SESSION_TOKEN is not in the", id="no-token"
        ),
        pytest.param(
            {}, ("--kmstool", "no-such-tool"), 0, "no-such-tool is not a program", id="no-tool"
        ),
    ],
)
def test_unreleased_data_key_is_one_line_error_without_secrets(
    settings: dict[str, str],
    words: tuple[str, ...],
    requests: int,
    message: str,
    enclave: Enclave,
) -> None:
    error = one_error(enclave.decrypt(enclave.artifact(HELLO), *words, **settings))
    assert message in error
    for secret in (*CREDENTIALS.values(), "TRACE", "bm90"):
        assert secret not in error
    assert enclave.requests() == requests
    assert not hung_processes(enclave)
    assert enclave.left_behind() == set()


BUSY = "crashed (status 139), 11 times: it crashes when the enclave's CPUs are busy"
PROXY = "on the parent, start vsock-proxy 8000 kms.eu-central-1.amazonaws.com 443. Version 0.4.0"


@pytest.mark.parametrize(
    ("behaviour", "requests", "message"),
    [
        ("crash", 11, BUSY),
        (
            "abort",
            3,
            "crashed (status 134), 3 times: check that vsock-proxy listens on the parent's",
        ),
        ("refuse", 1, "was refused by KMS (status 255): the tool does not print the reason"),
        ("fail", 3, "got an internal error from KMS (status 255), 3 times: try again later"),
        ("drop", 3, "lost its connection to KMS (status 255), 3 times: is vsock-proxy still "),
        ("no-document", 1, "got no attestation document (status 255): KMS was not asked: check"),
        ("outside", 1, "found no Nitro security module (status 134): this is not an enclave: "),
        (
            "unreachable",
            3,
            f"could not connect to the parent's port 8000 (status 134), 3 times: {PROXY}",
        ),
        (
            "unreachable-crash",
            3,
            "could not connect to the parent's port 8000 (status 139), 3 times",
        ),
        (
            "untrusted",
            1,
            "did not trust the server's certificate (status 134): vsock-proxy must lead to kms.",
        ),
        ("no-library", 1, "does not start: libnsm.so is missing: copy libnsm.so into the image"),
        ("other-cpu", 1, "does not start (status 126): is it a program for this image's CPU?"),
        ("unknown", 1, "failed (status 3): is "),
        ("abort crash refuse", 3, "crashed (status 134); crashed (status 139); was refused by KMS"),
    ],
)
def test_each_failure_has_its_own_message(
    behaviour: str, requests: int, message: str, enclave: Enclave
) -> None:
    error = one_error(enclave.decrypt(enclave.artifact(HELLO), KMSTOOL_BEHAVIOUR=behaviour))
    assert f"KMS released no data key: kmstool {message}" in error
    for secret in (*CREDENTIALS.values(), "TRACE", "stack"):
        assert secret not in error
    assert enclave.requests() == requests


def test_kmstool_runs_with_batch_scheduling(enclave: Enclave) -> None:
    """Otherwise, on one CPU, the real kmstool crashes 99 times out of 100."""
    assert enclave.decrypt(enclave.artifact(HELLO)).returncode == 0
    policy, _ = enclave.tool.with_name("limits").read_text().split(maxsplit=1)
    assert int(policy) == os.SCHED_BATCH


@pytest.mark.parametrize(
    ("words", "settings", "region"),
    [
        pytest.param(("--region", "eu-central-1", *PIN), {}, "eu-central-1", id="given-and-in-ARN"),
        pytest.param(PIN, {"AWS_REGION": "us-east-1"}, "eu-central-1", id="the-ARN's-comes-first"),
        pytest.param(
            ("--any-key",), {"AWS_REGION": "a-1", "AWS_DEFAULT_REGION": "b-1"}, "a-1", id="region"
        ),
        pytest.param(("--any-key",), {"AWS_DEFAULT_REGION": "b-1"}, "b-1", id="default-region"),
    ],
)
def test_region_of_the_key_precedes_the_environment(
    words: tuple[str, ...], settings: dict[str, str], region: str, enclave: Enclave
) -> None:
    assert enclave.decrypt(enclave.artifact(HELLO), *words, **settings).returncode == 0
    assert enclave.calls()[0][1:3] == ["--region", region]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(("--any-key",), "needs a region", id="no-region"),
        pytest.param(("--key-id", "alias/enclavekey"), "takes a key's ARN", id="alias-as-pin"),
        pytest.param(("--any-key", *PIN), "not allowed with", id="pinned-and-not"),
        pytest.param(("--", "hello"), "-- SCRIPT", id="script-for-decrypt"),
        pytest.param(("--region", "us-east-1"), "contradicts --key-id", id="another-region"),
        pytest.param(("--any-key", "--region", "eu_1"), "not the name of a region", id="no-name"),
        *[
            pytest.param(("--proxy-port", port), "--proxy-port: ", id=f"port-{port}")
            for port in ("0", "-1", "65536", "70000", "8000.5", "x", "9" * 5000)
        ],
        *[
            pytest.param(("--timeout", seconds), "--timeout: ", id=f"timeout-{seconds}")
            for seconds in ("0", "-1", "nan", "inf", "-inf", "1e10", "x")
        ],
        pytest.param(("--max-members", "-1"), "--max-members: ", id="fewer-than-none"),
        pytest.param(("--max-bytes", "-1"), "--max-bytes: ", id="less-than-nothing"),
        pytest.param(("--\x1b[31m\nred",), "--\\x1b[31m\\nred", id="control-characters"),
    ],
)
def test_usage_error_is_status_2_before_kmstool_runs(
    words: tuple[str, ...], message: str, enclave: Enclave
) -> None:
    result = enclave.decrypt(enclave.artifact(HELLO), *words)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.replace("\n", "").isprintable()
    assert len(re.findall("^[^ \n]*error: ", result.stderr, re.MULTILINE)) <= 1
    assert not enclave.tool.with_name("calls").exists()


def test_without_key_id_nothing_is_decrypted(enclave: Enclave) -> None:
    command = enclave.command("decrypt", enclave.artifact(HELLO), "-d", str(enclave.home / "tree"))
    result = subprocess.run(command, env=enclave.environment(), capture_output=True, check=False)
    assert result.returncode == 2
    assert b"--key-id --any-key is required" in result.stderr


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131)],
)
def test_signal_also_ends_a_hanging_kmstool(
    number: signal.Signals, status: int, enclave: Enclave
) -> None:
    artifact = enclave.artifact(HELLO)
    process = enclave.start(artifact, KMSTOOL_BEHAVIOUR="hang")
    hanging = enclave.tool.with_name("hanging")
    wait_for(lambda: hanging.exists() and hanging.read_text().endswith("\n"))
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == status
    assert errors == f"error: terminated by {number.name}, nothing is left behind\n"
    assert not hung_processes(enclave)
    assert enclave.left_behind() == set()
