"""Who may do what: a table, checked call by call with the emulator's enforcement.

Conversely, each action that the template grants to the build's role is removed in turn, and the
step that needs it fails.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from rehearsal.aws import ENCRYPTOR, REGION, SHARING_BUCKET, RehearsalError, account_root
from rehearsal.build import start_build
from rehearsal.enclave import new_key, public, security_module
from rehearsal.scenario import DEBUG, FIRST, SCRIPT, SECOND, Scenario, create_role, encrypt, set_up
from tests.support import stacks
from tests.support.artifacts import parts
from tests.support.paths import ARTIFACT_UPLOADER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from rehearsal.aws import Aws, Credentials

OWNER, HOST, STRANGER = "710000000001", "720000000002", "730000000003"
EVERYTHING = "arn:aws:iam::aws:policy/AdministratorAccess"
ARTIFACT = "encrypted/application_code.zip.encrypted"
SSE = {"ServerSideEncryption": "aws:kms", "ACL": "bucket-owner-full-control"}
PUBLIC = public(new_key())
DENIALS = {
    *("AccessDenied", "AccessDeniedException"),
    # Resources of another account do not even exist for the caller.
    *("NotFoundException", "ResourceNotFoundException", "NoSuchEntity"),
}


@dataclass
class Site:
    """Both stacks, deployed, an artifact, and every kind of principal."""

    aws: Aws
    scenario: Scenario
    shared: Mapping[str, str]
    project: str
    role: str
    roles_policy: tuple[str, dict[str, Any]]
    artifact: Path
    code: Path
    people: Mapping[str, Credentials]

    @property
    def key(self) -> str:
        """The enclave key."""
        return self.scenario.key

    @property
    def bucket_key(self) -> str:
        """The key of the host's bucket."""
        return self.shared["ExternalBucketEncryptionKeyArn"]

    @property
    def bucket(self) -> str:
        """The host's bucket."""
        return self.shared["ExternalBucketName"]

    @property
    def data_key(self) -> bytes:
        """The artifact's encrypted data key."""
        return parts(self.artifact.read_bytes())[0]

    @property
    def log_group(self) -> str:
        """The log group of the build."""
        return f"/aws/codebuild/{self.project}"

    def grant(self, document: Mapping[str, Any]) -> None:
        """Replace the policy of the build's role by *document*."""
        self.aws.client(account_root(OWNER), "iam").put_role_policy(
            RoleName=self.role.rpartition("/")[2],
            PolicyName=self.roles_policy[0],
            PolicyDocument=json.dumps(document),
        )


@pytest.fixture(scope="module")
def site(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    owner, folder = account_root(OWNER), tmp_path_factory.mktemp("site")
    sharing = {"ThirdPartyIdentifier": "acme", "ThirdPartyAWSAccountNumber": OWNER}
    shared = stacks.deploy(aws, account_root(HOST), "sharing", SHARING_BUCKET, sharing)
    application = {
        "CodeCommitRepositoryName": "repository",
        "ApplicationCodeDirectoryName": "application",
        "EnclaveImageSha384": FIRST,
    }
    outputs = stacks.deploy(aws, owner, "encryptor", ENCRYPTOR, application | shared)
    code, artifact = folder / "application", folder / "application_code.zip.encrypted"
    code.mkdir()
    (code / SCRIPT).write_text("print('hello')\n")
    encrypt(aws, owner, code, outputs["EnclaveKeyARN"], artifact)
    projects = aws.client(owner, "codebuild").batch_get_projects(names=[outputs["ProjectName"]])
    role = projects["projects"][0]["serviceRole"]
    with set_up(
        *(aws, (OWNER, HOST, STRANGER)),
        stack="encryptor",
        key=outputs["EnclaveKeyARN"],
        artifact=artifact,
        parent_policy=outputs["ParentRolePolicy"],
    ) as scenario:
        act_as = scenario.service.kms.act_as
        people = {"build": act_as(owner, role), "parent": scenario.parent}
        for name, account in (("owner", OWNER), ("host", HOST), ("stranger", STRANGER)):
            arn = create_role(aws, account, "Everything")
            iam = aws.client(account_root(account), "iam")
            iam.attach_role_policy(RoleName="Everything", PolicyArn=EVERYTHING)
            people[name] = act_as(account_root(account), arn)
        yield Site(
            *(aws, scenario, shared, outputs["ProjectName"], role, _policy(aws, role)),
            *(artifact, code, people),
        )


def _policy(aws: Aws, role: str) -> tuple[str, dict[str, Any]]:
    """Return the name of the build role's only policy, and the policy."""
    iam, name = aws.client(account_root(OWNER), "iam"), role.rpartition("/")[2]
    (policy,) = iam.list_role_policies(RoleName=name)["PolicyNames"]
    assert iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"] == []
    return policy, iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]


