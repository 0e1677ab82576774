"""Edits of our template's key policy, and the rules' findings afterwards."""

import copy
import functools
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from cfnlint.config import ConfigMixIn
from cfnlint.decode import decode, decode_str
from cfnlint.rules import Match, Rules
from cfnlint.runner import run_template_by_data
from cfnlint.template import Template

from generator.access.answers import KeyAccess
from generator.access.requests import IMAGE
from generator.rules._answers import judged
from tests.support.paths import ENCRYPTOR_TEMPLATE, PROJECT

Json = dict[str, Any]


@functools.cache
def _decoded() -> Json:
    template, problems = decode(str(ENCRYPTOR_TEMPLATE))
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


Findings = list[tuple[str, str, str]]


def findings(text: str) -> Findings:
    """Return (rule, path, message) of every finding of our rules about keys."""
    template, problems = decode_str(text)
    assert not problems
    return _about_keys(run_template_by_data(template, ConfigMixIn(regions=["us-east-1"]), _rules()))


def proof_and_findings(template: Json) -> tuple[list[KeyAccess], Findings]:
    """Return the proof about each key, and what the rules find by it: proved once for both."""
    decoded, problems = decode_str(json.dumps(template))
    assert not problems
    config = ConfigMixIn(regions=["us-east-1"])
    cfn = Template(None, decoded, config.regions)
    assert not cfn.transform()
    found = _about_keys(_rules().run(filename=None, cfn=cfn, config=config))
    return judged(cfn), found


def _about_keys(matches: Iterable[Match]) -> Findings:
    return sorted(
        (match.rule.id, "/".join(map(str, match.path or ())), match.message)
        for match in matches
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


def opened_by(name: str, literal: str, draft: Draft) -> None:
    opened_if(draft, {"Ref": f"AWS::{name}"}, literal)


def shut_by(name: str, literal: str, draft: Draft) -> None:
    shut_if(draft, {"Ref": f"AWS::{name}"}, literal)


def opened_if(draft: Draft, *sides: object) -> None:
    draft.template["Conditions"]["IsOpen"] = {"Fn::Equals": [*sides]}
    draft.statements[2] = {"Fn::If": ["IsOpen", {"Ref": "AWS::NoValue"}, draft.deny]}


def shut_if(draft: Draft, *sides: object) -> None:
    draft.template["Conditions"]["IsShut"] = {"Fn::Equals": [*sides]}
    draft.statements[2] = {"Fn::If": ["IsShut", draft.deny, {"Ref": "AWS::NoValue"}]}


def mapped(draft: Draft, by: object, *keys: str) -> None:
    """Make the Deny effective for the first of *keys* only."""
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
    """Add a role for outsiders that may control the key, with a separate policy resource."""
    role(draft, trusted)["Action"] = "sts:*"
    draft.deny["Principal"] = "*"
    draft.resources["Helper"]["Properties"].pop("Policies")
    draft.resources["Helper"]["Properties"].update(properties)
    draft.resources["Attached"] = {
        "Type": "AWS::IAM::Policy",
        "Properties": {attached: by, "PolicyDocument": {"Statement": HELPED}, "PolicyName": "p"},
    }


def allowed_to_a_stranger(action: str, draft: Draft) -> None:
    draft.allow(STRANGER, f"kms:{action}")


def assumed_by(service: str, draft: Draft) -> None:
    """Add a role that controls the key, and that *service*, among others, may assume."""
    federated(draft, "sts:AssumeRole", {"Service": ["ec2.amazonaws.com", service]})


def federated(draft: Draft, action: str, trusted: Json | None = None) -> None:
    role(draft, trusted or {"Federated": "accounts.example.com"})["Action"] = action
    draft.deny["Principal"] = "*"
    policy = draft.resources["Helper"]["Properties"]["Policies"][0]
    policy["PolicyDocument"]["Statement"] = [HELPED]


def optional(draft: Draft, *, whole: bool) -> None:
    """Give a role for outsiders its policy in one region only."""
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


def assert_found_by(edit: Edit, expected: set[str]) -> None:
    """Assert that exactly the *expected* rules have findings in the edited template."""
    draft = Draft()
    edit(draft)
    found = findings(json.dumps(draft.template))
    assert {rule for rule, _, _ in found} == expected, found
    assert all(place.startswith("Resources/") for _, place, _ in found)
