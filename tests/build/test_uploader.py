"""The uploader, run as in a build, against the emulator's S3."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from rehearsal.aws import SHARING_BUCKET, account_root
from tests.support import forked, stacks
from tests.support.paths import ARTIFACT_UPLOADER

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from rehearsal.aws import Aws

HOST, OWNER = account_root("666666666611"), account_root("666666666622")
KEY_ARN = f"arn:aws:kms:eu-central-1:{OWNER.access_key_id}:key/k"
REGION = "eu-central-1"
SIZE = (8 << 20) + 1000  # bytes: two parts, as boto3 cuts them
LIMIT = "SINGLE_PUT_MAX = 5 * 1024**3"


@dataclass
class Upload:
    """An artifact, the program that stores it, and a build's environment."""

    aws: Aws
    program: Path
    artifact: Path
    settings: dict[str, str]

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run the program; an empty variable is removed."""
        environment = self.aws.environment(HOST, REGION) | self.settings | settings
        return forked.run(
            [sys.executable, self.program, *(arguments or (self.artifact,))],
            env={name: value for name, value in environment.items() if value},
        )


@pytest.fixture(scope="module")
def bucket(aws: Aws) -> dict[str, str]:
    parameters = {"ThirdPartyIdentifier": "acme", "ThirdPartyAWSAccountNumber": HOST.access_key_id}
    return stacks.deploy(aws, HOST, "sharing", SHARING_BUCKET, parameters)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "application_code.zip.encrypted"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def upload(aws: Aws, bucket: dict[str, str], artifact: Path) -> Upload:
    settings = {
        "EXTERNAL_BUCKET_NAME": bucket["ExternalBucketName"],
        "EXTERNAL_BUCKET_PATH": "a/path",
        "EXTERNAL_BUCKET_KEY_ARN": bucket["ExternalBucketEncryptionKeyArn"],
        "EXTERNAL_BUCKET_ACCOUNT": bucket["ExternalBucketAWSAccountNumber"],
        "ENCRYPTION_KEY_ARN": KEY_ARN,
        "CODEBUILD_RESOLVED_SOURCE_VERSION": "1a2b3c",
    }
    return Upload(aws, ARTIFACT_UPLOADER, artifact, settings)


def test_output_says_what_was_stored_and_what_the_host_needs(upload: Upload) -> None:
    result = upload.run()
    assert (result.returncode, result.stderr) == (0, "")
    bucket = upload.settings["EXTERNAL_BUCKET_NAME"]
    assert result.stdout.splitlines() == [
        f"stored: s3://{bucket}/a/path/application_code.zip.encrypted",
        f"size: {SIZE:,} bytes",
        "commit: 1a2b3c",
        f"kms-key-arn: {KEY_ARN}",
        f"sha256: {hashlib.sha256(upload.artifact.read_bytes()).hexdigest()}",
        "Tell the host where it is stored; the enclave image must pin the kms-key-arn.",
    ]


def test_object_above_the_put_limit_is_uploaded_in_parts(upload: Upload, tmp_path: Path) -> None:
    text = ARTIFACT_UPLOADER.read_text()
    assert LIMIT in text
    upload.program = tmp_path / "uploader.py"
    upload.program.write_text(text.replace(LIMIT, "SINGLE_PUT_MAX = 1 << 20"))
    result = upload.run()
    assert (result.returncode, result.stderr) == (0, "")
    s3 = upload.aws.client(HOST, "s3")
    name = {
        "Bucket": upload.settings["EXTERNAL_BUCKET_NAME"],
        "Key": "a/path/application_code.zip.encrypted",
    }
    stored = s3.get_object(**name, ChecksumMode="ENABLED")
    assert stored["Body"].read() == upload.artifact.read_bytes()
    assert stored["ETag"].endswith('-2"'), "two parts"
    assert stored["SSEKMSKeyId"] == upload.settings["EXTERNAL_BUCKET_KEY_ARN"]
    assert stored["Metadata"]["sha256"] == hashlib.sha256(upload.artifact.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        pytest.param({"EXTERNAL_BUCKET_NAME": ""}, "'EXTERNAL_BUCKET_NAME'", id="no-bucket"),
        pytest.param(
            {"EXTERNAL_BUCKET_KEY_ARN": "key/a"}, "key/a: not the ARN of a KMS key", id="no-ARN"
        ),
        pytest.param({"EXTERNAL_BUCKET_ACCOUNT": "1" * 12}, "Access Denied", id="other-owner"),
        pytest.param(
            {"EXTERNAL_BUCKET_NAME": "b\n\x1b[2J"}, "b\\n\\x1b[2J", id="control-characters"
        ),
        pytest.param({"AWS_ENDPOINT_URL": "no url"}, "no url", id="endpoint-is-no-url"),
        pytest.param({"AWS_MAX_ATTEMPTS": "x"}, "x", id="attempts-are-no-number"),
        pytest.param({"AWS_PROFILE": "nobody"}, "nobody", id="no-such-profile"),
    ],
)
def test_failure_is_one_line_error(upload: Upload, settings: dict[str, str], reason: str) -> None:
    result = upload.run(**settings)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: upload: ")
    assert reason in line
    assert line.endswith(": compare the parameters with the host's outputs")
    assert line.isprintable()


@pytest.mark.parametrize("arguments", [("missing",), ("a", "b")])
def test_wrong_arguments_are_one_line_error(upload: Upload, arguments: tuple[str, ...]) -> None:
    result = upload.run(*arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
