"""The encrypted data key alone, as a parent needs it to see KMS deny it."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.decryptor.enclave_fixture import ENCRYPTED_KEY, one_error, sealed, zipped

PROGRAM = Path(__file__).parents[2] / "scripts/extract_decryption_key.py"
DEFAULT = "application_code.zip.encrypted"


def extract(where: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), *words]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)


def test_it_writes_the_key_that_the_artifact_begins_with(tmp_path: Path) -> None:
    (tmp_path / DEFAULT).write_bytes(sealed(zipped({"a": "b"})))
    (tmp_path / "data_key.encrypted").write_text("an older one")
    result = extract(tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (tmp_path / "data_key.encrypted").read_bytes() == ENCRYPTED_KEY
    assert {path.name for path in tmp_path.iterdir()} == {DEFAULT, "data_key.encrypted"}


@pytest.mark.parametrize("size", [1, 6144])
def test_names_can_be_chosen_and_every_allowed_length_works(size: int, tmp_path: Path) -> None:
    (tmp_path / "sealed").write_bytes(struct.pack(">I", size) + b"k" * size)
    assert extract(tmp_path, "-f", "sealed", "-o", "key").returncode == 0
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
def test_faults_are_one_line_and_leave_an_older_key_alone(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / DEFAULT).write_bytes(content)
    (tmp_path / "data_key.encrypted").write_text("an older one")
    assert message in one_error(extract(tmp_path))
    assert (tmp_path / "data_key.encrypted").read_text() == "an older one"


def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / DEFAULT).write_bytes(sealed(zipped({"a": "b"})))
    (tmp_path / "key").mkdir()
    one_error(extract(tmp_path, "-o", "key"))
    assert {path.name for path in tmp_path.iterdir()} == {DEFAULT, "key"}