# --- The table ------------------------------------------------------------------------------------

Client = Any


def attested(image: str) -> Callable[[Callable[[str], Client], Site], object]:
    """Call Decrypt from an enclave of *image*, with a caller's credentials."""

    def ask(client: Callable[[str], Client], site: Site) -> object:
        recipient = {
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
            "AttestationDocument": security_module(site.scenario, image)(PUBLIC),
        }
        return client("attested kms").decrypt(
            CiphertextBlob=site.data_key, KeyId=site.key, Recipient=recipient
        )

    return ask


def put_own_policy(client: Callable[[str], Client], site: Site) -> object:
    """Put the key's current policy, so that nothing changes."""
    owner = site.aws.client(account_root(OWNER), "kms")
    policy = owner.get_key_policy(KeyId=site.key, PolicyName="default")["Policy"]
    return client("kms").put_key_policy(KeyId=site.key, PolicyName="default", Policy=policy)


def delete_key(client: Callable[[str], Client], site: Site) -> object:
    """Schedule the key's deletion, and cancel it."""
    answer = client("kms").schedule_key_deletion(KeyId=site.key, PendingWindowInDays=7)
    owner = site.aws.client(account_root(OWNER), "kms")
    owner.cancel_key_deletion(KeyId=site.key)
    owner.enable_key(KeyId=site.key)
    return answer


