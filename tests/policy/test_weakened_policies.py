"""Every way to weaken our key policy is found by the expected rules."""

import functools
import json

import pytest

from generator.access.requests import IMAGE, ZEROS
from generator.deployments.concrete import OWNER
from tests.policy.weakening import (
    ANY_STRING,
    HOST,
    HOST_ROLE,
    MULTI,
    STRANGER,
    Draft,
    Edit,
    allowed_to_a_stranger,
    assert_found_by,
    assumed_by,
    composed_text_opens_it,
    effect_by_parameter,
    federated,
    findings,
    helped,
    imported,
    joined_images_open_it,
    mapped,
    opened_by,
    opened_by_condition,
    opened_if,
    optional,
    replica,
    role,
    row,
    shut_by,
    shut_if,
    stage,
    starts_builds,
)

OUTSIDER_DECRYPTS = [
    *(
        row(f"no Deny where {name} is {literal}", "E9101 W9101 W9102", edit)
        for name, literal in (
            ("Region", "ap-south-1"),
            ("Partition", "aws-cn"),
            ("AccountId", "123456789012"),
            ("StackName", "test"),
        )
        for edit in [functools.partial(opened_by, name, literal)]
    ),
    *(
        row(f"a Deny only where {name} is {literal}", "E9101 W9101 W9102", edit)
        for name, literal in (
            ("Region", "eu-west-1"),
            ("Partition", "aws"),
            ("AccountId", OWNER),
            ("StackName", "stack"),
        )
        for edit in [functools.partial(shut_by, name, literal)]
    ),
    row("composed text opens it", "E9101 W9101 W9102", composed_text_opens_it),
    row("a joined list opens it", "W9103", joined_images_open_it),
    row(
        "two equal parameters open it",
        "E9101 W9101 W9102",
        lambda d: opened_if(d, stage(d), {"Ref": "ParentInstanceRoleName"}),
    ),
    row(
        "a third value opens it",
        "E9101 W9101 W9102",
        lambda d: shut_if(d, stage(d, AllowedPattern="^[a-z]{5,}$"), "production"),
    ),
    row(
        "a map's key opens it",
        "E9101 W9101 W9102",
        lambda d: mapped(d, stage(d, AllowedPattern="^production|test$"), "production", "test"),
    ),
    row(
        "a map's region opens it",
        "E9101 W9101 W9102",
        lambda d: mapped(d, {"Ref": "AWS::Region"}, "eu-west-1", "us-east-1"),
    ),
    row("no Deny", "E9101 W9101 W9102", lambda d: d.statements.remove(d.deny)),
    row("Deny for the host alone", "W9101 W9102", lambda d: d.deny.update(Principal=HOST)),
    row(
        "Deny for the host alone, and no grants",
        "W9101",
        lambda d: d.add({**d.deny, "Action": "kms:CreateGrant", "Condition": {}}).deny.update(
            Principal=HOST
        ),
    ),
    row(
        "Deny for another principal than the Allow",
        "E9101 W9101 W9102",
        lambda d: d.deny.update(Principal=STRANGER),
    ),
    row(
        "Deny without ReEncryptFrom, Allow with it",
        "E9101 W9101 W9102",
        lambda d: (
            d.deny.update(Action="kms:Decrypt"),
            d.host.update(Action=["kms:Decrypt", "kms:ReEncryptFrom"]),
        ),
    ),
    row(
        "Deny of another action",
        "E9101 W9101 W9102",
        lambda d: d.deny.update(Action="kms:DecryptData"),
    ),
    row(
        "Deny by NotAction that spares Decrypt",
        "E9101 E9107 W9101",
        lambda d: (d.deny.pop("Action"), d.deny.update(NotAction="kms:D*")),
    ),
    row(
        "an extra condition",
        "E9101 W9101 W9102",
        lambda d: d.deny["Condition"].update(Bool={"aws:ViaAWSService": "false"}),
    ),
    row(
        "an extra condition on the caller",
        "E9101 W9102",
        lambda d: d.deny["Condition"].update(
            StringEquals={"aws:PrincipalAccount": {"Ref": "AWS::AccountId"}}
        ),
    ),
    row(
        "the root user is spared",
        "E9101 W9101 W9102",
        lambda d: d.deny["Condition"].update(
            ArnNotLike={"aws:PrincipalArn": "arn:aws:iam::*:root"}
        ),
    ),
    row("IfExists on Null", "W9103", lambda d: d.images("NullIfExists", "true")),
    row(
        "only if the key exists",
        "E9101 W9101 W9102",
        lambda d: d.deny["Condition"].update(Null={MULTI: "false"}),
    ),
    row("an inverted operator", "E9101 W9101 W9102", lambda d: d.images("StringEquals", [IMAGE])),
    row("any attestation will do", "E9102 W9101 W9102", lambda d: d.images("Null", "true")),
    row(
        "ForAnyValue spares a missing key",
        "E9101 W9101 W9102",
        lambda d: d.images("ForAnyValue:StringNotEquals", [IMAGE]),
    ),
    row(
        "a wildcard in the value",
        "E9102 W9101 W9102",
        lambda d: d.images("StringNotLike", ["*"]),
    ),
    row(
        "a digest with a wildcard",
        "E9103 W9101 W9102",
        lambda d: d.images("StringNotLike", [IMAGE[:60] + "*"]),
    ),
    row(
        "question marks",
        "E9102 W9101 W9102",
        lambda d: d.images("StringNotLike", ["?" * 96]),
    ),
    row("another PCR", "E9103 W9101 W9102", lambda d: d.images("StringNotEquals", IMAGE, "PCR8")),
    row(
        "zeros among the images",
        "E9102 W9101 W9102",
        lambda d: d.images("StringNotEqualsIgnoreCase", [IMAGE, ZEROS]),
    ),
    row(
        "a parameter that accepts zeros",
        "E9102 W9101 W9102",
        lambda d: d.parameters["EnclaveImageSha384"].update(AllowedPattern="^[0-9a-f]{96}$"),
    ),
    row(
        "a parameter that accepts anything",
        "E9102 W9101 W9102",
        lambda d: d.parameters["EnclaveImageSha384"].pop("AllowedPattern"),
    ),
    row(
        "a parameter that accepts a wildcard, where it is one",
        "E9102 W9101 W9102",
        lambda d: (
            d.images("StringNotLike", {"Ref": "EnclaveImageSha384"}),
            d.parameters["EnclaveImageSha384"].update(AllowedPattern=r"^(none|\*)$"),
        ),
    ),
    row("a branch without Deny", "E9101 W9101 W9102", opened_by_condition),
    row("an effect that a parameter chooses", "E9101 W9101 W9102", effect_by_parameter),
    row(
        "Resource that is another key",
        "E9101 W9101 W9102",
        lambda d: d.deny.update(Resource="arn:aws:kms:eu-west-1:444455556666:key/other"),
    ),
    row(
        "NotPrincipal spares the host",
        "E9101 W9101 W9102",
        lambda d: (
            d.deny.pop("Principal"),
            d.deny.update(NotPrincipal={"AWS": [HOST["AWS"], HOST_ROLE["AWS"]]}),
        ),
    ),
    row(
        "a second outsider, and a Deny for the first",
        "E9101 W9101 W9102 W9104",
        lambda d: (d.allow(STRANGER, "kms:Decrypt"), d.deny.update(Principal=HOST)),
    ),
    row(
        "everybody, and a Deny for the host",
        "E9101 W9101 W9102 W9104",
        lambda d: (d.allow("*", "kms:Decrypt"), d.deny.update(Principal=HOST)),
    ),
    row(
        "a service, and a Deny for the host",
        "E9101 W9101 W9102",
        lambda d: (
            d.allow({"Service": "logs.amazonaws.com"}, "kms:Decrypt"),
            d.deny.update(Principal=HOST),
        ),
    ),
    row("a replica under a policy of its own", "E9101 W9101 W9102", replica),
    row("a role that outsiders may assume", "E9101 W9101 W9102", lambda d: role(d, STRANGER)),
    row(
        "a role that outsiders may assume with a secret",
        "E9101 W9101 W9102",
        lambda d: role(d, STRANGER, condition={"StringEquals": {"sts:ExternalId": "known"}}),
    ),
    row("a key for several regions", "W9101", lambda d: d.key.update(MultiRegion=True)),
    row(
        "a policy in text that allows all",
        "E9101 E9104 E9105 W9101 W9102",
        lambda d: d.key.update(
            KeyPolicy=json.dumps({"Statement": [{**d.owner, "Principal": STRANGER}]})
        ),
    ),
    row("no policy at all", "W9101 W9102", lambda d: d.key.pop("KeyPolicy")),
]

