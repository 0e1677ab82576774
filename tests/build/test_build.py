"""Running the deployed project: from a repository to the host's bucket, and its failures."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from rehearsal.aws import ENCRYPTOR, REGION, SHARING_BUCKET, account_root
from rehearsal.build import Build, publish, start_build
from tests.support import artifacts, stacks

if TYPE_CHECKING:
    from pathlib import Path

    from rehearsal.aws import Aws

OWNER, HOST, STRANGER = (account_root(str(n) * 12) for n in (4, 5, 6))
KEY = "encrypted/application_code.zip.encrypted"
CANARY = "the recipe that nobody may read"
HOSTILE = ("$(touch x)", "-rf 'a b'; x #")
EVERYTHING = "arn:aws:iam::aws:policy/AdministratorAccess"


@dataclass
class Delivery:
    """A build that succeeded, and what it left in the host's bucket."""

    log: str
    head: dict[str, Any]
    artifact: bytes
    owners_kms: Any

    def parts(self) -> tuple[bytes, bytes]:
        """The encrypted data key and the token."""
        return artifacts.parts(self.artifact)

    def data_key(self) -> bytes:
        """The data key, which the emulator always releases to the root user of an account."""
        key: bytes = self.owners_kms.decrypt(CiphertextBlob=self.parts()[0])["Plaintext"]
        return key

    def contents(self) -> dict[str, bytes]:
        """The artifact's contents, read by the standard classes."""
        return artifacts.contents(artifacts.decrypted(self.artifact, self.data_key()))


@dataclass
class Site:
    """Both stacks, deployed, and a repository."""

    aws: Aws
    interpreter: Path
    repositories: Path
    shared: dict[str, str]
    outputs: dict[str, str]
    commit: str

    def build(self, **overrides: str) -> Build:
        """Build once, overriding environment variables."""
        project = self.outputs["ProjectName"]
        return start_build(
            *(self.aws, OWNER, project, self.repositories),
            overrides=overrides,
            interpreter=self.interpreter,
        )

    def deliver(self, **overrides: str) -> Delivery:
        """Build, and fetch the artifact."""
        build = self.build(**overrides)
        assert build.succeeded, build.log
        bucket = self.shared["ExternalBucketName"]
        head = self.aws.client(HOST, "s3").get_object(Bucket=bucket, Key=KEY)
        artifact = head.pop("Body").read()
        return Delivery(build.log, head, artifact, self.aws.client(OWNER, "kms"))

    def build_role(self) -> str:
        """The ARN of the builds' role."""
        projects = self.aws.client(OWNER, "codebuild").batch_get_projects(
            names=[self.outputs["ProjectName"]]
        )
        arn: str = projects["projects"][0]["serviceRole"]
        return arn