OTHER = "encrypted/other"
TABLE: dict[str, tuple[set[str], Callable[[Callable[[str], Client], Site], object]]] = {
    # The enclave key.
    "kms:Encrypt": (
        {"build", "owner"},
        lambda c, s: c("kms").encrypt(KeyId=s.key, Plaintext=b"x"),
    ),
    "kms:GenerateDataKey": (
        {"build", "owner"},
        lambda c, s: c("kms").generate_data_key(KeyId=s.key, KeySpec="AES_256"),
    ),
    "kms:Decrypt, unattested": (
        set(),
        lambda c, s: c("kms").decrypt(KeyId=s.key, CiphertextBlob=s.data_key),
    ),
    "kms:Decrypt, unattested, the key not named": (
        set(),
        lambda c, s: c("kms").decrypt(CiphertextBlob=s.data_key),
    ),
    "kms:Decrypt, attested by the bound image": (
        {"parent", "host", "owner"},
        attested(FIRST),
    ),
    "kms:Decrypt, attested by another image": (set(), attested(SECOND)),
    "kms:Decrypt, attested in debug mode": (set(), attested(DEBUG)),
    "kms:CreateGrant": (
        {"owner"},
        lambda c, s: c("kms").create_grant(
            KeyId=s.key, GranteePrincipal=s.role, Operations=["DescribeKey"]
        ),
    ),
    "kms:PutKeyPolicy": ({"owner"}, put_own_policy),
    "kms:ScheduleKeyDeletion": ({"owner"}, delete_key),
    "kms:GetKeyPolicy": (
        {"owner"},
        lambda c, s: c("kms").get_key_policy(KeyId=s.key, PolicyName="default"),
    ),
    # The key of the host's bucket: the owner's side uses it only through S3.
    "kms:GenerateDataKey, bucket's key": (
        {"host"},
        lambda c, s: c("kms").generate_data_key(KeyId=s.bucket_key, KeySpec="AES_256"),
    ),
    "kms:PutKeyPolicy, bucket's key": (
        {"host"},
        lambda c, s: c("kms").put_key_policy(
            KeyId=s.bucket_key,
            PolicyName="default",
            Policy=s.aws.client(account_root(HOST), "kms").get_key_policy(
                KeyId=s.bucket_key, PolicyName="default"
            )["Policy"],
        ),
    ),
    # The host's bucket.
    "s3:PutObject, the artifact": (
        {"build", "owner", "host"},
        lambda c, s: c("s3").put_object(
            Bucket=s.bucket, Key=ARTIFACT, Body=b"x", SSEKMSKeyId=s.bucket_key, **SSE
        ),
    ),
    "s3:PutObject, another object": (
        {"owner", "host"},
        lambda c, s: c("s3").put_object(
            Bucket=s.bucket, Key=OTHER, Body=b"x", SSEKMSKeyId=s.bucket_key, **SSE
        ),
    ),
    "s3:GetObject": ({"host"}, lambda c, s: c("s3").get_object(Bucket=s.bucket, Key=ARTIFACT)),
    "s3:ListBucket": ({"host"}, lambda c, s: c("s3").list_objects_v2(Bucket=s.bucket)),
    "s3:DeleteObject": ({"host"}, lambda c, s: c("s3").delete_object(Bucket=s.bucket, Key=OTHER)),
    "s3:GetBucketPolicy": ({"host"}, lambda c, s: c("s3").get_bucket_policy(Bucket=s.bucket)),
    # The build.
    "sts:AssumeRole, the build's role": (
        set(),
        lambda c, s: c("sts").assume_role(RoleArn=s.role, RoleSessionName="by-hand"),
    ),
    "iam:PutRolePolicy, the build's role": (
        {"owner"},
        lambda c, s: c("iam").put_role_policy(
            RoleName=s.role.rpartition("/")[2],
            PolicyName=s.roles_policy[0],
            PolicyDocument=json.dumps(s.roles_policy[1]),
        ),
    ),
    "codebuild:StartBuild": (
        {"owner"},
        lambda c, s: c("codebuild").start_build(projectName=s.project),
    ),
    "codebuild:UpdateProject": (
        {"owner"},
        lambda c, s: c("codebuild").update_project(name=s.project, description="the same"),
    ),
    "logs:FilterLogEvents": (
        {"owner"},
        lambda c, s: c("logs").filter_log_events(logGroupName=s.log_group),
    ),
}
"""For each call: who of `Site.people` is allowed, all others being denied, and the call."""


@pytest.mark.parametrize("what", TABLE)
def test_only_intended_principals_are_allowed(what: str, site: Site) -> None:
    may, call = TABLE[what]
    found = {who for who in site.people if _allowed(site, site.people[who], call)}
    assert found == may


def _allowed(
    site: Site, who: Credentials, call: Callable[[Callable[[str], Client], Site], object]
) -> bool:
    def client(service: str) -> Client:
        aws = site.scenario.service.aws if service == "attested kms" else site.aws
        return aws.client(who, service.rsplit(maxsplit=1)[-1])

    try:
        call(client, site)
    except ClientError as error:
        if error.response["Error"]["Code"] not in DENIALS:
            raise
        return False
    return True


@pytest.mark.parametrize(
    ("action", "resource", "decision"),
    [
        ("codecommit:GitPull", "codecommit:{place}:repository", "allowed"),
        ("codecommit:GitPull", "codecommit:{place}:another", "implicitDeny"),
        ("codecommit:GitPush", "codecommit:{place}:repository", "implicitDeny"),
        ("logs:CreateLogStream", "logs:{place}:log-group:{log}:log-stream:a", "allowed"),
        ("logs:PutLogEvents", "logs:{place}:log-group:{log}:log-stream:a", "allowed"),
        ("logs:PutLogEvents", "logs:{place}:log-group:/another:log-stream:a", "implicitDeny"),
        ("logs:GetLogEvents", "logs:{place}:log-group:{log}:log-stream:a", "implicitDeny"),
    ],
)
def test_iam_simulator_confirms_permissions_the_emulator_cannot_check(
    action: str, resource: str, decision: str, site: Site
) -> None:
    """The emulator has no CodeCommit, and checks log groups where CloudWatch checks streams."""
    arn = "arn:aws:" + resource.format(place=f"{REGION}:{OWNER}", log=site.log_group)
    answer = site.aws.client(account_root(OWNER), "iam").simulate_principal_policy(
        PolicySourceArn=site.role, ActionNames=[action], ResourceArns=[arn]
    )
    assert answer["EvaluationResults"][0]["EvalDecision"] == decision


