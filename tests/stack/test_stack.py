"""The rendered templates in CloudFormation: the life cycle of a stack."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from generator.parameters import (
    CODE_DIRECTORY,
    ENCRYPTOR_PARAMETERS,
    SHARING_PARAMETERS,
    TemplateParameter,
)
from rehearsal.aws import ENCRYPTOR, REGION, SHARING_BUCKET, CommandError, account_root
from tests.support import stacks
from tests.support.example import HOST, PARAMETERS

if TYPE_CHECKING:
    from pathlib import Path

    from rehearsal.aws import Aws, Credentials

SHARING = {"ThirdPartyIdentifier": "acme", "ThirdPartyAWSAccountNumber": "111111111111"}
IMAGE, OTHER_IMAGE = "ab" * 48, "CD" * 48
ATTESTED = "kms:RecipientAttestation:ImageSha384"


def statements(aws: Aws, owner: Credentials, key: str) -> dict[str, Any]:
    policy = aws.client(owner, "kms").get_key_policy(KeyId=key)["Policy"]
    return {statement["Sid"]: statement for statement in json.loads(policy)["Statement"]}


def key_states(aws: Aws, owner: Credentials) -> list[str]:
    kms = aws.client(owner, "kms")
    keys = [key["KeyId"] for key in kms.list_keys()["Keys"]]
    return [kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] for key in keys]


def attested_images(aws: Aws, owner: Credentials, key: str) -> list[str]:
    deny = statements(aws, owner, key)["DenyDecryptUnlessAttested"]
    images: list[str] = deny["Condition"]["StringNotEqualsIgnoreCase"][ATTESTED]
    return images


def failure(aws: Aws, owner: Credentials, stack: str) -> str:
    """Return the reasons in a stack's events."""
    events = aws.client(owner, "cloudformation").describe_stack_events(StackName=stack)
    reasons = [event.get("ResourceStatusReason", "") for event in events["StackEvents"]]
    return " ".join(reasons)


@pytest.fixture(scope="module")
def principal() -> Credentials:
    """The owner of `outputs`; other tests have an account each."""
    return account_root("888888888888")


@pytest.fixture(scope="module")
def outputs(aws: Aws, principal: Credentials) -> dict[str, str]:
    """The outputs of a new stack, which tests leave as it is."""
    return aws.deploy(principal, "encryptor", ENCRYPTOR, PARAMETERS)


@pytest.fixture(scope="module")
def project(aws: Aws, principal: Credentials, outputs: dict[str, str]) -> dict[str, Any]:
    codebuild = aws.client(principal, "codebuild")
    (found,) = codebuild.batch_get_projects(names=[outputs["ProjectName"]])["projects"]
    described: dict[str, Any] = found
    return described


def test_new_stack_allows_no_image_to_decrypt(
    aws: Aws, principal: Credentials, outputs: dict[str, str]
) -> None:
    key = outputs["EnclaveKeyARN"]
    assert attested_images(aws, principal, key) == ["none"]
    allow, *more = statements(aws, principal, key)["AllowHostToDecrypt"]["Principal"].values()
    assert (allow, more) == (f"arn:aws:iam::{HOST}:root", [])
    rotation = aws.client(principal, "kms").get_key_rotation_status(KeyId=key)
    assert rotation["KeyRotationEnabled"]


def test_outputs_have_everything_both_sides_need(
    principal: Credentials, outputs: dict[str, str]
) -> None:
    account = principal.access_key_id
    key = outputs["EnclaveKeyARN"]
    assert key.startswith(f"arn:aws:kms:{REGION}:{account}:key/")
    assert outputs["EnclaveKeyAlias"] == "alias/enclavekey"
    assert (
        outputs["ArtifactUri"] == "s3://acme-code-bucket/encrypted/application_code.zip.encrypted"
    )
    assert outputs["StartBuildUrl"].startswith(
        f"https://console.aws.amazon.com/codesuite/codebuild/{account}/projects/"
        f"{outputs['ProjectName']}/"
    )
    (statement,) = json.loads(outputs["ParentRolePolicy"])["Statement"]
    del statement["Sid"]
    assert statement == {"Effect": "Allow", "Action": ["kms:Decrypt"], "Resource": [key]}


