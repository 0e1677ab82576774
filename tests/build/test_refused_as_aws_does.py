"""The emulator refuses what KMS and CodeBuild refuse, through every API."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from rehearsal.aws import TRUST_ANYBODY, CommandError
from tests.support import stacks

if TYPE_CHECKING:
    from collections.abc import Callable

    from rehearsal.aws import Aws, Credentials

LOCKOUT = "will not allow you to update the key policy in the future"
NOBODY = "one or more invalid principals"
MALFORMED = "MalformedPolicyDocumentException: "
ANY = {"Any": "thing"}
BYPASS = {"BypassPolicyLockoutSafetyCheck": True}


def allow(principal: object, action: str = "kms:*", **more: object) -> dict[str, object]:
    return {"Effect": "Allow", "Principal": principal, "Action": action, "Resource": "*", **more}


def policy(*statements: dict[str, object]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def whole_account(owner: Credentials) -> dict[str, str]:
    return {"AWS": f"arn:aws:iam::{owner.access_key_id}:root"}


def role(aws: Aws, owner: Credentials, name: str, path: str = "/") -> str:
    iam = aws.client(owner, "iam")
    made = iam.create_role(RoleName=name, Path=path, AssumeRolePolicyDocument=TRUST_ANYBODY)
    arn: str = made["Role"]["Arn"]
    return arn


def refusal(call: Callable[[], object]) -> str:
    """Call an API; return its refusal, or an empty string."""
    try:
        call()
    except ClientError as error:
        return f"{error.response['Error']['Code']}: {error.response['Error']['Message']}"
    return ""


def through_every_api(
    aws: Aws,
    owner: Credentials,
    document: str,
    **options: Any,  # noqa: ANN401
) -> list[str]:
    """Set a key policy in all four ways; return each one's refusal, or an empty string."""
    kms = aws.client(owner, "kms")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    put = {"KeyId": key, "PolicyName": "default", "Policy": document}
    usual = policy(allow(whole_account(owner)))
    return [
        refusal(lambda: kms.create_key(Policy=document, **options)),
        refusal(lambda: kms.put_key_policy(**put, **options)),
        deployed(aws, owner, [document], options),
        deployed(aws, owner, [usual, document], options),
    ]


def deployed(aws: Aws, owner: Credentials, policies: list[str], options: dict[str, object]) -> str:
    """Deploy a key with each of *policies* in turn; return why the last was refused, if it was."""
    stack = f"stack-{uuid.uuid4()}"
    bodies = []
    for each in policies:
        properties = {"KeyPolicy": json.loads(each), **options}
        key = {"Type": "AWS::KMS::Key", "Properties": properties}
        bodies.append(
            json.dumps({"Parameters": {"Any": {"Type": "String"}}, "Resources": {"Key": key}})
        )
    for body in bodies[:-1]:
        stacks.deploy(aws, owner, stack, body, ANY)
    try:
        stacks.deploy(aws, owner, stack, bodies[-1], ANY)
    except CommandError as error:
        return f"{error} {reasons(aws, owner, stack)}"
    return ""


def reasons(aws: Aws, owner: Credentials, stack: str) -> str:
    events = aws.client(owner, "cloudformation").describe_stack_events(StackName=stack)
    return " ".join(event.get("ResourceStatusReason", "") for event in events["StackEvents"])


def test_key_policy_that_locks_out_its_creator_is_refused(aws: Aws, owner: Credentials) -> None:
    somebody = {"AWS": role(aws, owner, "Administrator")}
    said = through_every_api(aws, owner, policy(allow(somebody)))
    assert [LOCKOUT in each for each in said] == [True] * 4, said
    assert all(each.startswith(MALFORMED) for each in said[:2]), said


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param([allow("*", "kms:Decrypt")], id="no-statement-allows-it"),
        pytest.param(
            [allow("*"), allow("*", "kms:Put*", Effect="Deny")], id="a-Deny-for-everybody"
        ),
        pytest.param(
            [allow("*", Condition={"StringEquals": {"aws:PrincipalArn": "nobody"}})],
            id="a-condition-that-never-holds",
        ),
    ],
)
def test_every_form_of_lockout_is_refused(
    aws: Aws, owner: Credentials, statements: list[dict[str, object]]
) -> None:
    with pytest.raises(ClientError, match=LOCKOUT):
        aws.client(owner, "kms").create_key(Policy=policy(*statements))


def test_lockout_check_can_be_bypassed(aws: Aws, owner: Credentials) -> None:
    assert through_every_api(aws, owner, policy(allow("*", "kms:Decrypt")), **BYPASS) == [""] * 4


def test_creator_named_in_the_policy_may_lock_out_others(aws: Aws, owner: Credentials) -> None:
    arn = role(aws, owner, "Creator")
    aws.client(owner, "iam").attach_role_policy(
        RoleName="Creator", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess"
    )
    document = policy(allow({"AWS": arn}))
    creator = aws.client(aws.act_as(owner, arn), "kms")
    assert creator.create_key(Policy=document)["KeyMetadata"]["KeyId"]
    with pytest.raises(ClientError, match=LOCKOUT):
        aws.client(owner, "kms").create_key(Policy=document)


