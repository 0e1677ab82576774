"""Every way to weaken our key policy is found by the rule meant for it; harmless edits pass."""

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from tests.support.paths import ENCRYPTOR_TEMPLATE, PROJECT, SHARING_TEMPLATE
from typing import Any

import pytest
import yaml
from cfnlint.config import ConfigMixIn
from cfnlint.decode import decode, decode_str
from cfnlint.rules import Rules
from cfnlint.runner import run_template_by_data

from generator.access.requests import IMAGE, ZEROS
from generator.deployments.concrete import OWNER

OURS = ENCRYPTOR_TEMPLATE

Json = dict[str, Any]


@functools.cache
def _decoded() -> Json:
    template, problems = decode(str(OURS))
    assert not problems
    template["Resources"]["EncryptorProject"]["Properties"]["Source"]["BuildSpec"] = "buildspec.yml"
    plain: Json = json.loads(json.dumps(template))
    return plain


class Draft:
    """A copy of our template and its parts: edit them in place."""

    def __init__(self) -> None:
        """Copy it."""
        self.template = copy.deepcopy(_decoded())
        self.parameters: Json = self.template["Parameters"]
        self.resources: Json = self.template["Resources"]
        self.key: Json = self.resources["EnclaveKey"]["Properties"]
        self.statements: list[Json] = self.key["KeyPolicy"]["Statement"]
        self.owner, self.host, self.deny = self.statements

    def allow(self, principal: object, *actions: str, **more: object) -> "Draft":
        """Add a statement that allows *actions* to *principal*."""
        self.statements.append(
            {
                "Effect": "Allow",
                "Principal": principal,
                "Action": [*actions],
                "Resource": "*",
                **more,
            }
        )
        return self

    def images(self, operator: str, values: object, key: str = "ImageSha384") -> "Draft":
        """Replace the Deny's condition."""
        self.deny["Condition"] = {operator: {f"kms:RecipientAttestation:{key}": values}}
        return self

    def add(self, statement: Json) -> "Draft":
        """Add *statement*."""
        self.statements.append(statement)
        return self


@functools.cache
def _rules() -> Rules:
    return Rules.create_from_directory(PROJECT / "generator/rules")


def findings(text: str) -> list[tuple[str, str, str]]:
    """Return (rule, place, message) of every finding of our rules about keys."""
    template, problems = decode_str(text)
    assert not problems
    found = run_template_by_data(template, ConfigMixIn(regions=["us-east-1"]), _rules())
    return sorted(
        (match.rule.id, "/".join(map(str, match.path or ())), match.message)
        for match in found
        if match.rule.id[1:3] == "91" or match.rule.id == "E0002"
    )


HOST_ARN = "arn:aws:iam::${ExternalBucketAWSAccountNumber}:"
STRANGER = {"AWS": "arn:aws:iam::444455556666:root"}
HOST = {"AWS": {"Fn::Sub": f"{HOST_ARN}root"}}
HOST_ROLE = {"AWS": {"Fn::Sub": f"{HOST_ARN}role/any"}}
ANY_STRING = {"Type": "String"}
MULTI = "kms:RecipientAttestation:ImageSha384"

Edit = Callable[[Draft], object]


def row(name: str, expected: str, edit: Edit) -> object:
    return pytest.param(edit, set(expected.split()), id=name.replace(" ", "-"))


def replica(draft: Draft) -> None:
    policy = {"Version": "2012-10-17", "Statement": [draft.owner, draft.host]}
    arn = {"Fn::GetAtt": ["EnclaveKey", "Arn"]}
    properties = {"PrimaryKeyArn": arn, "KeyPolicy": policy}
    draft.resources["Replica"] = {"Type": "AWS::KMS::ReplicaKey", "Properties": properties}


def role(draft: Draft, trusted: object, *, condition: object = None) -> Json:
    trust: Json = {"Effect": "Allow", "Principal": trusted, "Action": "sts:AssumeRole"}
    if condition:
        trust["Condition"] = condition
    decrypt = {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"}
    draft.resources["Helper"] = {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": trust},
            "Policies": [
                {
                    "PolicyName": "decrypt",
                    "PolicyDocument": {"Version": "2012-10-17", "Statement": [decrypt]},
                }
            ],
        },
    }
    draft.deny["Principal"] = HOST
    return trust


