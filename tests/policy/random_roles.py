"""Random roles that may assume each other, and which of them outsiders reach.

Who reaches what is computed from the drawing, not from the template that is made of it.

Sources, below https://docs.aws.amazon.com/IAM/latest/UserGuide/:
    reference_policies_evaluation-logic.html (a trust policy that names a role in the same account
        is enough; one that names the account needs a policy of the role, too)
    id_roles_terms-and-concepts.html (role chaining)
"""

from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.policy.random_requests import HOST

Json = dict[str, Any]

NAMES = ["Door", "Middle", "Helper", "Admin"]
OUTSIDE, ACCOUNT, SERVICE = "outside", "account", "service"


@dataclass
class Role:
    """A role: whom it trusts, and which roles (or ``*``) it may assume, by their logical IDs."""

    name: str
    trusts: set[str] = field(default_factory=set)
    assumes: set[str] = field(default_factory=set)
    controls: bool = False


def roles(dice: Random) -> list[Role]:
    """Return a few roles that trust and assume each other."""
    names = NAMES[: dice.choice([2, 3, 3, 4])]
    found = []
    for name in names:
        others = [each for each in names if each != name]
        role = Role(name, controls=dice.random() < 0.5)
        role.trusts = {
            dice.choice([OUTSIDE, ACCOUNT, ACCOUNT, SERVICE, *others])
            for _ in range(dice.choice([1, 1, 2]))
        }
        if dice.random() < 0.6:
            role.assumes = {dice.choice(["*", *others])}
        found.append(role)
    return found


def reachable(drawn: list[Role]) -> set[str]:
    """Return the names of the roles that outsiders may assume, directly or one after the other."""
    found = {role.name for role in drawn if OUTSIDE in role.trusts}
    while True:
        more = {
            role.name
            for role in drawn
            for door in drawn
            if door.name in found
            and (
                door.name in role.trusts
                or (ACCOUNT in role.trusts and door.assumes & {"*", role.name})
            )
        }
        if more <= found:
            return found
        found |= more


def template(drawn: list[Role]) -> Json:
    """Return a template with a key that the account's IAM controls, and with the roles."""
    own = {"AWS": {"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"}}
    key = {"Statement": {"Effect": "Allow", "Principal": own, "Action": "kms:*", "Resource": "*"}}
    resources: Json = {"Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": key}}}
    for role in drawn:
        trusted = {
            **{each: {"AWS": _arn(each)} for each in NAMES},
            OUTSIDE: {"AWS": HOST},
            ACCOUNT: own,
            SERVICE: {"Service": "ec2.amazonaws.com"},
        }
        trust = [
            {"Effect": "Allow", "Principal": trusted[each], "Action": "sts:AssumeRole"}
            for each in sorted(role.trusts)
        ]
        may: list[Json] = [{"Effect": "Allow", "Action": "s3:Get*", "Resource": "*"}]
        for each in sorted(role.assumes):
            resource = each if each == "*" else _arn(each)
            may.append({"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": resource})
        if role.controls:
            may.append({"Effect": "Allow", "Action": "kms:PutKeyPolicy", "Resource": "*"})
        policy = {"PolicyName": "p", "PolicyDocument": {"Statement": may}}
        properties = {"AssumeRolePolicyDocument": {"Statement": trust}, "Policies": [policy]}
        resources[role.name] = {"Type": "AWS::IAM::Role", "Properties": properties}
    return {"Resources": resources}


def _arn(name: str) -> Json:
    return {"Fn::GetAtt": [name, "Arn"]}