def test_missing_principal_is_refused(aws: Aws, owner: Credentials, host: Credentials) -> None:
    usual = allow(whole_account(owner))
    missing = f"arn:aws:iam::{host.access_key_id}:role/Parent"
    said = through_every_api(aws, owner, policy(usual, allow({"AWS": missing})))
    assert [NOBODY in each for each in said] == [True] * 4, said
    assert all(each.startswith(MALFORMED) for each in said[:2]), said
    role(aws, host, "Parent")
    assert through_every_api(aws, owner, policy(usual, allow({"AWS": missing})))[:2] == [
        "",
        "",
    ]


@pytest.mark.parametrize(
    ("principal", "exists"),
    [
        pytest.param("*", True, id="everybody"),
        pytest.param("222222222222", True, id="an-account"),
        pytest.param("arn:aws:iam::222222222222:root", True, id="its-root"),
        pytest.param("arn:aws:iam::{host}:role/enclaves/Parent", True, id="a-role"),
        pytest.param("arn:aws:iam::{host}:role/Parent", False, id="a-role-of-another-path"),
        pytest.param("arn:aws:iam::{owner}:role/enclaves/Parent", False, id="of-another-account"),
        pytest.param("arn:aws:sts::{host}:assumed-role/Parent/i-1", True, id="a-session"),
        pytest.param("arn:aws:sts::{host}:assumed-role/Gone/i-1", False, id="of-no-role"),
        pytest.param("arn:aws:iam::{host}:user/ann", False, id="no-such-user"),
        pytest.param("arn:aws:iam::{host}:role/*", False, id="a-pattern"),
        pytest.param("AROAEXAMPLEOFADELETEDROLE", False, id="id-of-a-deleted-role"),
    ],
)
def test_existence_of_principals_is_checked(
    aws: Aws, owner: Credentials, host: Credentials, principal: str, *, exists: bool
) -> None:
    role(aws, host, "Parent", "/enclaves/")
    named = principal.format(owner=owner.access_key_id, host=host.access_key_id)
    document = policy(allow(whole_account(owner)), allow({"AWS": [named]}, "kms:Decrypt"))
    kms = aws.client(owner, "kms")
    if exists:
        kms.create_key(Policy=document)
        return
    with pytest.raises(ClientError, match=NOBODY):
        kms.create_key(Policy=document)


# --- CodeBuild ------------------------------------------------------------------------------------

HEAD = "version: 0.2\n# "
SERVICE_ROLE = "arn:aws:iam::111111111111:role/builder"


def buildspec(length: int) -> str:
    return HEAD + "x" * (length - len(HEAD))


def project(name: str, text: str) -> dict[str, Any]:
    return {
        "name": name,
        "source": {"type": "NO_SOURCE", "buildspec": text},
        "artifacts": {"type": "NO_ARTIFACTS"},
        "environment": {
            "type": "LINUX_CONTAINER",
            "image": "aws/codebuild/standard:7.0",
            "computeType": "BUILD_GENERAL1_SMALL",
        },
        "serviceRole": SERVICE_ROLE,
    }


def project_template(text: str) -> str:
    properties = {
        "ServiceRole": SERVICE_ROLE,
        "Artifacts": {"Type": "NO_ARTIFACTS"},
        "Environment": {
            "Type": "LINUX_CONTAINER",
            "ComputeType": "BUILD_GENERAL1_SMALL",
            "Image": "aws/codebuild/standard:7.0",
        },
        "Source": {"Type": "NO_SOURCE", "BuildSpec": text},
    }
    resource = {"Type": "AWS::CodeBuild::Project", "Properties": properties}
    return json.dumps(
        {"Parameters": {"Any": {"Type": "String"}}, "Resources": {"Project": resource}}
    )


def test_buildspec_length_limit_of_codebuild_is_exact(aws: Aws, owner: Credentials) -> None:
    codebuild = aws.client(owner, "codebuild")
    longest, too_long = buildspec(25_600), buildspec(25_601)
    codebuild.create_project(**project("fits", longest))
    codebuild.update_project(name="fits", source={"type": "NO_SOURCE", "buildspec": longest})
    codebuild.start_build(projectName="fits", buildspecOverride=longest)
    refused = [
        refusal(lambda: codebuild.create_project(**project("long", too_long))),
        refusal(
            lambda: codebuild.update_project(
                name="fits", source={"type": "NO_SOURCE", "buildspec": too_long}
            )
        ),
        refusal(lambda: codebuild.start_build(projectName="fits", buildspecOverride=too_long)),
    ]
    assert refused == ["InvalidInputException: Max buildspec length is 25600"] * 3
    assert codebuild.list_projects()["projects"] == ["fits"]
    (kept,) = codebuild.batch_get_projects(names=["fits"])["projects"]
    assert kept["source"]["buildspec"] == longest


def test_stack_whose_buildspec_is_too_long_rolls_back(aws: Aws, owner: Credentials) -> None:
    stacks.deploy(aws, owner, "updated", project_template(buildspec(25_600)), ANY)
    for stack in ("created", "updated"):
        with pytest.raises(CommandError):
            stacks.deploy(aws, owner, stack, project_template(buildspec(25_601)), ANY)
        assert "Max buildspec length is 25600" in reasons(aws, owner, stack)