# --- Each permission is needed --------------------------------------------------------------------


def starts(site: Site, folder: Path) -> str:
    """Start a build of a missing repository; return its denials."""
    build = start_build(site.aws, account_root(OWNER), site.project, folder)
    return "\n".join(line for line in build.log.splitlines() if line.startswith("ACCESS_DENIED"))


def encrypts(site: Site, folder: Path) -> str:
    """Encrypt as the build does; return the error."""
    try:
        who = site.people["build"]
        encrypt(site.aws, who, site.code, site.key, folder / "artifact")
    except RehearsalError as error:
        return str(error)
    return ""


def uploads(site: Site, _folder: Path) -> str:
    """Upload as the build does; return the error."""
    settings = {
        "EXTERNAL_BUCKET_NAME": site.bucket,
        "EXTERNAL_BUCKET_PATH": "encrypted",
        "EXTERNAL_BUCKET_KEY_ARN": site.bucket_key,
        "EXTERNAL_BUCKET_ACCOUNT": HOST,
        "ENCRYPTION_KEY_ARN": site.key,
    }
    return subprocess.run(
        [sys.executable, ARTIFACT_UPLOADER, site.artifact],
        env=site.aws.environment(site.people["build"]) | settings,
        capture_output=True,
        text=True,
        check=False,
    ).stderr


NEEDED: dict[tuple[str, str], tuple[Callable[[Site, Path], str], str]] = {
    ("PullSource", "codecommit:GitPull"): (starts, "codecommit:GitPull"),
    ("WriteBuildLog", "logs:CreateLogStream"): (starts, "logs:CreateLogStream"),
    ("WriteBuildLog", "logs:PutLogEvents"): (starts, "logs:PutLogEvents"),
    ("EncryptApplication", "kms:GenerateDataKey"): (encrypts, "AccessDeniedException"),
    ("UploadArtifact", "s3:PutObject"): (uploads, "AccessDenied"),
    ("UploadArtifact", "s3:PutObjectAcl"): (uploads, "AccessDenied"),
    ("EncryptUpload", "kms:GenerateDataKey"): (uploads, "AccessDenied"),
}
"""Each grant of the role, the step of the build that needs it, and that step's error."""

NOT_SHOWN_HERE = {
    # The contract is kms:Encrypt and kms:GenerateDataKey, for other encryptors as well.
    ("EncryptApplication", "kms:Encrypt"),
    # Only a multipart upload, above 5 GiB, decrypts, and is aborted when it fails.
    # Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
    ("EncryptUpload", "kms:Decrypt"),
    ("UploadArtifact", "s3:AbortMultipartUpload"),
}


def granted(document: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(each["Sid"], action) for each in document["Statement"] for action in each["Action"]}


def test_every_grant_is_needed_or_explained(site: Site) -> None:
    assert granted(site.roles_policy[1]) == NEEDED.keys() | NOT_SHOWN_HERE


def test_with_all_grants_every_step_succeeds(site: Site, tmp_path: Path) -> None:
    assert [step(site, tmp_path) for step in (starts, encrypts, uploads)] == ["", "", ""]


@pytest.mark.parametrize(("sid", "action"), NEEDED)
def test_without_any_one_grant_a_step_fails(
    sid: str, action: str, site: Site, tmp_path: Path
) -> None:
    step, said = NEEDED[sid, action]
    document = copy.deepcopy(site.roles_policy[1])
    for statement in document["Statement"]:
        if statement["Sid"] == sid:
            statement["Action"].remove(action)
    document["Statement"] = [each for each in document["Statement"] if each["Action"]]
    site.grant(document)
    try:
        assert said in step(site, tmp_path)
    finally:
        site.grant(site.roles_policy[1])
