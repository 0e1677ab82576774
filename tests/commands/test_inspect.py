"""inspect: what an artifact reveals without its data key, in a file, a pipe or S3."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet

from rehearsal.aws import REGION
from tests.support.artifacts import joined
from tests.support.verb import assert_one_line, run

if TYPE_CHECKING:
    from pathlib import Path

    from rehearsal.aws import Aws, Credentials
    from tests.support.endpoint import Endpoint

TIME = 1_750_000_000
ARN = f"arn:aws:kms:{REGION}:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
DATA_KEY = b"\x01\x02\x02\x00x" + bytes(range(150))
MIDDLE = 50_000
BUCKET = "bucket-of-inspections"


def token(size: int = 100_000) -> bytes:
    return Fernet(Fernet.generate_key()).encrypt_at_time(os.urandom(size), TIME)


def artifact(data_key: bytes = DATA_KEY, text: bytes | None = None) -> bytes:
    return joined(data_key, token() if text is None else text)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "application_code.zip.encrypted"
    path.write_bytes(artifact())
    return path


def test_fields_of_the_artifact_are_printed(file: Path) -> None:
    result = run("inspect", file)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"\nsize          {file.stat().st_size:,} bytes\n" in result.stdout
    assert "155 bytes, encrypted under a KMS key that the header does not name" in result.stdout
    assert "well formed, 100,016 bytes of ciphertext" in result.stdout
    assert "2025-06-15T15:06:40+00:00" in result.stdout


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1 << 20, (1 << 20) + 1])
def test_tokens_of_every_length_are_well_formed(size: int) -> None:
    result = run("inspect", "-", "--format", "json", answer=artifact(text=token(size)))
    found = json.loads(result.stdout)
    assert (result.returncode, found["well_formed"], found["whole"]) == (0, True, True)
    assert found["ciphertext_length"] == size // 16 * 16 + 16


@pytest.mark.parametrize(
    ("data_key", "key"),
    [
        pytest.param(b"\0" * 8 + ARN.encode() + b"\0" * 90, ARN, id="an-ARN-inside"),
        pytest.param(ARN.rpartition("/")[2].encode() + bytes(80), ARN[-36:], id="an-id-inside"),
        pytest.param(DATA_KEY, None, id="opaque"),
    ],
)
def test_kms_key_is_named_if_the_encrypted_data_key_reveals_it(
    data_key: bytes, key: str | None
) -> None:
    result = run("inspect", "-", "--format", "json", answer=artifact(data_key))
    assert json.loads(result.stdout)["kms_key"] == key


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "has only 0 bytes", id="empty"),
        pytest.param(b"\0\0", "has only 2 bytes", id="half-a-header"),
        pytest.param(b"\0\0\0\0" + token(), "length is 0", id="no-data-key"),
        pytest.param(b"PK\3\4" + bytes(5000), "not 1 to 6144", id="a-zip"),
        pytest.param(b"\0\0\0\xff" + bytes(9), "ends inside", id="cut-inside-the-data-key"),
    ],
)
def test_invalid_artifact_is_one_line_error(content: bytes, reason: str) -> None:
    assert_one_line(run("inspect", "-", answer=content), "error: -: ", reason)


def changed(text: bytes, at: int, new: bytes) -> bytes:
    return text[:at] + new + text[at + len(new) :]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param(b"", "a length of 0", id="no-token"),
        pytest.param(token()[:-1], "a length", id="a-character-short"),
        pytest.param(token()[:-4], "not whole AES blocks", id="a-quantum-short"),
        pytest.param(token() + b"\n", "not URL-safe base64", id="a-newline-behind"),
        pytest.param(changed(token(), MIDDLE, b" "), f"character {MIDDLE} ", id="a-blank-inside"),
        pytest.param(changed(token(), MIDDLE, b"+"), "not URL-safe", id="standard-base64"),
        pytest.param(changed(token(), MIDDLE, b"="), "follow the padding", id="padding-inside"),
        pytest.param(changed(token(), 0, b"A"), "version is 0x00", id="another-version"),
        pytest.param(token(30)[:-2] + b"B=", "unused bits", id="stray-bits"),
    ],
)
def test_malformed_token_is_reported_with_status_1(text: bytes, fault: str) -> None:
    result = run("inspect", "-", "--format", "json", answer=artifact(text=text))
    found = json.loads(result.stdout)
    assert (result.returncode, found["well_formed"]) == (1, False)
    assert fault in found["fault"]
    assert result.stderr == f"error: -: not a well-formed artifact: {found['fault']}\n"


@pytest.mark.parametrize("name", ["absent", "s3://", "s3://Bucket/name", "s3://bucket", "/"])
def test_invalid_name_is_one_line_error(name: str) -> None:
    assert_one_line(run("inspect", name), name)


def test_control_characters_in_a_name_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J\nb"
    path.write_bytes(artifact())
    assert "\x1b" not in run("inspect", path).stdout
    assert_one_line(run("inspect", f"{path}c"), "\\x1b[2J")


@pytest.fixture
def stored(aws: Aws, owner: Credentials, file: Path) -> str:
    s3 = aws.client(owner, "s3")
    s3.create_bucket(
        Bucket=f"{BUCKET}-{owner.access_key_id}",
        CreateBucketConfiguration={"LocationConstraint": REGION},
    )
    s3.put_object(
        Bucket=f"{BUCKET}-{owner.access_key_id}",
        Key="encrypted/a",
        Body=file.read_bytes(),
        Metadata={"commit": "0123abcd", "kms-key-arn": ARN},
    )
    return f"s3://{BUCKET}-{owner.access_key_id}/encrypted/a"


def test_metadata_of_an_object_is_printed(
    aws: Aws, owner: Credentials, stored: str, file: Path
) -> None:
    result = run("inspect", stored, environment=aws.environment(owner))
    assert (result.returncode, result.stderr) == (0, "")
    here = run("inspect", file, "--format", "json")
    assert json.loads(here.stdout)["sha256"] in result.stdout
    assert ("metadata commit       0123abcd\n") in result.stdout
    assert f"metadata kms-key-arn  {ARN}\n" in result.stdout


def test_only_the_ends_of_a_large_object_are_read(
    aws: Aws, owner: Credentials, endpoint: Endpoint, stored: str
) -> None:
    good = artifact(text=token(50 << 20))
    spoilt = changed(good, len(good) // 2, b" ")
    environment = endpoint.environment(owner)
    for content in (good, spoilt):
        bucket, _, name = stored.removeprefix("s3://").partition("/")
        aws.client(owner, "s3").put_object(Bucket=bucket, Key=name, Body=content)
        result = run("inspect", stored, environment=environment)
        assert result.returncode == 0, result.stderr
        assert "well formed at its beginning and its end" in result.stdout
        assert "SHA-256" not in result.stdout
    assert endpoint.calls.count("GET object") == 4
    whole = run("inspect", stored, "--all", environment=environment)
    assert whole.returncode == 1
    assert "not URL-safe base64" in whole.stderr