OUTSIDER_DOES_MORE = [
    row("the host gives grants", "E9104", lambda d: d.allow(HOST, "kms:CreateGrant")),
    row("the host rewrites the policy", "E9104", lambda d: d.allow(HOST, "kms:Put*")),
    *(
        row(f"a stranger calls {action}", "E9104", functools.partial(allowed_to_a_stranger, action))
        for action in (
            *("ReplicateKey", "UpdatePrimaryRegion", "DeleteImportedKeyMaterial", "RevokeGrant"),
            *("EnableKey", "CancelKeyDeletion"),
        )
    ),
    row("a stranger describes it", "", lambda d: d.allow(STRANGER, "kms:DescribeKey")),
    row("the host does all", "E9104 E9105", lambda d: d.host.update(Action="kms:*")),
    row(
        "the host does all but decrypt",
        "E9104 E9105",
        lambda d: (d.host.pop("Action"), d.host.update(NotAction="kms:Decrypt")),
    ),
    row("the host makes data keys", "E9105", lambda d: d.allow(HOST, "kms:GenerateDataKey*")),
    row("the host encrypts", "E9105", lambda d: d.allow(HOST, "kms:Encrypt")),
    row("the host derives secrets", "", lambda d: d.allow(HOST, "kms:DeriveSharedSecret")),
    row(
        "everybody encrypts within an organization",
        "E9105",
        lambda d: d.allow(
            "*", "kms:Encrypt", Condition={"StringEquals": {"aws:PrincipalOrgID": "o-1"}}
        ),
    ),
    row(
        "a parameter may name anybody",
        "E9104",
        lambda d: (
            d.parameters.update(Administrator=ANY_STRING),
            d.allow({"AWS": {"Ref": "Administrator"}}, "kms:CreateGrant"),
        ),
    ),
]

