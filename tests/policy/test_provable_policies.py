"""Key policies that cannot be proved are reported; harmless edits of ours pass."""

import json

import pytest
import yaml

from generator.access.requests import IMAGE
from tests.policy.weakening import (
    ANY_STRING,
    HOST_ROLE,
    INCLUDE,
    MULTI,
    Draft,
    Edit,
    action_part,
    assert_found_by,
    findings,
    looped,
    role,
    row,
    stage,
)
from tests.support.paths import ENCRYPTOR_TEMPLATE

NOT_PROVABLE = [
    row("a transform in the policy", "W9103", lambda d: d.key["KeyPolicy"].update(INCLUDE)),
    row("a transform in the key", "W9103", lambda d: d.resources["EnclaveKey"].update(INCLUDE)),
    row("a transform in its properties", "W9103", lambda d: d.key.update(INCLUDE)),
    row("a loop in its properties", "W9103", lambda d: d.key.update({"Fn::ForEach::P": []})),
    row("a transform among the resources", "W9103", lambda d: d.resources.update(INCLUDE)),
    row("a key made by a loop", "W9103", looped),
    row("text too deep", "W9103", lambda d: d.key.update(KeyPolicy="[" * 20000 + "]" * 20000)),
    row(
        "a parameter of the Deny's action",
        "E9101 W9101 W9102",
        lambda d: action_part(
            d, "^[A-Z][a-z]+$", d.deny, [{"Fn::Sub": "kms:${Act}"}, "kms:ReEncryptFrom"]
        ),
    ),
    row(
        "a parameter of the host's action",
        "E9104 E9105",
        lambda d: action_part(d, "^[A-Za-z]+$", d.host, {"Fn::Sub": "kms:${Act}"}),
    ),
    row(
        "a parameter that exempts a role",
        "E9101 W9101 W9102",
        lambda d: d.deny["Condition"].update(
            ArnNotEquals={
                "aws:PrincipalArn": stage(
                    d,
                    Default="arn:aws:iam::111122223333:role/nobody",
                    AllowedPattern="^arn:aws:iam::[0-9]{12}:role/[a-z]+$",
                )
            }
        ),
    ),
    row(
        "a pattern with exponential backtracking in Java",
        "",
        lambda d: d.parameters["EnclaveImageSha384"].update(
            AllowedPattern=r"^(none|(\w|\w\w)+[!?])$"
        ),
    ),
    row(
        "an imported image",
        "W9103",
        lambda d: d.images("StringNotEquals", {"Fn::ImportValue": "image"}),
    ),
    row(
        "a policy variable",
        "W9103",
        lambda d: d.images("StringNotEquals", "${aws:PrincipalTag/image}"),
    ),
    row("an unknown operator", "W9103", lambda d: d.images("StringDiffersFrom", [IMAGE])),
    row("a macro", "W9103", lambda d: d.template.update(Transform="Rewriter")),
    row(
        "a transform in the Deny",
        "W9103",
        lambda d: d.deny.update(
            {"Fn::Transform": {"Name": "AWS::Include", "Parameters": {"Location": "s3://x"}}}
        ),
    ),
    row(
        "an image from the parameter store",
        "E9102 W9101 W9102",
        lambda d: d.parameters.update(
            EnclaveImageSha384={"Type": "AWS::SSM::Parameter::Value<CommaDelimitedList>"}
        ),
    ),
    row(
        "an imported policy",
        "W9103",
        lambda d: d.key.update(KeyPolicy={"Fn::ImportValue": "policy"}),
    ),
    row("an Effect in lower case", "W9103", lambda d: d.deny.update(Effect="deny")),
]

