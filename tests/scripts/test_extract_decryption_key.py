"""Extracting the encrypted data key, with which the parent can see that KMS denies it."""

from __future__ import annotations

import os
import select
import signal
import struct
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest

from tests.support.enclave import ENCRYPTED_KEY, encrypted, one_error, zipped
from tests.support.paths import EXTRACT_DECRYPTION_KEY, PROJECT
from tests.support.processes import PATIENCE, wait_for

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT = "application_code.zip.encrypted"


def extract(where: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXTRACT_DECRYPTION_KEY), *words]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)


def test_encrypted_data_key_of_the_artifact_is_written(tmp_path: Path) -> None:
    (tmp_path / DEFAULT).write_bytes(encrypted(zipped({"a": "b"})))
    (tmp_path / "data_key.encrypted").write_text("an older one")
    result = extract(tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (tmp_path / "data_key.encrypted").read_bytes() == ENCRYPTED_KEY
    assert {path.name for path in tmp_path.iterdir()} == {DEFAULT, "data_key.encrypted"}


@pytest.mark.parametrize("size", [1, 6144])
def test_file_names_can_be_chosen_and_key_length_limits_are_accepted(
    size: int, tmp_path: Path
) -> None:
    (tmp_path / "artifact").write_bytes(struct.pack(">I", size) + b"k" * size)
    assert extract(tmp_path, "-f", "artifact", "-o", "key").returncode == 0
    assert (tmp_path / "key").read_bytes() == b"k" * size


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "length is 0, not 1 to 6144", id="empty"),
        pytest.param(struct.pack(">I", 6145) + bytes(6145), "length is 6145", id="too-long"),
        pytest.param(struct.pack(">I", 9) + bytes(8), "ends inside", id="cut-off"),
        pytest.param(None, "No such file", id="missing"),
    ],
)
def test_failure_is_one_line_and_keeps_an_existing_key_file(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / DEFAULT).write_bytes(content)
    (tmp_path / "data_key.encrypted").write_text("an older one")
    assert message in one_error(extract(tmp_path))
    assert (tmp_path / "data_key.encrypted").read_text() == "an older one"


def test_unwritable_output_is_one_line_error(tmp_path: Path) -> None:
    (tmp_path / DEFAULT).write_bytes(encrypted(zipped({"a": "b"})))
    (tmp_path / "key").mkdir()
    one_error(extract(tmp_path, "-o", "key"))
    assert {path.name for path in tmp_path.iterdir()} == {DEFAULT, "key"}


def test_output_may_have_the_longest_file_name(tmp_path: Path) -> None:
    (tmp_path / DEFAULT).write_bytes(encrypted(zipped({"a": "b"})))
    assert extract(tmp_path, "-o", "k" * 255).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("--no-such-option",), id="unknown-option"),
        pytest.param(("-f",), id="no-name"),
        pytest.param(("a\nerror: b\x1b[31m",), id="control-characters"),
        pytest.param(("-o", DEFAULT), id="over-the-artifact"),
    ],
)
def test_usage_error_is_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / DEFAULT).write_bytes(encrypted(zipped({"a": "b"})))
    assert one_error(extract(tmp_path, *words), status=2).isprintable()


def test_control_characters_in_names_are_escaped(tmp_path: Path) -> None:
    assert one_error(extract(tmp_path, "-f", "\x1b[31m\nb")).isprintable()


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131)],
)
def test_signal_while_waiting_is_one_line_error(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / DEFAULT)
    writer = os.open(tmp_path / DEFAULT, os.O_RDWR)
    with subprocess.Popen(
        [sys.executable, str(EXTRACT_DECRYPTION_KEY)],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.write(writer, b"\0\0\0\4")
        wait_for(lambda: not select.select([writer], [], [], 0)[0])  # it has been read
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE)
    os.close(writer)
    assert (process.returncode, errors) == (
        status,
        f"error: terminated by {number.name}, nothing is left behind\n",
    )
    assert {path.name for path in tmp_path.iterdir()} == {DEFAULT}


def test_version_is_that_of_the_project() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    result = extract(EXTRACT_DECRYPTION_KEY.parent, "--version")
    assert result.stdout == f"extract_decryption_key.py {project['version']}\n"