OUTSIDER_HAS_A_ROLE = [
    row("by web identity", "E9104", lambda d: federated(d, "sts:AssumeRoleWithWebIdentity")),
    row("by SAML", "E9104", lambda d: federated(d, "sts:AssumeRoleWithSAML")),
    *(
        row(f"by {service}", expected, functools.partial(assumed_by, service))
        for service, expected in (
            ("rolesanywhere.amazonaws.com", "E9104"),
            ("credentials.iot.amazonaws.com", "E9104"),
            ("codebuild.amazonaws.com", ""),
        )
    ),
    row("by Ref", "E9104", lambda d: helped(d, "Roles", [{"Ref": "Helper"}])),
    row("by Sub", "E9104", lambda d: helped(d, "Roles", [{"Fn::Sub": "${Helper}"}])),
    row("by its name", "E9104", lambda d: helped(d, "Roles", ["h"], RoleName="h")),
    row("by RoleName", "E9104", lambda d: helped(d, "RoleName", "h", RoleName="h")),
    row("of no known path", "E9104", lambda d: helped(d, "RoleName", "h", RoleName="h", Path="x")),
    row("of no name", "E9104", lambda d: helped(d, "RoleName", {"Ref": "Helper"}, RoleName="")),
    row("with policies in one region", "E9104", lambda d: optional(d, whole=True)),
    row("with a policy in one region", "E9104", lambda d: optional(d, whole=False)),
    row("with an imported policy", "E9106 W9103", imported),
    row("that starts builds", "E9106", starts_builds),
]


@pytest.mark.parametrize(
    ("edit", "expected"), [*OUTSIDER_DECRYPTS, *OUTSIDER_DOES_MORE, *OUTSIDER_HAS_A_ROLE]
)
def test_weakened_policy_gets_exactly_the_expected_findings(edit: Edit, expected: set[str]) -> None:
    assert_found_by(edit, expected)


def test_removing_the_deny_and_its_parameter_does_not_silence_the_rules() -> None:
    draft = Draft()
    draft.statements.remove(draft.deny)
    del draft.parameters["EnclaveImageSha384"]
    assert "E9101" in {rule for rule, _, _ in findings(json.dumps(draft.template))}
