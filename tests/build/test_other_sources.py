"""The templates for S3 and for connections, deployed; builds with the build's role."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from generator.parameters import CONNECTION_ENCRYPTOR_TEMPLATE, S3_ENCRYPTOR_TEMPLATE
from rehearsal.aws import PROJECT, REGION, SHARING_BUCKET, account_root
from rehearsal.build import Build, publish, start_build
from tests.support import stacks
from tests.support.example import PARAMETERS

if TYPE_CHECKING:
    from pathlib import Path

    from rehearsal.aws import Aws

OWNER, HOST = account_root("7" * 12), account_root("8" * 12)
S3_TEMPLATE = PROJECT / "templates" / S3_ENCRYPTOR_TEMPLATE
CONNECTION_TEMPLATE = PROJECT / "templates" / CONNECTION_ENCRYPTOR_TEMPLATE
CONNECTION = (
    f"arn:aws:codeconnections:{REGION}:{OWNER.access_key_id}:connection/"
    "1234abcd-12ab-34cd-56ef-1234567890ab"
)
BUCKET = "weights-of-the-owner"
ARTIFACT = "encrypted/application_code.zip.encrypted"


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


class Site:
    """The host's bucket, the owner's bucket, and stacks that read from it."""

    def __init__(self, aws: Aws, interpreter: Path) -> None:
        """Deploy the host's stack and fill the owner's bucket."""
        self.aws, self.interpreter = aws, interpreter
        sharing = {"ThirdPartyIdentifier": "acme", "ThirdPartyAWSAccountNumber": "7" * 12}
        self.shared = stacks.deploy(aws, HOST, "sharing", SHARING_BUCKET, sharing)
        s3 = aws.client(OWNER, "s3")
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        for key, content in {
            "models/v1/application/weights.bin": bytes(1 << 20),
            "models/v1/application/sub/print-hello.py": b"print('hello')",
            "models/v2/application/other.bin": b"another version",
            "app.zip": zipped(**{"application/print-hello.py": b"print('zipped')"}),
        }.items():
            s3.put_object(Bucket=BUCKET, Key=key, Body=content)

    def deploy(self, stack: str, key: str) -> dict[str, str]:
        """Deploy the template for S3."""
        given = PARAMETERS | self.shared
        del given["CodeCommitRepositoryName"]
        own = {"ApplicationSourceBucketName": BUCKET, "ApplicationSourceKey": key}
        alias = {"EncryptionKeyAlias": f"alias/{stack}"}
        return stacks.deploy(self.aws, OWNER, stack, S3_TEMPLATE, given | own | alias)

    def build(self, outputs: dict[str, str], folder: Path) -> Build:
        """Build once."""
        return start_build(
            self.aws, OWNER, outputs["ProjectName"], folder, interpreter=self.interpreter
        )

    def artifact(self) -> dict[str, Any]:
        """Return the head of the object in the host's bucket."""
        found: dict[str, Any] = self.aws.client(HOST, "s3").head_object(
            Bucket=self.shared["ExternalBucketName"], Key=ARTIFACT
        )
        return found


@pytest.fixture(scope="module")
def site(aws: Aws, interpreter: Path) -> Site:
    return Site(aws, interpreter)


@pytest.mark.parametrize(
    ("stack", "key", "size"), [("prefix", "models/v1/", "1,048,590"), ("object", "app.zip", "15")]
)
def test_build_reads_the_application_from_s3(
    stack: str, key: str, size: str, site: Site, tmp_path: Path
) -> None:
    build = site.build(site.deploy(stack, key), tmp_path)
    assert build.succeeded, build.log
    found = site.artifact()
    assert found["ServerSideEncryption"] == "aws:kms"
    assert found["Metadata"]["commit"] == "unknown"
    assert f"encrypted: {size} bytes" in build.log


def test_role_reads_and_lists_only_the_source_prefix(site: Site) -> None:
    outputs = site.deploy("narrow", "models/v1/")
    (project,) = site.aws.client(OWNER, "codebuild").batch_get_projects(
        names=[outputs["ProjectName"]]
    )["projects"]
    role = site.aws.client(site.aws.act_as(OWNER, project["serviceRole"]), "s3")
    assert role.get_object(Bucket=BUCKET, Key="models/v1/application/weights.bin")
    assert role.list_objects_v2(Bucket=BUCKET, Prefix="models/v1/")["KeyCount"] == 2
    for operation, arguments in (
        (role.get_object, {"Key": "models/v2/application/other.bin"}),
        (role.list_objects_v2, {"Prefix": "models/"}),
        (role.put_object, {"Key": "models/v1/x", "Body": b""}),
        (role.delete_object, {"Key": "models/v1/application/weights.bin"}),
    ):
        with pytest.raises(role.exceptions.ClientError, match="AccessDenied"):
            operation(Bucket=BUCKET, **arguments)


def test_missing_source_object_fails_the_build(site: Site, tmp_path: Path) -> None:
    build = site.build(site.deploy("absent", "absent.zip"), tmp_path)
    assert not build.succeeded
    assert "NoSuchKey" in build.log or "AccessDenied" in build.log


@pytest.mark.parametrize("service", ["GITHUB", "GITLAB", "BITBUCKET"])
def test_connection_works_with_each_git_service(site: Site, service: str, tmp_path: Path) -> None:
    given = PARAMETERS | site.shared
    del given["CodeCommitRepositoryName"]
    own = {
        "RepositoryType": service,
        "RepositoryUrl": f"https://{service.lower()}.com/owner/enclave-application.git",
        "ConnectionArn": CONNECTION,
        "EncryptionKeyAlias": f"alias/{service}",
    }
    outputs = stacks.deploy(site.aws, OWNER, service.lower(), CONNECTION_TEMPLATE, given | own)
    (project,) = site.aws.client(OWNER, "codebuild").batch_get_projects(
        names=[outputs["ProjectName"]]
    )["projects"]
    source = project["source"]
    assert (source["type"], source["location"]) == (service, own["RepositoryUrl"])
    assert source["auth"] == {"type": "CODECONNECTIONS", "resource": CONNECTION}
    checkout = tmp_path / "checkout"
    (checkout / "application").mkdir(parents=True)
    (checkout / "application" / "print-hello.py").write_text("print('hello')")
    publish(checkout, tmp_path, "enclave-application")
    build = site.build(outputs, tmp_path)
    assert build.succeeded, build.log
