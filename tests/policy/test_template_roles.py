"""Roles of a template that outsiders may assume, and what these control."""

import pytest

from generator.access.answers import Attests, Outcome
from generator.policy.evaluation import Verdict
from tests.policy.drafts import OTHER, OWN, STORED, Draft, Json, access, allow, role


def test_role_with_unknown_actions_cannot_be_proved() -> None:
    draft = Draft()
    role(draft, {"AWS": OTHER}, STORED)
    found = [a for a in access(draft).answers if a.caller.name.startswith("role Helper")]
    assert Verdict.CANNOT_PROVE in {answer.verdict for answer in found}


def arn_of(name: str) -> Json:
    return {"Fn::GetAtt": [name, "Arn"]}


@pytest.mark.parametrize(
    ("action", "resource", "trusted", "controls"),
    [
        ("sts:AssumeRole", "*", OWN, True),
        ("sts:AssumeRole", arn_of("Admin"), OWN, True),
        ("sts:AssumeRole", arn_of("Middle"), OWN, False),
        ("sts:AssumeRole", "*", {"Service": "ec2.amazonaws.com"}, False),
        ("s3:GetObject", "*", OWN, False),
        ("s3:GetObject", "*", {"AWS": arn_of("Door")}, True),
        ("s3:GetObject", "*", {"AWS": arn_of("Middle")}, False),
        ("sts:AssumeRole", arn_of("Middle"), {"AWS": arn_of("Middle")}, True),
    ],
)
def test_role_that_outsiders_reach_through_other_roles(
    action: str, resource: object, trusted: Json, *, controls: bool
) -> None:
    draft = Draft()
    role(draft, {"AWS": OTHER}, action, "Door")["Resource"] = resource
    role(draft, OWN, "s3:GetObject", "Middle")
    role(draft, trusted, "kms:PutKeyPolicy", "Admin")
    found = [each for each in access(draft).answers if each.caller.name.startswith("role Admin")]
    assert [each.action for each in found] == ["kms:PutKeyPolicy"] * controls
    assert {each.verdict for each in found} <= {Verdict.ALLOWED}


@pytest.mark.parametrize(
    ("action", "trusted", "undecided"),
    [
        ("iam:PutRolePolicy", {"AWS": OTHER}, True),
        ("iam:CreateAccessKey", {"AWS": OTHER}, True),
        (["s3:GetObject", "iam:Pass*"], {"AWS": OTHER}, True),
        ("iam:PutRolePolicy", OWN, False),
        ("iam:ListRoles", {"AWS": OTHER}, False),
    ],
)
def test_role_that_may_get_other_permissions_may_control_the_key(
    action: object, trusted: Json, *, undecided: bool
) -> None:
    draft = Draft()
    role(draft, trusted, action)
    found = [each for each in access(draft).answers if each.caller.name.startswith("role Helper")]
    assert [each.verdict for each in found] == [Verdict.CANNOT_PROVE] * undecided
    draft.owner.update(Principal={"Service": "x.amazonaws.com"})  # no account controls the key
    assert [e for e in access(draft).answers if e.caller.name.startswith("role Helper")] == []


@pytest.mark.parametrize("common", [False, True], ids=["function", "Globals"])
@pytest.mark.parametrize("trusted", [{"AWS": OTHER}, {"Service": "lambda.amazonaws.com"}, None])
def test_role_of_a_serverless_function_is_a_role(trusted: Json | None, common: bool) -> None:  # noqa: FBT001 - a parameter of the test
    draft = Draft()
    draft.sections["Transform"] = "AWS::Serverless-2016-10-31"
    properties: Json = {"Policies": ["AdministratorAccess"]}
    if trusted:
        trust = {"Effect": "Allow", "Principal": trusted, "Action": "sts:AssumeRole"}
        properties["AssumeRolePolicyDocument"] = {"Statement": trust}
    if common:
        draft.sections["Globals"] = {"Function": properties}
    own = {} if common else properties
    draft.resources["Helper"] = {"Type": "AWS::Serverless::Function", "Properties": own}
    found = access(draft)
    assert found.verdict is Outcome.CLOSED
    unproved = {answer.action for answer in found.answers if answer.verdict is Verdict.CANNOT_PROVE}
    assert ("kms:PutKeyPolicy" in unproved) is (trusted == {"AWS": OTHER})


@pytest.mark.parametrize("path", ["/", "/x/"])
def test_generated_role_of_a_function_is_of_the_keys_account(path: str) -> None:
    draft = Draft()
    draft.sections["Transform"] = "AWS::Serverless-2016-10-31"
    own = {} if path == "/" else {"RolePath": path}
    draft.resources["Helper"] = {"Type": "AWS::Serverless::Function", "Properties": own}
    draft.statements.append(allow({"AWS": {"Fn::GetAtt": "HelperRole.Arn"}}, "kms:*"))
    outsiders = [each for each in access(draft).answers if each.caller.outsider]
    allowed = {each.action for each in outsiders if each.verdict is not Verdict.DENIED}
    assert allowed == {"kms:Decrypt"}  # in a bound image


def test_role_that_decrypts_attested_does_not_decrypt_otherwise() -> None:
    draft = Draft()
    role(draft, {"AWS": OTHER}, "kms:Decrypt")
    found = [each for each in access(draft).answers if each.caller.name.startswith("role Helper")]
    allowed = {each.attests for each in found if each.verdict is Verdict.ALLOWED}
    assert (allowed, len(found)) == ({Attests.BOUND}, len(Attests))
    assert {each.verdict for each in found} == {Verdict.ALLOWED, Verdict.DENIED}