def opened_by_condition(draft: Draft) -> None:
    draft.parameters["Stage"] = {"Type": "String", "AllowedValues": ["production", "test"]}
    draft.template["Conditions"]["IsTest"] = {"Fn::Equals": [{"Ref": "Stage"}, "test"]}
    draft.statements[2] = {"Fn::If": ["IsTest", {"Ref": "AWS::NoValue"}, draft.deny]}


def effect_by_parameter(draft: Draft) -> None:
    draft.parameters["Effect"] = {"Type": "String", "AllowedValues": ["Deny", "Allow"]}
    draft.deny["Effect"] = {"Ref": "Effect"}


def _opened_by(name: str, literal: str, draft: Draft) -> None:
    opened_if(draft, {"Ref": f"AWS::{name}"}, literal)


def _shut_by(name: str, literal: str, draft: Draft) -> None:
    shut_if(draft, {"Ref": f"AWS::{name}"}, literal)


def opened_if(draft: Draft, *sides: object) -> None:
    draft.template["Conditions"]["IsOpen"] = {"Fn::Equals": [*sides]}
    draft.statements[2] = {"Fn::If": ["IsOpen", {"Ref": "AWS::NoValue"}, draft.deny]}


def shut_if(draft: Draft, *sides: object) -> None:
    draft.template["Conditions"]["IsShut"] = {"Fn::Equals": [*sides]}
    draft.statements[2] = {"Fn::If": ["IsShut", draft.deny, {"Ref": "AWS::NoValue"}]}


def mapped(draft: Draft, by: object, *keys: str) -> None:
    """Let the Deny be one for the first of *keys* only."""
    draft.template["Mappings"]["Effects"] = {
        key: {"Effect": "Allow" if number else "Deny"} for number, key in enumerate(keys)
    }
    draft.deny["Effect"] = {"Fn::FindInMap": ["Effects", by, "Effect"]}


def stage(draft: Draft, **constraints: object) -> Json:
    draft.parameters["Stage"] = {"Type": "String", "Default": "production", **constraints}
    return {"Ref": "Stage"}


HELPED = {"Effect": "Allow", "Action": "kms:PutKeyPolicy", "Resource": "*"}


def helped(
    draft: Draft, attached: str, by: object, trusted: object = STRANGER, **properties: object
) -> None:
    """Add a role for outsiders that may control the key, by a policy of its own resource."""
    role(draft, trusted)["Action"] = "sts:*"
    draft.deny["Principal"] = "*"
    draft.resources["Helper"]["Properties"].pop("Policies")
    draft.resources["Helper"]["Properties"].update(properties)
    draft.resources["Attached"] = {
        "Type": "AWS::IAM::Policy",
        "Properties": {attached: by, "PolicyDocument": {"Statement": HELPED}, "PolicyName": "p"},
    }


def federated(draft: Draft, action: str) -> None:
    role(draft, {"Federated": "accounts.example.com"})["Action"] = action
    draft.deny["Principal"] = "*"
    policy = draft.resources["Helper"]["Properties"]["Policies"][0]
    policy["PolicyDocument"]["Statement"] = [HELPED]


def optional(draft: Draft, *, whole: bool) -> None:
    """Give a role for outsiders its policy in one region alone."""
    federated(draft, "sts:AssumeRoleWithSAML")
    draft.template["Conditions"]["Far"] = {"Fn::Equals": [{"Ref": "AWS::Region"}, "ap-south-1"]}
    properties = draft.resources["Helper"]["Properties"]
    choice = properties["Policies"] if whole else properties["Policies"][0]
    found = {"Fn::If": ["Far", choice, {"Ref": "AWS::NoValue"}]}
    properties["Policies"] = found if whole else [found]


def action_part(draft: Draft, pattern: str, statement: Json, action: object) -> None:
    draft.parameters["Act"] = {"Type": "String", "Default": "Decrypt", "AllowedPattern": pattern}
    statement["Action"] = action


def imported(draft: Draft) -> None:
    federated(draft, "sts:AssumeRoleWithSAML")
    policy = draft.resources["Helper"]["Properties"]["Policies"][0]
    policy["PolicyDocument"] = {"Fn::ImportValue": "policy"}