def test_the_project_builds_the_repository_with_a_shallow_clone(
    aws: Aws, principal: Credentials, project: dict[str, Any]
) -> None:
    source = project["source"]
    assert source["location"].endswith("/v1/repos/enclave-application")
    assert (source["type"], source["gitCloneDepth"]) == ("CODECOMMIT", 1)
    name = project["serviceRole"].rsplit("/", 1)[1]
    role = aws.client(principal, "iam").get_role(RoleName=name)
    (trust,) = role["Role"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "codebuild.amazonaws.com"}
    assert trust["Condition"]["ArnEquals"]["aws:SourceArn"] == project["arn"]


def test_only_codebuild_can_assume_the_build_role(
    aws: Aws, principal: Credentials, project: dict[str, Any]
) -> None:
    with pytest.raises(ClientError, match="AccessDenied"):
        aws.client(principal, "sts").assume_role(
            RoleArn=project["serviceRole"], RoleSessionName="by-hand"
        )


@pytest.mark.parametrize(
    "images",
    [
        pytest.param([IMAGE], id="one"),
        pytest.param([IMAGE, OTHER_IMAGE], id="two-that-overlap"),
    ],
)
def test_images_are_bound_and_unbound_without_touching_the_key(
    aws: Aws, owner: Credentials, images: list[str]
) -> None:
    key = stacks.deploy(aws, owner, "encryptor", ENCRYPTOR, PARAMETERS)["EnclaveKeyARN"]
    stacks.update(aws, owner, "encryptor", EnclaveImageSha384=",".join(images))
    assert attested_images(aws, owner, key) == images
    stacks.update(aws, owner, "encryptor", EnclaveImageSha384="none")
    assert attested_images(aws, owner, key) == ["none"]
    assert key_states(aws, owner) == ["Enabled"]


def test_host_can_be_narrowed_to_a_role(aws: Aws, owner: Credentials) -> None:
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    aws.client(account_root(HOST), "iam").create_role(
        RoleName="parent", Path="/enclaves/", AssumeRolePolicyDocument=trust
    )
    parameters = PARAMETERS | {"ParentInstanceRoleName": "enclaves/parent"}
    key = stacks.deploy(aws, owner, "encryptor", ENCRYPTOR, parameters)["EnclaveKeyARN"]
    allow = statements(aws, owner, key)["AllowHostToDecrypt"]
    assert allow["Principal"] == {"AWS": f"arn:aws:iam::{HOST}:role/enclaves/parent"}


def test_missing_role_of_the_host_is_refused(aws: Aws, owner: Credentials) -> None:
    parameters = PARAMETERS | {"ParentInstanceRoleName": "misspelt"}
    with pytest.raises(CommandError):
        aws.deploy(owner, "encryptor", ENCRYPTOR, parameters)
    assert "one or more invalid principals" in failure(aws, owner, "encryptor")


def test_a_deleted_stack_leaves_its_key(aws: Aws, owner: Credentials) -> None:
    stacks.deploy(aws, owner, "encryptor", ENCRYPTOR, PARAMETERS)
    stacks.delete(aws, owner, "encryptor")
    assert key_states(aws, owner) == ["Enabled"]
    assert aws.client(owner, "kms").list_aliases()["Aliases"] == []
    assert aws.client(owner, "codebuild").list_projects()["projects"] == []


def test_a_creation_that_rolls_back_leaves_no_key(aws: Aws, owner: Credentials) -> None:
    kms = aws.client(owner, "kms")
    taken = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/enclavekey", TargetKeyId=taken)
    with pytest.raises(CommandError, match="Failed to create/update the stack"):
        aws.deploy(owner, "encryptor", ENCRYPTOR, PARAMETERS)
    assert "alias/enclavekey already exists" in failure(aws, owner, "encryptor")
    assert sorted(key_states(aws, owner)) == ["Enabled", "PendingDeletion"]
    assert kms.describe_key(KeyId="alias/enclavekey")["KeyMetadata"]["KeyId"] == taken