HARMLESS = [
    row(
        "optional parameters in tags",
        "",
        lambda d: (
            d.parameters.update(A={**ANY_STRING, "Default": ""}, B={**ANY_STRING, "Default": ""}),
            d.key.update(Tags=[{"Key": name, "Value": {"Ref": name}} for name in "AB"]),
        ),
    ),
    row(
        "a pattern for upper case",
        "",
        lambda d: d.parameters["EnclaveImageSha384"].update(
            AllowedPattern="^(none|(?!0{96}$)[0-9A-F]{96})$"
        ),
    ),
    row(
        "a description for each region",
        "",
        lambda d: (
            d.template["Conditions"].update(
                Near={"Fn::Equals": [{"Ref": "AWS::Region"}, "eu-west-1"]}
            ),
            d.key.update(Description={"Fn::If": ["Near", "near", "far"]}),
        ),
    ),
    row("a key for one region", "", lambda d: d.key.update(MultiRegion=False)),
    row("nothing", "", lambda _: None),
    row("another order", "", lambda d: d.statements.reverse()),
    row("other Sids", "", lambda d: [s.update(Sid=f"S{n}") for n, s in enumerate(d.statements)]),
    row("no Sids", "", lambda d: [s.pop("Sid") for s in d.statements]),
    row(
        "single values in place of lists",
        "",
        lambda d: d.host.update(Action="kms:Decrypt", Resource="*"),
    ),
    row(
        "a split Deny",
        "",
        lambda d: (
            d.add({**d.deny, "Action": "kms:ReEncryptFrom"}),
            d.deny.update(Action="kms:decrypt"),
        ),
    ),
    row("a wider Deny", "", lambda d: d.deny.update(Action=["kms:Decrypt", "kms:ReEncrypt*"])),
    row("everybody written as AWS", "", lambda d: d.deny.update(Principal={"AWS": "*"})),
    row("a narrower parent", "", lambda d: d.host.update(Principal=HOST_ROLE)),
    row("several images", "", lambda d: d.images("StringNotEqualsIgnoreCase", [IMAGE, "2b" * 48])),
    row(
        "the operator that minds the case",
        "",
        lambda d: d.images("StringNotEquals", {"Ref": "EnclaveImageSha384"}),
    ),
    row(
        "PCR0 by its other name",
        "",
        lambda d: d.images("StringNotEqualsIgnoreCase", {"Ref": "EnclaveImageSha384"}, "PCR0"),
    ),
    row(
        "a condition key in lower case",
        "",
        lambda d: d.deny.update(
            Condition={"StringNotEqualsIgnoreCase": {MULTI.lower(): {"Ref": "EnclaveImageSha384"}}}
        ),
    ),
    row("no host yet", "", lambda d: d.statements.remove(d.host)),
    row(
        "one more condition on the Allow",
        "",
        lambda d: d.host.update(Condition={"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}),
    ),
    row(
        "an administrator by name",
        "",
        lambda d: d.allow(
            {"AWS": {"Fn::Sub": "arn:aws:iam::${AWS::AccountId}:role/keys"}}, "kms:*"
        ),
    ),
    row(
        "another logical name",
        "",
        lambda d: d.resources.update(Other=d.resources.pop("EnclaveKey")),
    ),
    row(
        "the policy as text",
        "",
        lambda d: d.key.update(KeyPolicy={"Fn::ToJsonString": d.key["KeyPolicy"]}),
    ),
    row(
        "a role for its own account",
        "",
        lambda d: (role(d, {"Service": "ec2.amazonaws.com"}), d.deny.update(Principal="*")),
    ),
]


@pytest.mark.parametrize(("edit", "expected"), [*NOT_PROVABLE, *HARMLESS])
def test_policy_gets_exactly_the_expected_findings(edit: Edit, expected: set[str]) -> None:
    assert_found_by(edit, expected)


def test_our_template_has_no_findings() -> None:
    assert findings(ENCRYPTOR_TEMPLATE.read_text()) == []


def test_rules_do_not_apply_to_unrelated_keys() -> None:
    """Other templates are out of scope."""
    draft = Draft()
    policy = {"Statement": [draft.owner]}
    key = {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": policy}}
    assert findings(yaml.safe_dump({"Resources": {"Key": key}})) == []


def test_policy_as_text_with_attestation_is_checked() -> None:
    draft = Draft()
    del draft.deny["Condition"]
    draft.deny["Condition"] = {"Null": {MULTI: "true"}}
    policy = json.dumps({"Statement": draft.statements}).replace('{"Fn::Sub": ', '{"AWS": ')
    key = {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": policy}}
    assert findings(yaml.safe_dump({"Resources": {"Key": key}}))