def starts_builds(draft: Draft) -> None:
    helped(draft, "Roles", [{"Ref": "Helper"}])
    attached = draft.resources["Attached"]["Properties"]
    attached["PolicyDocument"] = {"Statement": {**HELPED, "Action": "codebuild:StartBuild"}}


def joined_images_open_it(draft: Draft) -> None:
    images = {"Fn::Join": [",", {"Ref": "EnclaveImageSha384"}]}
    opened_if(draft, images, f"{IMAGE},{IMAGE}")


def composed_text_opens_it(draft: Draft) -> None:
    stage(draft, AllowedPattern="^[a-z]+$")
    opened_if(draft, {"Fn::Sub": "${Stage}-x"}, "test-x")


INCLUDE = {"Fn::Transform": {"Name": "AWS::Include", "Parameters": {"Location": "s3://x"}}}


def looped(draft: Draft) -> None:
    key = draft.resources.pop("EnclaveKey")
    draft.resources["Fn::ForEach::Keys"] = ["Name", ["One"], {"Key${Name}": key}]


OUTSIDER_DECRYPTS = [
    *(
        row(f"no Deny where {name} is {literal}", "E9101 W9101 W9102", edit)
        for name, literal in (
            ("Region", "ap-south-1"),
            ("Partition", "aws-cn"),
            ("AccountId", "123456789012"),
            ("StackName", "test"),
        )
        for edit in [functools.partial(_opened_by, name, literal)]
    ),
    *(
        row(f"a Deny only where {name} is {literal}", "E9101 W9101 W9102", edit)
        for name, literal in (
            ("Region", "eu-west-1"),
            ("Partition", "aws"),
            ("AccountId", OWNER),
            ("StackName", "stack"),
        )
        for edit in [functools.partial(_shut_by, name, literal)]
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
    row("a stranger replicates", "E9104", lambda d: d.allow(STRANGER, "kms:ReplicateKey")),
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
        "E9104 W9103",
        lambda d: (
            d.parameters.update(Administrator=ANY_STRING),
            d.allow({"AWS": {"Ref": "Administrator"}}, "kms:CreateGrant"),
        ),
    ),
]

OUTSIDER_HAS_A_ROLE = [
    row("by web identity", "E9104", lambda d: federated(d, "sts:AssumeRoleWithWebIdentity")),
    row("by SAML", "E9104", lambda d: federated(d, "sts:AssumeRoleWithSAML")),
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
        "a pattern that would take Java for ever",
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


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        *OUTSIDER_DECRYPTS,
        *OUTSIDER_DOES_MORE,
        *OUTSIDER_HAS_A_ROLE,
        *NOT_PROVABLE,
        *HARMLESS,
    ],
)
def test_a_policy_is_found_by_the_rules_meant_for_it(edit: Edit, expected: set[str]) -> None:
    draft = Draft()
    edit(draft)
    found = findings(json.dumps(draft.template))
    assert {rule for rule, _, _ in found} == expected, found
    assert all(place.startswith("Resources/") for _, place, _ in found)


def test_our_template_as_it_is_written_gets_nothing() -> None:
    assert findings(OURS.read_text()) == []


def test_removing_what_marks_the_template_silences_the_rules() -> None:
    """Other people's templates are not ours to judge."""
    draft = Draft()
    policy = {"Statement": [draft.owner]}
    key = {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": policy}}
    assert findings(yaml.safe_dump({"Resources": {"Key": key}})) == []


def test_a_policy_as_text_is_judged_by_the_attestation_in_it() -> None:
    draft = Draft()
    del draft.deny["Condition"]
    draft.deny["Condition"] = {"Null": {MULTI: "true"}}
    policy = json.dumps({"Statement": draft.statements}).replace('{"Fn::Sub": ', '{"AWS": ')
    key = {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": policy}}
    assert findings(yaml.safe_dump({"Resources": {"Key": key}}))


def test_removing_the_deny_and_its_parameter_does_not() -> None:
    draft = Draft()
    draft.statements.remove(draft.deny)
    del draft.parameters["EnclaveImageSha384"]
    assert "E9101" in {rule for rule, _, _ in findings(json.dumps(draft.template))}
