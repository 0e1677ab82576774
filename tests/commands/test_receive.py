"""receive: an artifact arrives whole and verified, or not at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from rehearsal.aws import REGION
from tests.support.paths import PROJECT
from tests.support.verb import assert_one_line, run

if TYPE_CHECKING:
    from pathlib import Path

    from rehearsal.aws import Aws, Credentials
    from tests.support.endpoint import Endpoint

CONTENT = b"an artifact, as far as S3 is concerned" * 1000
DIGEST = sha256(CONTENT).hexdigest()
OTHER = sha256(b"another").hexdigest()


class Bucket:
    """The host's bucket."""

    def __init__(self, aws: Aws, host: Credentials) -> None:
        """Create it."""
        self._s3 = aws.client(host, "s3")
        self.name = f"received-{host.access_key_id}"
        location = {"LocationConstraint": REGION}
        self._s3.create_bucket(Bucket=self.name, CreateBucketConfiguration=location)
        self._s3.put_bucket_versioning(
            Bucket=self.name, VersioningConfiguration={"Status": "Enabled"}
        )

    def put(self, content: bytes = CONTENT, **more: object) -> str:
        """Store an object; return its address."""
        self._s3.put_object(Bucket=self.name, Key="encrypted/app", Body=content, **more)
        return f"s3://{self.name}/encrypted/app"


@pytest.fixture
def bucket(aws: Aws, host: Credentials) -> Bucket:
    return Bucket(aws, host)


@pytest.fixture
def environment(endpoint: Endpoint, host: Credentials) -> dict[str, str]:
    return endpoint.environment(host)


@pytest.mark.parametrize("name", ["sha256", "artifact-sha256"])
def test_digest_in_the_metadata_is_verified(
    name: str, bucket: Bucket, environment: dict[str, str], tmp_path: Path
) -> None:
    address = bucket.put(Metadata={name: DIGEST, "commit": "0123"})
    result = run("receive", address, environment=environment, directory=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"{DIGEST}, as expected" in result.stdout
    assert "metadata commit" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["app"]
    assert (tmp_path / "app").read_bytes() == CONTENT


def test_checksum_of_s3_is_verified(
    bucket: Bucket, environment: dict[str, str], tmp_path: Path
) -> None:
    address = bucket.put(ChecksumAlgorithm="SHA256")
    result = run(
        "receive", address, "--format", "json", environment=environment, directory=tmp_path
    )
    found = json.loads(result.stdout)
    assert (found["sha256"], found["verified"], found["file"]) == (DIGEST, True, "app")


@pytest.mark.parametrize(
    ("metadata", "options"),
    [
        pytest.param({"sha256": OTHER}, (), id="the-metadata-say-another"),
        pytest.param({"sha256": DIGEST}, ("--sha256", OTHER), id="the-owner-said-another"),
    ],
)
def test_artifact_with_another_digest_is_refused_and_not_kept(
    metadata: dict[str, str],
    options: tuple[str, ...],
    bucket: Bucket,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    (tmp_path / "app").write_text("the last one")
    address = bucket.put(Metadata=metadata)
    result = run("receive", address, *options, environment=environment, directory=tmp_path)
    assert_one_line(result, address, f"SHA-256 is {DIGEST}, not {OTHER}")
    assert [path.name for path in tmp_path.iterdir()] == ["app"]
    assert (tmp_path / "app").read_text() == "the last one"


def test_digest_option_takes_precedence_over_the_metadata(
    bucket: Bucket, environment: dict[str, str], tmp_path: Path
) -> None:
    address = bucket.put(Metadata={"sha256": OTHER})
    options = ("--sha256", DIGEST.upper(), "-o", tmp_path / "here")
    assert run("receive", address, *options, environment=environment).returncode == 0
    assert (tmp_path / "here").read_bytes() == CONTENT


def test_without_a_digest_the_option_unverified_is_required(
    bucket: Bucket, environment: dict[str, str], tmp_path: Path
) -> None:
    address = bucket.put()
    result = run("receive", address, environment=environment, directory=tmp_path)
    assert_one_line(result, "known to S3", "--unverified")
    assert list(tmp_path.iterdir()) == []
    result = run("receive", address, "--unverified", environment=environment, directory=tmp_path)
    assert f"{DIGEST}, not verified" in result.stdout


def test_older_version_can_be_downloaded(
    bucket: Bucket, aws: Aws, host: Credentials, environment: dict[str, str], tmp_path: Path
) -> None:
    address = bucket.put(Metadata={"sha256": DIGEST})
    s3 = aws.client(host, "s3")
    version = s3.head_object(Bucket=bucket.name, Key="encrypted/app")["VersionId"]
    bucket.put(b"newer")
    options = ("--version-id", version)
    result = run("receive", address, *options, environment=environment, directory=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "app").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param(("--sha256", "ab"), "not 64 hexadecimal digits", id="a-short-digest"),
        pytest.param((), "see application-encryptor receive --help", id="no-address"),
    ],
)
def test_usage_error_is_status_2(options: tuple[str, ...], reason: str) -> None:
    address = ("s3://bucket/name",) if options else ()
    assert_one_line(run("receive", *address, *options), reason, status=2)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param(("bucket/name",), "bucket/name: is not s3://BUCKET/NAME", id="no-scheme"),
        pytest.param(("s3://bucket/name/",), "not a regular file", id="no-last-name"),
        pytest.param(("s3://bucket/name", "-o", "."), "choose another -o", id="a-folder"),
        pytest.param(("s3://no-such-bucket-1/x",), "correct the bucket's", id="no-such-bucket"),
    ],
)
def test_invalid_source_or_destination_is_one_line_error(
    arguments: tuple[str, ...], reason: str, environment: dict[str, str], tmp_path: Path
) -> None:
    assert_one_line(run("receive", *arguments, environment=environment, directory=tmp_path), reason)


def test_refused_download_leaves_nothing(
    endpoint: Endpoint, bucket: Bucket, environment: dict[str, str], tmp_path: Path
) -> None:
    address = bucket.put(Metadata={"sha256": DIGEST})
    endpoint.refusals["GET object"] = "AccessDenied"
    result = run("receive", address, environment=environment, directory=tmp_path)
    assert_one_line(result, address, "AccessDenied", "ask whoever administers")
    assert list(tmp_path.iterdir()) == []


def test_only_verified_content_is_written_to_standard_output(
    bucket: Bucket, environment: dict[str, str]
) -> None:
    address = bucket.put(Metadata={"sha256": DIGEST})
    result = run("receive", address, "-o", "-", environment=environment)
    assert (result.returncode, result.stdout, result.stderr) == (0, CONTENT.decode(), "")
    address = bucket.put(Metadata={"sha256": OTHER})
    assert_one_line(run("receive", address, "-o", "-", environment=environment), "nothing was kept")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_leaves_nothing(
    number: signal.Signals,
    endpoint: Endpoint,
    bucket: Bucket,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    address = bucket.put(Metadata={"sha256": DIGEST})
    process = subprocess.Popen(
        [sys.executable, "-m", "generator", "receive", address],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(PROJECT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    # By then the temporary file exists.
    endpoint.before["GET object"] = [lambda: process.send_signal(number), process.wait]
    _, said = process.communicate()
    assert (process.returncode, said) == (128 + number, "error: interrupted\n")
    assert list(tmp_path.iterdir()) == []