def test_two_stacks_do_not_conflict(aws: Aws, owner: Credentials) -> None:
    first = stacks.deploy(aws, owner, "first", ENCRYPTOR, PARAMETERS)
    another = PARAMETERS | {"EncryptionKeyAlias": "alias/second"}
    second = stacks.deploy(aws, owner, "second", ENCRYPTOR, another)
    exports = aws.client(owner, "cloudformation").list_exports()["Exports"]
    assert {export["Name"]: export["Value"] for export in exports} == {
        "first-EnclaveKeyARN": first["EnclaveKeyARN"],
        "second-EnclaveKeyARN": second["EnclaveKeyARN"],
    }
    for name in ("EnclaveKeyARN", "ProjectName", "StartBuildUrl", "ParentRolePolicy"):
        assert first[name] != second[name]


def test_a_stack_needs_the_iam_capability(aws: Aws, owner: Credentials) -> None:
    parameters = [f"{name}={value}" for name, value in PARAMETERS.items()]
    with pytest.raises(CommandError, match=r"Requires capabilities : \[CAPABILITY_IAM\]"):
        aws.run(
            *(owner, "cloudformation", "deploy", "--stack-name", "encryptor"),
            *("--template-file", str(ENCRYPTOR), "--parameter-overrides", *parameters),
        )


def test_mandatory_parameters_are_mandatory(aws: Aws, owner: Credentials) -> None:
    for name in PARAMETERS:
        rest = {other: value for other, value in PARAMETERS.items() if other != name}
        with pytest.raises(ClientError, match=f"{name}.* was not provided"):
            create(aws, owner, ENCRYPTOR, rest)


def create(aws: Aws, owner: Credentials, template: Path, parameters: dict[str, str]) -> None:
    """Create a stack with the API, like `deploy` but without the CLI's start."""
    aws.client(owner, "cloudformation").create_stack(
        StackName="encryptor",
        TemplateBody=template.read_text(),
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[
            {"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()
        ],
    )


HOSTILE = ("$(touch x)", "'; x #")


@pytest.mark.parametrize(
    ("template", "good", "parameter"),
    [
        *(pytest.param(ENCRYPTOR, PARAMETERS, p, id=p.name) for p in ENCRYPTOR_PARAMETERS),
        *(pytest.param(SHARING_BUCKET, SHARING, p, id=p.name) for p in SHARING_PARAMETERS),
    ],
)
def test_bad_values_are_refused_with_our_message(
    aws: Aws, owner: Credentials, template: Path, good: dict[str, str], parameter: TemplateParameter
) -> None:
    more = ("-rf", "../x") if parameter is CODE_DIRECTORY else parameter.refused[:1]
    for value in (*HOSTILE, *more):
        with pytest.raises(ClientError) as refusal:
            create(aws, owner, template, good | {parameter.name: value})
        message = refusal.value.response["Error"]["Message"]
        assert message == f"Parameter '{parameter.name}' {parameter.constraint}", value


@pytest.mark.parametrize(
    "images",
    [
        pytest.param("0" * 96, id="a-debug-enclave"),
        pytest.param(f"{IMAGE},{'0' * 96}", id="a-debug-enclave-among-others"),
        pytest.param(IMAGE[:-1], id="a-digit-short"),
        pytest.param("", id="nothing"),
    ],
)
def test_invalid_images_are_refused(aws: Aws, owner: Credentials, images: str) -> None:
    with pytest.raises(
        ClientError, match=r"'EnclaveImageSha384' .*zeros \(debug mode\) are refused"
    ):
        create(aws, owner, ENCRYPTOR, PARAMETERS | {"EnclaveImageSha384": images})


def test_outputs_of_the_host_are_parameters_of_the_owner(
    aws: Aws, owner: Credentials, host: Credentials
) -> None:
    parameters = SHARING | {"ThirdPartyAWSAccountNumber": owner.access_key_id}
    outputs = stacks.deploy(aws, host, "sharing", SHARING_BUCKET, parameters)
    bucket = f"acme-code-bucket-{host.access_key_id}-{REGION}"
    assert outputs["ExternalBucketName"] == bucket
    assert outputs["ExternalBucketAWSAccountNumber"] == host.access_key_id
    aws.deploy(owner, "encryptor", ENCRYPTOR, PARAMETERS | outputs)
    s3 = aws.client(host, "s3")
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    blocked = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert all(blocked.values())