@pytest.fixture(scope="module")
def site(aws: Aws, interpreter: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("codecommit")
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("application", *HOSTILE):
        directory = checkout / name
        directory.mkdir()
        (directory / "print-hello.py").write_bytes(source(name))
    (checkout / "outside").symlink_to("/etc")
    repository = publish(checkout, folder, "enclave-application")
    sharing = {"ThirdPartyIdentifier": "acme", "ThirdPartyAWSAccountNumber": OWNER.access_key_id}
    shared = stacks.deploy(aws, HOST, "sharing", SHARING_BUCKET, sharing)
    application = {
        "CodeCommitRepositoryName": "enclave-application",
        "ApplicationCodeDirectoryName": "application",
    }
    return Site(
        aws,
        interpreter,
        folder,
        shared,
        stacks.deploy(aws, OWNER, "encryptor", ENCRYPTOR, application | shared),
        (repository / "refs" / "heads" / "main").read_text().strip(),
    )


@pytest.fixture(scope="module")
def delivery(site: Site) -> Delivery:
    return site.deliver()


def test_host_receives_the_committed_files(delivery: Delivery) -> None:
    assert delivery.contents() == {"print-hello.py": source("application")}


def test_object_has_provenance_metadata_and_the_hosts_encryption(
    site: Site, delivery: Delivery
) -> None:
    assert delivery.head["Metadata"] == {
        "commit": site.commit,
        "kms-key-arn": site.outputs["EnclaveKeyARN"],
        "sha256": hashlib.sha256(delivery.artifact).hexdigest(),
    }
    assert delivery.head["ServerSideEncryption"] == "aws:kms"
    assert delivery.head["SSEKMSKeyId"] == site.shared["ExternalBucketEncryptionKeyArn"]


def test_log_has_the_key_arn_but_no_data_key_and_no_code(site: Site, delivery: Delivery) -> None:
    key = delivery.data_key()
    encoded = (base64.b64encode(key), base64.urlsafe_b64encode(key))
    secrets = (CANARY, key.hex(), str(key)[2:-1], *(text.decode() for text in encoded))
    assert not [secret for secret in secrets if secret in delivery.log]
    assert site.outputs["EnclaveKeyARN"] in delivery.log


@pytest.mark.parametrize("who", ["the-builds-role", "an-administrator"])
def test_without_attestation_even_administrators_cannot_decrypt(
    site: Site, delivery: Delivery, who: str
) -> None:
    iam = site.aws.client(OWNER, "iam")
    role = site.build_role()
    if who == "an-administrator":
        role = iam.create_role(RoleName=who, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    everything = {"RoleName": role.rsplit("/", 1)[1], "PolicyArn": EVERYTHING}
    iam.attach_role_policy(**everything)
    try:
        kms = site.aws.client(site.aws.act_as(OWNER, role), "kms")
        kms.generate_data_key(KeyId=site.outputs["EnclaveKeyARN"], KeySpec="AES_256")
        with pytest.raises(ClientError, match="with an explicit deny in a resource-based policy"):
            kms.decrypt(CiphertextBlob=delivery.parts()[0])
    finally:
        iam.detach_role_policy(**everything)


@pytest.mark.parametrize("directory", HOSTILE)
def test_hostile_directory_name_is_not_interpreted(site: Site, directory: str) -> None:
    delivered = site.deliver(APPLICATION_DIRECTORY=directory)
    assert delivered.contents() == {"print-hello.py": source(directory)}


@pytest.mark.parametrize(
    "directory",
    [
        pytest.param("nowhere", id="missing"),
        pytest.param("../../home", id="above"),
        pytest.param("outside", id="a-link-that-leads-out"),
    ],
)
def test_directory_outside_the_repository_fails_the_build(site: Site, directory: str) -> None:
    build = site.build(APPLICATION_DIRECTORY=directory)
    assert not build.succeeded
    assert error_in(build).startswith(f"error: {directory}: not in the repository: ")


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({"EXTERNAL_BUCKET_ACCOUNT": STRANGER.access_key_id}, id="another-owner"),
        pytest.param(
            {
                "EXTERNAL_BUCKET_NAME": "'; touch x #",
                "EXTERNAL_BUCKET_PATH": "../a b",
                "EXTERNAL_BUCKET_KEY_ARN": f"::: {REGION}:$(touch x)",
                "EXTERNAL_BUCKET_ACCOUNT": "-rf",
            },
            id="everything-hostile",
        ),
    ],
)
def test_upload_to_another_destination_fails_the_build(
    site: Site, overrides: dict[str, str]
) -> None:
    build = site.build(**overrides)
    assert not build.succeeded
    assert error_in(build).startswith("error: upload: ")


def source(directory: str) -> bytes:
    return f"# {CANARY}\nprint({directory!r})\n".encode()


def error_in(build: Build) -> str:
    """Return the one line that says why *build* failed."""
    assert "Traceback" not in build.log
    (line,) = [line for line in build.log.splitlines() if line.startswith("error: ")]
    return line
