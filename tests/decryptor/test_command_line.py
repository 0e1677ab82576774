"""The command line: every failure is one line, whatever the arguments and streams."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.decryptor import make_vectors
from tests.support.enclave import PIN, Enclave, one_error, zipped
from tests.support.paths import ENVELOPE_DECRYPTOR, PROJECT

HELLO = zipped({"hello": "hello"})
MADE = 1_700_000_000  # 2023-11-14T22:13:20Z, the time of a token of make_vectors


def test_version_is_that_of_the_project() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    result = subprocess.run(
        [sys.executable, str(ENVELOPE_DECRYPTOR), "--version"], capture_output=True, check=True
    )
    assert result.stdout.decode() == f"envelope_decryptor.py {project['version']}\n"


@pytest.mark.parametrize("verb", ["decrypt", "run"])
def test_help_shows_an_example(verb: str) -> None:
    command = [sys.executable, str(ENVELOPE_DECRYPTOR), verb, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"example:\n  envelope_decryptor.py {verb} -f " in result.stdout


@pytest.mark.parametrize(
    ("not_before", "opens"),
    [
        pytest.param("2023-11-14T22:13:19Z", True, id="a-second-before"),
        pytest.param("2023-11-14T22:13:20Z", True, id="the-same-second"),
        pytest.param("2023-11-14T22:13:21Z", False, id="a-second-later"),
        pytest.param("2023-11-14T22:13:20.5Z", False, id="half-a-second-later"),
        pytest.param("2023-11-14T23:13:20+01:00", True, id="the-same-with-an-offset"),
        pytest.param("2023-11-14T23:13:20", False, id="without-an-offset-it-is-UTC"),
        pytest.param("2023-11-14", True, id="a-date-is-its-midnight"),
        pytest.param("2023-11-15", False, id="the-next-day"),
        pytest.param("9999-12-31T23:59:59Z", False, id="the-last-time-there-is"),
    ],
)
def test_artifact_encrypted_before_not_before_is_refused(
    not_before: str,
    opens: bool,  # noqa: FBT001
    enclave: Enclave,
) -> None:
    artifact = enclave.home / "application_code.zip.encrypted"
    artifact.write_bytes(make_vectors.encoded(make_vectors.GOOD))
    result = enclave.decrypt(artifact, "--not-before", not_before)
    if opens:
        assert (result.returncode, result.stderr) == (0, "")
    else:
        assert f": it was encrypted at {_utc(MADE)}, before --not-before " in one_error(result)
        assert enclave.left_behind() == set()


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_run_refuses_an_artifact_that_is_too_old(enclave: Enclave) -> None:
    artifact = enclave.home / "application_code.zip.encrypted"
    artifact.write_bytes(make_vectors.encoded(make_vectors.GOOD))
    words = enclave.command("run", artifact, *PIN, "--not-before", "2024-01-01", "--", "a")
    result = subprocess.run(
        words, env=enclave.environment(), capture_output=True, text=True, check=False
    )
    assert "use a newer artifact" in one_error(result)


@pytest.mark.parametrize(
    "moment",
    ["yesterday", "2026-13-01", "", "now\x1b[2J", "0001-01-01", "1969-12-31T23:59:59Z"],
)
def test_invalid_not_before_is_a_usage_error(moment: str, enclave: Enclave) -> None:
    error = one_error(enclave.decrypt(enclave.artifact(HELLO), "--not-before", moment), status=2)
    assert error.startswith("error: argument --not-before: ")


@pytest.mark.parametrize("written", [None, b"", b"\0\0\0", b"\0\0\0\4keys" + b"A" * 100])
def test_reading_from_a_pipe_times_out(written: bytes | None, enclave: Enclave) -> None:
    """No writer opens it; a writer opens it and writes nothing; the writer stops midway."""
    pipe = enclave.home / "application_code.zip.encrypted"
    os.mkfifo(pipe)
    # Opened for both, since opening it for writing alone waits for the reader.
    writer = None if written is None else os.open(pipe, os.O_RDWR)
    try:
        if writer:
            os.write(writer, written or b"")
        error = one_error(enclave.decrypt(pipe, "--timeout", "1"))
    finally:
        if writer:
            os.close(writer)
    assert (
        "no data arrived for 1 s: is the program that writes to this pipe still running?" in error
    )
    assert enclave.left_behind() == set()


@pytest.mark.parametrize("name", ["a\nerror: b", "\x1b[31mred", "\x9bcsi", "\u202ertl", "\udcff"])
def test_control_characters_in_names_are_escaped(name: str, enclave: Enclave) -> None:
    one = one_error(enclave.decrypt(enclave.home / name))
    assert one.isprintable()
    artifact = enclave.artifact(HELLO)
    assert one_error(enclave.run(artifact, name)).isprintable()


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-", ">&-", "2>/dev/full"])
def test_closed_streams_do_not_change_the_result(closed: str, enclave: Enclave) -> None:
    artifact = enclave.artifact(HELLO)
    for words, status in (((), 0), (("--timeout", "x"), 2), (("-d", "/no/such/tree"), 1)):
        command = enclave.command("decrypt", artifact, "-d", str(enclave.home / "tree"), *PIN)
        result = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *command, *words],
            env=enclave.environment(),
            capture_output=True,
            check=False,
        )
        assert (result.returncode, result.stdout) == (status, b"")
        if status == 0:
            assert (enclave.home / "tree/hello").read_text() == "hello"


def test_help_to_a_full_device_causes_no_traceback(enclave: Enclave) -> None:
    result = subprocess.run(
        ["sh", "-c", '"$@" --help >/dev/full', "sh", sys.executable, str(ENVELOPE_DECRYPTOR)],
        env=enclave.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert not re.search("Exception|Traceback", result.stderr)


def test_impossible_path_is_one_line_error(enclave: Enclave) -> None:
    for path in (Path("x" * 300), Path("/" + "y/" * 3000), Path("/proc/self/mem")):
        one_error(enclave.decrypt(path))
