"""Open keys that a list of sample callers and values would miss, and false alarms."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from generator.access.answers import Attests, KeyAccess, Outcome
from generator.access.attestations import worth
from generator.access.questions import accesses, outcome, policy_access
from generator.policy.evaluation import Verdict
from generator.policy.request import Attestation, Grant, Leads
from tests.policy.weakening import INCLUDE, findings

Json = dict[str, Any]

ACCOUNT, OTHER = "444455556666", "777788889999"
IMAGE, SECOND, ZEROS = "ab" * 48, "cd" * 48, "0" * 96
ATTESTED = "kms:RecipientAttestation:"
OWN_ARN = "arn:${AWS::Partition}:iam::${AWS::AccountId}:"
OWN: Json = {"AWS": {"Ref": "AWS::AccountId"}}
HEX = "[0-9a-f]{96}"


class Draft:
    """A template with one closed key: edit it in place."""

    def __init__(self) -> None:
        """Make it."""
        self.owner: Json = allow({"AWS": {"Fn::Sub": f"{OWN_ARN}root"}}, "kms:*")
        self.host: Json = allow({"AWS": {"Ref": "Host"}}, "kms:Decrypt")
        images = {f"{ATTESTED}ImageSha384": {"Ref": "EnclaveImageSha384"}}
        self.condition: Json = {"StringNotEqualsIgnoreCase": images}
        self.deny: Json = {
            "Effect": "Deny",
            "Principal": "*",
            "Action": ["kms:Decrypt", "kms:ReEncryptFrom"],
            "Resource": "*",
            "Condition": self.condition,
        }
        self.statements = [self.owner, self.host, self.deny]
        self.parameters: Json = {
            "Host": {"Type": "String", "AllowedPattern": "^[0-9]{12}$"},
            "EnclaveImageSha384": {
                "Type": "CommaDelimitedList",
                "Default": "none",
                "AllowedPattern": "^(none|(?!0{96}$)[0-9a-fA-F]{96})$",
            },
        }
        self.key: Json = {
            "EnableKeyRotation": True,
            "KeyPolicy": {"Version": "2012-10-17", "Statement": self.statements},
        }
        self.resources: Json = {"Key": {"Type": "AWS::KMS::Key", "Properties": self.key}}
        self.sections: Json = {}

    @property
    def template(self) -> Json:
        """The template in its current state."""
        return {"Parameters": self.parameters, "Resources": self.resources, **self.sections}

    def spare(self, operator: str, key: str, value: object) -> None:
        """Narrow the Deny by one more condition."""
        self.condition.setdefault(operator, {})[key] = value

    def parameter(self, name: str, pattern: str | None, **more: object) -> Json:
        """Declare a parameter, and return a reference to it."""
        constraints = {"AllowedPattern": pattern} if pattern else {}
        self.parameters[name] = {"Type": "String", **constraints, **more}
        return {"Ref": name}

    def without_grants(self) -> None:
        """Allow the owner only to change the policy."""
        self.owner["Action"] = ["kms:PutKeyPolicy", "kms:DescribeKey"]


def allow(principal: object, action: object, **condition: object) -> Json:
    statement: Json = {"Effect": "Allow", "Principal": principal, "Action": action, "Resource": "*"}
    return {**statement, **({"Condition": condition} if condition else {})}


def registers(draft: Draft, **digests: str) -> None:
    """Allow decryption only to the host, by registers of NitroTPM."""
    draft.without_grants()
    draft.statements.remove(draft.deny)
    names = {f"{ATTESTED}NitroTPM{name}": digest for name, digest in digests.items()}
    draft.host["Condition"] = {"StringEqualsIgnoreCase": names}


def of_china(draft: Draft) -> None:
    text = json.dumps(draft.statements[:2]).replace("${AWS::Partition}", "aws-cn")
    draft.statements[:] = json.loads(text)


def second_pcr8(draft: Draft) -> None:
    first, second = "1" * 96, "2" * 96
    draft.spare("StringNotEqualsIgnoreCase", f"{ATTESTED}PCR8", [first, second])
    more = copy.deepcopy(draft.deny)
    more["Condition"]["StringNotEqualsIgnoreCase"][f"{ATTESTED}PCR8"] = [second]
    draft.statements.append(more)


def as_text(draft: Draft, pattern: str | None) -> None:
    draft.parameter("OrgId", pattern, Default="o-1")
    draft.parameter("Image", f"^(none|(?!0{{96}}$){HEX})$")
    draft.condition["StringNotEqualsIgnoreCase"] = {f"{ATTESTED}ImageSha384": ["${Image}"]}
    draft.host["Principal"] = {"AWS": "arn:aws:iam::${Host}:root"}
    draft.owner["Principal"] = {"AWS": f"{OWN_ARN}root"}
    draft.host["Condition"] = {"StringEquals": {"aws:PrincipalOrgID": "${OrgId}"}}
    draft.key["KeyPolicy"] = {"Fn::Sub": json.dumps(draft.key["KeyPolicy"])}


def split_images(draft: Draft, pattern: str) -> None:
    draft.parameter("EnclaveImageSha384", pattern, Default="none")
    images = {"Fn::Split": [",", {"Ref": "EnclaveImageSha384"}]}
    draft.condition["StringNotEqualsIgnoreCase"] = {f"{ATTESTED}ImageSha384": images}


def observers(draft: Draft) -> None:
    for number in range(7):
        name = f"Role{number}"
        draft.parameter(name, "^[A-Za-z0-9_]{1,64}$", Default="auditor")
        who = {"AWS": {"Fn::Sub": f"{OWN_ARN}role/${{{name}}}"}}
        draft.statements.append(allow(who, "kms:DescribeKey"))


def via_service(draft: Draft) -> None:
    condition = {"kms:CallerAccount": {"Ref": "AWS::AccountId"}, "kms:ViaService": "ec2.x"}
    actions = ["kms:Encrypt", "kms:GenerateDataKey*", "kms:CreateGrant"]
    draft.statements.append(allow({"AWS": "*"}, actions, StringEquals=condition))


def usage(draft: Draft, **parameter: object) -> None:
    draft.parameters["Usage"] = {"Type": "AWS::SSM::Parameter::Value<String>", **parameter}
    draft.key["KeyUsage"] = {"Ref": "Usage"}


def denied_elsewhere(draft: Draft) -> None:
    draft.spare("StringNotEquals", "aws:PrincipalAccount", OTHER)
    condition = {"StringEquals": {"aws:PrincipalAccount": OTHER}}
    draft.statements.append({**draft.deny, "Condition": condition})


def image(draft: Draft, value: object, operator: str = "StringNotEquals") -> None:
    """Make the Deny spare only the image *value*."""
    draft.condition.clear()
    draft.spare(operator, f"{ATTESTED}ImageSha384", value)


def to_json(draft: Draft, sid: object) -> None:
    draft.owner["Sid"] = sid
    draft.key["KeyPolicy"] = {"Fn::ToJsonString": draft.key["KeyPolicy"]}


def mapped_image(draft: Draft, mappings: Json, key: object = "k") -> None:
    image(draft, {"Fn::FindInMap": ["M", key, "v"]})
    draft.sections["Mappings"] = mappings


def by_condition(draft: Draft, **more: object) -> None:
    draft.statements[2] = {"Fn::If": ["Shut", draft.deny, {"Ref": "AWS::NoValue"}]}
    draft.sections["Conditions"] = {"Shut": {"Fn::Equals": ["a", "a"]}, **more}


def with_a_key_twice(draft: Draft, member: str, before: str) -> None:
    as_text(draft, "^o-[a-z0-9]+$")
    text = draft.key["KeyPolicy"]["Fn::Sub"]
    assert text.count(before) == 1
    draft.key["KeyPolicy"] = {"Fn::Sub": text.replace(before, f"{member}, {before}")}


def replica(draft: Draft, **primary: object) -> None:
    """Make the key a replica of one that only attested callers use, if *primary* describes it."""
    draft.resources["Key"] = {"Type": "AWS::KMS::ReplicaKey", "Properties": draft.key}
    draft.key["PrimaryKeyArn"] = {"Fn::GetAtt": ["Primary", "Arn"]}
    policy = {"Statement": [allow({"AWS": {"Ref": "AWS::AccountId"}}, "kms:PutKeyPolicy")]}
    if primary:
        described = {"KeyPolicy": policy, "MultiRegion": True, **primary}
        draft.resources["Primary"] = {"Type": "AWS::KMS::Key", "Properties": described}


def shut_unless(draft: Draft, *sides: object) -> None:
    """Leave the Deny away where two sides are equal."""
    draft.sections["Conditions"] = {"Open": {"Fn::Equals": [*sides]}}
    draft.statements[2] = {"Fn::If": ["Open", {"Ref": "AWS::NoValue"}, draft.deny]}


def forged_mark(draft: Draft) -> None:
    """Put the character into the policy's text that could stand for its third parameter."""
    secure = draft.parameter("Secure", None, AllowedValues=["true"])["Ref"]
    draft.owner["Sid"] = f"Owner${{{secure}}}"
    as_text(draft, "^o-[a-z0-9]+$")
    text, place = draft.key["KeyPolicy"]["Fn::Sub"], '"StringNotEqualsIgnoreCase"'
    forged = '"StringEquals": {"aws:SecureTransport": "\\ue002"}, '
    assert text.count(place) == 1
    draft.key["KeyPolicy"] = {"Fn::Sub": text.replace(place, forged + place)}


def role_with_include(draft: Draft) -> None:
    draft.resources["Helper"] = {"Type": "AWS::IAM::Role", "Properties": INCLUDE}


def role(draft: Draft, trusted: Json, action: object, name: str = "Helper") -> Json:
    """Add a role, and return the statement about what it may do."""
    trust = {"Effect": "Allow", "Principal": trusted, "Action": "sts:AssumeRole"}
    may = {"Effect": "Allow", "Action": action, "Resource": "*"}
    policy = {"PolicyName": "p", "PolicyDocument": {"Statement": may}}
    properties = {"AssumeRolePolicyDocument": {"Statement": trust}, "Policies": [policy]}
    draft.resources[name] = {"Type": "AWS::IAM::Role", "Properties": properties}
    return may


def attested_only(draft: Draft) -> None:
    draft.without_grants()
    draft.statements.remove(draft.deny)
    images = draft.condition["StringNotEqualsIgnoreCase"]
    draft.host["Condition"] = {"StringEqualsIgnoreCase": images}


def service_grants(draft: Draft) -> None:
    attested_only(draft)
    draft.statements.append(allow({"Service": "dynamodb.amazonaws.com"}, "kms:CreateGrant"))


def pattern_list(draft: Draft) -> None:
    patterns = {"Type": "CommaDelimitedList", "AllowedValues": ["arn:aws:iam::*:role/x"]}
    draft.parameters["Spared"] = patterns
    draft.spare("ArnNotLike", PRINCIPAL, {"Ref": "Spared"})


def measured(draft: Draft, key: str, spared: Json, read: Json) -> None:
    """Spare values of *key*, and read it otherwise in a Deny that changes nothing."""
    for operator, value in spared.items():
        draft.spare(operator, key, value)
    condition: Json = {operator: {key: value} for operator, value in read.items()}
    condition.setdefault("StringEquals", {})["aws:PrincipalTag/never"] = "x"
    draft.statements.append({**draft.deny, "Condition": condition})


def another_image(draft: Draft) -> None:
    """Require a register that says little, refuse debug mode, and name an image in passing."""
    image, pcr8 = f"{ATTESTED}ImageSha384", f"{ATTESTED}PCR8"
    draft.condition["StringNotEqualsIgnoreCase"] = {pcr8: "2b" * 48}
    draft.statements.append({**draft.deny, "Condition": {"StringEquals": {image: ZEROS}}})
    measured(draft, image, {}, {"BinaryEquals": IMAGE, "StringEquals": IMAGE})


def between_numbers(draft: Draft, low: str, high: str) -> None:
    age = "aws:MultiFactorAuthAge"
    more = copy.deepcopy(draft.deny)
    draft.spare("NumericLessThanEqualsIfExists", age, low)
    more["Condition"]["NumericGreaterThanEqualsIfExists"] = {age: high}
    draft.statements.append(more)


def needs_values(draft: Draft, number: int) -> None:
    """Spare requests that have *number* distinct values of a multivalued key."""
    draft.statements.remove(draft.deny)
    for each in range(number):
        deny = copy.deepcopy(draft.deny)
        keys = {"kms:EncryptionContextKeys": f"k{each}"}
        deny["Condition"]["ForAllValues:StringNotEquals"] = keys
        draft.statements.append(deny)


PRINCIPAL, LEVEL = "aws:PrincipalArn", "aws:PrincipalTag/level"
LIKE_A: Json = {"StringNotLike": "a-*"}
NEAR: Json = {"Conditions": {"Near": {"Fn::Equals": [{"Ref": "AWS::Region"}, "eu-west-1"]}}}
OPEN: list[tuple[str, Callable[[Draft], object]]] = [
    ("roles by a pattern", lambda d: d.spare("ArnNotLike", PRINCIPAL, "arn:*:iam::*:role/Break*")),
    ("roles by a text", lambda d: d.spare("StringNotLike", PRINCIPAL, "*:role/Break?lass")),
    ("users by their type",
     lambda d: d.spare("StringEquals", "aws:PrincipalType", ["AssumedRole", "Account"])),
    ("a federated user", lambda d: d.spare(
        "ArnNotEquals", PRINCIPAL,
        {"Fn::Sub": "arn:${AWS::Partition}:sts::${AWS::AccountId}:federated-user/audit"})),
    ("no Deny in China", of_china),
    ("a Deny in one region", lambda d: d.deny.update(Resource="arn:*:kms:eu-west-1:*:key/*")),
    ("a grant for a spared account",
     lambda d: d.spare("StringNotEquals", "aws:PrincipalAccount", OTHER)),
    ("a parameter that equals a spared account",
     lambda d: d.spare("StringNotEquals", "aws:PrincipalAccount", ACCOUNT)),
    ("a parameter that is an ARN", lambda d: d.spare("StringNotEquals", PRINCIPAL, d.parameter(
        "Spared", "^(none|[0-9]{12}|arn:aws:iam::[0-9]{12}:role/[a-z]+)$", Default="none"))),
    ("a parameter that is a pattern", lambda d: d.spare("ArnNotLike", PRINCIPAL, d.parameter(
        "Spared", None, AllowedValues=["arn:aws:iam::*:role/x"]))),
    ("a service with a grant", lambda d: d.spare("Bool", "aws:PrincipalIsAWSService", "false")),
    ("a grant by a service", service_grants),
    ("another binary value", lambda d: d.spare("BinaryEquals", "kms:Blob", "QmluYXJ5")),
    ("a tag", lambda d: d.spare("StringNotEquals", "aws:PrincipalTag/team", "blue")),
    ("a tag that may be missing",
     lambda d: d.spare("StringEqualsIfExists", "aws:PrincipalTag/team", "blue")),
    ("a key that must be there", lambda d: d.spare("Null", "aws:SourceVpc", "false")),
    ("a set of values",
     lambda d: d.spare("ForAnyValue:StringLike", "aws:PrincipalOrgPaths", ["o-1/*"])),
    ("an address", lambda d: d.spare("NotIpAddress", "aws:SourceIp", "10.0.0.0/8")),
    ("a time", lambda d: d.spare("DateLessThan", "aws:CurrentTime", "2027-01-01T00:00:00Z")),
    ("zeros in the second place",
     lambda d: split_images(d, f"^(none|(?!0{{96}}$){HEX}(,{HEX})*)$")),
    ("the second value of a register", second_pcr8),
    ("NitroTPM without PCR12", lambda d: registers(d, PCR4=IMAGE, PCR7=SECOND)),
    ("NitroTPM's PCR12 alone", lambda d: registers(d, PCR12=IMAGE)),
    ("a usage that is not known", usage),
    ("a tag that is also a number", lambda d: measured(d, LEVEL, LIKE_A, {"NumericEquals": "5"})),
    ("a tag that is also a boolean", lambda d: measured(d, LEVEL, LIKE_A, {"Bool": "true"})),
    ("a tag that is also binary", lambda d: measured(d, LEVEL, LIKE_A, {"BinaryEquals": "QUJD"})),
    ("a tag that is also a date",
     lambda d: measured(d, LEVEL, LIKE_A, {"DateLessThan": "2020-01-01"})),
    ("a tag that is a number and a date",
     lambda d: measured(d, LEVEL, {"NumericLessThan": "5"}, {"DateLessThan": "2020-01-01"})),
    ("an image that is also binary", another_image),
    ("a time before noon in another zone", lambda d: d.spare(
        "DateLessThanIfExists", "aws:CurrentTime", "2020-01-01T00:00:00-12:00")),
    ("a time after midnight in another zone", lambda d: d.spare(
        "DateGreaterThanIfExists", "aws:CurrentTime", "2026-12-01T00:00:00+14:00")),
    ("a number with nineteen digits", lambda d: d.spare(
        "NumericGreaterThanEqualsIfExists", "aws:MultiFactorAuthAge", "1000000000000000000")),
    ("a number between numbers", lambda d: between_numbers(d, "1.9999999", "2")),
    ("seven values at once", lambda d: needs_values(d, 7)),
    ("a long text", lambda d: d.spare("StringNotEquals", "aws:UserAgent", "a" * 2049)),
    ("a path with two slashes in a row", lambda d: d.spare("StringNotLike", PRINCIPAL, {
        "Fn::Sub": f"{OWN_ARN}role/a//*"})),
    ("a private-use character", forged_mark),
    ("a replica of a key elsewhere", replica),
    ("a replica of a key that agrees", lambda d: replica(d, KeyUsage="KEY_AGREEMENT")),
    ("a usage of two parts", lambda d: d.key.update(KeyUsage={"Fn::Sub": [
        "KEY_${A}", {"A": d.parameter("A", "^(AGREEMENT|a)$")}]})),
    ("the suffix of a partition",
     lambda d: shut_unless(d, {"Ref": "AWS::URLSuffix"}, "amazonaws.eu")),
    ("the suffix of a secret partition",
     lambda d: shut_unless(d, {"Fn::Sub": "s3.${AWS::URLSuffix}"}, "s3.c2s.ic.gov")),
    ("the suffix in China",
     lambda d: shut_unless(d, {"Ref": "AWS::URLSuffix"}, "amazonaws.com.cn")),
    ("a wide space", lambda d: shut_unless(d, d.parameter("P", r"^\h$"), "\u3000")),
    ("no other space", lambda d: shut_unless(d, d.parameter("P", r"^[^\H]$"), "\u2003")),
    ("no policy", lambda d: d.key.update(KeyPolicy={"Ref": "AWS::NoValue"})),
    ("no policy in one place", lambda d: (d.sections.update(NEAR), d.key.update(
        KeyPolicy={"Fn::If": ["Near", {"Ref": "AWS::NoValue"}, d.key["KeyPolicy"]]}))),
    ("a register that an enclave extends", lambda d: d.condition.update(
        StringNotEqualsIgnoreCase={f"{ATTESTED}PCR17": IMAGE})),
]  # fmt: skip
CLOSED: list[tuple[str, Callable[[Draft], object]]] = [
    ("nothing", lambda _: None),
    ("seven roles that may look", observers),
    ("no grants", attested_only),
    ("a replica of a key that encrypts", lambda d: replica(d, Enabled=True)),
    ("the usual usage", lambda d: d.key.update(KeyUsage={"Ref": "AWS::NoValue"})),
    ("no such suffix",
     lambda d: shut_unless(d, {"Fn::Sub": "s3.${AWS::URLSuffix}"}, "s4.amazonaws.com")),
    ("no space", lambda d: shut_unless(d, d.parameter("P", r"^\h$"), "\u2028")),
    ("two joined parameters", lambda d: d.statements.append(allow({"AWS": {"Fn::Sub": [
        "arn:aws:iam::${A}:role/${B}", {"A": d.parameter("A", None), "B": d.parameter("B", None)},
    ]}}, "kms:Decrypt"))),
    ("NitroTPM", lambda d: registers(d, PCR4=IMAGE, PCR7=SECOND, PCR12=ZEROS)),
    ("a statement for a service", via_service),
    ("a pattern that refuses zeros everywhere",
     lambda d: split_images(d, f"^(none|(?!0{{96}}){HEX}(,(?!0{{96}}){HEX})*)$")),
    ("an account that another Deny holds for", denied_elsewhere),
    ("a condition that is always so", lambda d: d.spare("Bool", "aws:SecureTransport", "true")),
    ("a pattern that matches everything",
     lambda d: d.spare("StringLikeIfExists", "aws:userid", "*")),
    ("a tag that is only a number",
     lambda d: measured(d, LEVEL, {}, {"NumericLessThan": "5"})),
    ("a tag that is a number and a text",
     lambda d: measured(d, LEVEL, {}, {"NumericLessThan": "5", "StringLike": "a-*"})),
    ("numbers that leave nothing between them", lambda d: between_numbers(d, "2", "2")),
    ("a policy in text, whose parameters are safe", lambda d: as_text(d, "^o-[a-z0-9]+$")),
]  # fmt: skip


STORED = "{{resolve:ssm:/stored}}"
UNDECIDED: list[tuple[str, Callable[[Draft], object]]] = [
    ("a stored image", lambda d: image(d, STORED)),
    ("a stored pattern", lambda d: image(d, STORED, "StringNotLike")),
    ("a stored secret", lambda d: image(d, "{{resolve:secretsmanager:s:SecretString:k}}")),
    ("a stored part",
     lambda d: d.spare("ArnNotEquals", PRINCIPAL, "arn:aws:iam::{{resolve:ssm:/a}}:role/x")),
    ("a joined reference", lambda d: image(d, {"Fn::Join": ["{", ["", "", "resolve:ssm:/a}}"]]})),
    ("a substituted reference", lambda d: image(d, {"Fn::Sub": "{{resolve:ssm:/${Host}}}"})),
    ("a reference that a parameter completes",
     lambda d: image(d, {"Fn::Join": ["", ["{{", d.parameter("How", "^resolve:ssm$"), ":/a}}"]]})),
    ("a selected reference", lambda d: image(d, {"Fn::Select": [0, [STORED]]})),
    ("a split reference",
     lambda d: image(d, {"Fn::Select": [1, {"Fn::Split": ["/", STORED]}]}, "StringNotLike")),
    ("an operator's value", lambda d: d.spare("NotIpAddress", "aws:SourceIp", STORED)),
    ("a stored condition", lambda d: d.condition.update(Null=STORED)),
    ("a reference whose beginning is a parameter's", lambda d: image(d, {"Fn::Join": [
        "", [d.parameter("Start", "^[{a-z]{1,6}$", Default="x"), "olve:ssm:/a}}"]]})),
    ("a reference whose beginning is allowed", lambda d: image(d, {"Fn::Join": [
        "", [d.parameter("Start", None, AllowedValues=["{{res"]), "olve:ssm:/a}}"]]})),
    ("a reference of three parameters", lambda d: image(d, {"Fn::Join": ["", [
        "{", d.parameter("A", "^[{]res$"), d.parameter("B", "^ol[a-z]$"),
        d.parameter("C", "^e:ssm:[/a]+}$"), "}"]]})),
    ("a reference around a parameter", lambda d: image(d, {"Fn::Join": ["", [
        d.parameter("Start", "^[{]{2}r$"), "esolve", d.parameter("Colon", "^:+$"), "ssm:/a}}"]]})),
    ("a reference that a parameter ends", lambda d: image(d, {"Fn::Join": ["", [
        d.parameter("Start", "^([{]{2}resolve)?$"), ":", d.parameter("End", "^[a-z}:/]+$")]]})),
    ("a stored condition key", lambda d: d.spare("Null", "aws:{{resolve:ssm:/a}}", "true")),
    ("a stored action", lambda d: d.deny.update(Action=STORED)),
    ("a stored effect", lambda d: d.deny.update(Effect=STORED)),
    ("a stored resource", lambda d: d.deny.update(Resource=STORED)),
    ("a stored principal", lambda d: d.deny.update(Principal={"AWS": STORED})),
    ("a stored policy", lambda d: d.key.update(KeyPolicy=STORED)),
    ("a reference inside JSON", lambda d: to_json(d, STORED)),
    ("a parameter inside JSON", lambda d: to_json(d, d.parameter("Sid", None, MaxLength=30))),
    ("a parameter that may be a reference", lambda d: d.spare(
        "ArnNotEquals", PRINCIPAL, d.parameter("Spared", "^[a-z{}:/]{1,40}$", Default="none"))),
    ("a parameter that is a reference", lambda d: d.spare(
        "ArnNotEquals", PRINCIPAL, d.parameter("Spared", None, AllowedValues=[STORED]))),
    ("a mapping from outside the template", lambda d: mapped_image(d, INCLUDE)),
    ("a mapping's keys from outside the template", lambda d: mapped_image(d, {"M": INCLUDE})),
    ("a mapping's values from outside the template",
     lambda d: mapped_image(d, {"M": {"k": INCLUDE}})),
    ("a mapping's value that may be replaced",
     lambda d: mapped_image(d, {"M": {"k": {"v": IMAGE, **INCLUDE}}})),
    ("a mapping's key that is not known",
     lambda d: mapped_image(d, {"M": {"k": {"v": IMAGE}}}, {"Fn::ImportValue": "k"})),
    ("a key that the mapping does not have", lambda d: mapped_image(d, {"M": {"l": {"v": IMAGE}}})),
    ("a loop over mappings", lambda d: d.sections.update(Mappings={"Fn::ForEach::M": []})),
    ("conditions from outside the template", lambda d: by_condition(d, **INCLUDE)),
    ("sections from outside the template", lambda d: d.sections.update(INCLUDE)),
    ("a role from outside the template", role_with_include),
    ("an effect twice", lambda d: with_a_key_twice(d, '"Effect": "Allow"', '"Effect": "Deny"')),
    ("a condition twice",
     lambda d: with_a_key_twice(d, '"Condition": {}', '"Condition": {"StringNotEqualsI')),
    ("more values than are distinguished", lambda d: needs_values(d, 13)),
    ("principals of two partitions", lambda d: d.statements.append(
        allow({"AWS": [f"arn:{each}:iam::{OTHER}:role/x" for each in ("aws", "aws-cn")]}, "a:b"))),
]  # fmt: skip
"""Values that the template does not determine."""


def access(draft: Draft) -> KeyAccess:
    return next(each for each in accesses(draft.template) if each.key == "Key")


@pytest.mark.parametrize(("name", "edit"), OPEN, ids=[row[0] for row in OPEN])
def test_open_key_is_found_with_a_counterexample(
    name: str, edit: Callable[[Draft], object]
) -> None:
    draft = Draft()
    edit(draft)
    found = access(draft)
    assert found.verdict is Outcome.OPEN, name
    for answer in found.answers:
        if answer.verdict is Verdict.ALLOWED:
            assert answer.counterexample is not None
            assert answer.counterexample.action == answer.action
    assert any(rule[1:3] == "91" for rule, _, _ in findings(json.dumps(draft.template)))


@pytest.mark.parametrize(("name", "edit"), CLOSED, ids=[row[0] for row in CLOSED])
def test_closed_key_is_proved_without_findings(name: str, edit: Callable[[Draft], object]) -> None:
    draft = Draft()
    edit(draft)
    found = access(draft)
    assert found.verdict is Outcome.CLOSED, (name, [a for a in found.answers if a.counterexample])
    assert [each for each in findings(json.dumps(draft.template)) if each[0][1:3] == "91"] == []


@pytest.mark.parametrize(("name", "edit"), UNDECIDED, ids=[row[0] for row in UNDECIDED])
def test_values_outside_the_template_are_undecided(
    name: str, edit: Callable[[Draft], object]
) -> None:
    draft = Draft()
    edit(draft)
    assert outcome(draft.template, "Key") is Outcome.UNDECIDED, name


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: image(d, STORED),
        lambda d: d.sections.update(INCLUDE),
        lambda d: mapped_image(d, {"M": {"l": {"v": IMAGE}}}),
        lambda d: with_a_key_twice(d, '"Effect": "Allow"', '"Effect": "Deny"'),
    ],
    ids=["stored", "from outside the template", "no deployment", "two meanings"],
)
def test_undecided_key_is_reported(edit: Callable[[Draft], object]) -> None:
    draft = Draft()
    edit(draft)
    assert access(draft).verdict is Outcome.UNDECIDED
    assert "W9103" in {rule for rule, _, _ in findings(json.dumps(draft.template))}


@pytest.mark.parametrize(
    ("effect", "operator", "is_bound"),
    [
        ("Deny", "StringEquals", False),
        ("Deny", "ForAnyValue:StringLikeIfExists", False),
        ("Deny", "StringNotEqualsIgnoreCase", True),
        ("Allow", "StringEqualsIgnoreCase", True),
        ("Allow", "StringNotLike", False),
    ],
)
def test_only_admitted_images_are_bound(effect: str, operator: str, *, is_bound: bool) -> None:
    draft = Draft()
    more = allow(OWN, "kms:Decrypt", **{operator: {f"{ATTESTED}ImageSha384": SECOND}})
    draft.statements.append({**more, "Effect": effect})
    images = {image.value for image in access(draft).images}
    assert images == {"EnclaveImageSha384", *[SECOND][: int(is_bound)]}
    attested = worth({"Statement": draft.statements[3:]}, Attestation({0: SECOND}))
    assert attested is (Attests.BOUND if is_bound else Attests.OTHER)


def test_key_with_unknown_usage_is_checked_for_every_usage() -> None:
    draft = Draft()
    draft.key["KeyUsage"] = STORED
    assert access(draft).verdict is Outcome.OPEN


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


def test_control_by_an_outsider_with_unknown_actions_cannot_be_proved() -> None:
    draft = Draft()
    draft.statements.append(allow({"AWS": OTHER}, STORED))
    found = [a for a in access(draft).answers if a.caller.outsider and OTHER in a.caller.name]
    assert {a.verdict for a in found if a.leads is Leads.TO_CONTROL} == {Verdict.CANNOT_PROVE}


def test_unconstrained_parameter_in_policy_text_cannot_be_proved() -> None:
    draft = Draft()
    as_text(draft, None)
    assert access(draft).verdict is Outcome.UNDECIDED
    assert any(rule == "W9103" for rule, _, _ in findings(json.dumps(draft.template)))


def test_list_of_patterns_is_never_closed() -> None:
    draft = Draft()
    pattern_list(draft)
    assert access(draft).verdict is not Outcome.CLOSED


def test_callers_are_described_without_invented_names() -> None:
    draft = Draft()
    draft.spare("ArnNotLike", PRINCIPAL, {"Fn::Sub": f"{OWN_ARN}role/support-*"})
    words = {answer.given for answer in access(draft).answers if "support" in answer.given}
    assert words == {"for any role whose name begins with support-"}
    for _, _, message in findings(json.dumps(draft.template)):
        assert "111122223333" not in message
        assert ACCOUNT not in message


def test_key_is_named_in_answers_about_roles_and_grants() -> None:
    draft = Draft()
    draft.owner["Action"] = ["kms:Encrypt", "kms:Decrypt"]
    draft.key["BypassPolicyLockoutSafetyCheck"] = True
    trust = {"Effect": "Allow", "Principal": {"AWS": OTHER}, "Action": "sts:AssumeRole"}
    encrypt = {"Statement": {"Effect": "Allow", "Action": "kms:Encrypt", "Resource": "*"}}
    draft.resources["Helper"] = {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "AssumeRolePolicyDocument": {"Statement": trust},
            "Policies": [{"PolicyName": "p", "PolicyDocument": encrypt}],
        },
    }
    found = access(draft)
    assert found.key == "Key"
    assert any("role Helper" in answer.caller.name for answer in found.answers)
    assert {rule for rule, _, _ in findings(json.dumps(draft.template))} == {"E9105"}
    grant = Grant(f"arn:aws:iam::{OTHER}:role/x", ["Decrypt"])
    assert policy_access(stored(allow({"AWS": OWNER}, "kms:*")), OWNER, [grant]).key == "Key"


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


def test_account_is_named_by_its_parameter() -> None:
    draft = Draft()
    draft.statements.remove(draft.deny)
    names = {
        answer.caller.name
        for answer in access(draft).answers
        if answer.verdict is Verdict.ALLOWED and answer.caller.outsider
    }
    assert names == {"account ${Host}"}


def test_second_outside_account_in_a_bound_image_is_a_finding() -> None:
    draft = Draft()
    draft.statements.append(allow({"AWS": OTHER}, "kms:Decrypt"))
    found = access(draft)
    assert found.verdict is Outcome.CLOSED
    assert [remark.place[-2:] for remark in found.remarks] == [("Statement", 3)]
    assert {rule for rule, _, _ in findings(json.dumps(draft.template))} == {"W9104"}


def test_one_of_two_accounts_by_a_condition_is_not_a_finding() -> None:
    draft = Draft()
    template = draft.template
    template["Conditions"] = {"Far": {"Fn::Equals": [{"Ref": "AWS::Region"}, "us-east-1"]}}
    draft.host["Principal"] = {"AWS": {"Fn::If": ["Far", OTHER, ACCOUNT]}}
    assert [rule for rule, _, _ in findings(json.dumps(template))] == []


# --- keys on AWS ---------------------------------------------------------------------------------

OWNER = "111122223333"
ARN = f"arn:aws:kms:eu-west-1:{OWNER}:key/11111111-2222-3333-4444-555555555555"


def stored(*statements: Json) -> Json:
    return {"Version": "2012-10-17", "Statement": [*statements]}


def unless(**more: object) -> Json:
    image = {"StringNotEqualsIgnoreCase": {f"{ATTESTED}ImageSha384": IMAGE}}
    actions = ["kms:Decrypt", "kms:ReEncryptFrom"]
    return {**allow("*", actions), "Effect": "Deny", "Condition": {**image, **more}}


def test_the_owner_of_a_live_key_is_the_account_of_its_arn() -> None:
    host, owner = (
        allow({"AWS": f"arn:aws:iam::{each}:root"}, "kms:*") for each in (ACCOUNT, OWNER)
    )
    found = policy_access(stored(host, owner, unless()), OWNER, arn=ARN)
    assert found.verdict is Outcome.CLOSED
    controls = [a for a in found.answers if a.leads is Leads.TO_CONTROL and a.caller.outsider]
    assert Verdict.ALLOWED in {answer.verdict for answer in controls}


def test_resource_of_a_live_key_is_matched_by_its_arn() -> None:
    own = {**allow({"AWS": OWNER}, "kms:*"), "Resource": ARN}
    spared = unless(StringNotEquals={"kms:CallerAccount": [OWNER]})
    assert policy_access(stored(own, spared), OWNER, arn=ARN).verdict is Outcome.OPEN
    other = {**own, "Resource": ARN.replace("eu-west-1", "eu-west-2")}
    assert policy_access(stored(other, spared), OWNER, arn=ARN).verdict is Outcome.CLOSED


ANONYMOUS, SERVICE = "somebody without credentials", "an AWS service"


@pytest.mark.parametrize(
    ("operator", "value", "callers"),
    [
        ("StringEquals", "Anonymous", {ANONYMOUS, SERVICE}),
        ("StringEquals", "AssumedRole", {SERVICE}),
        ("StringNotEquals", ["Anonymous", "AWSService"], {SERVICE}),
        ("Null", "true", {SERVICE}),
        ("Null", "false", {ANONYMOUS, SERVICE}),
    ],
)
def test_principal_type_is_known_for_all_callers_except_services(
    operator: str, value: object, callers: set[str]
) -> None:
    condition = {operator: {"aws:PrincipalType": value}}
    found = policy_access(stored(allow("*", "kms:Decrypt", **condition)), OWNER)
    names = {answer.caller.name for answer in found.answers if answer.verdict is Verdict.ALLOWED}
    assert names & {ANONYMOUS, SERVICE} == callers


def test_hundreds_of_principals_are_summarized() -> None:
    names = [f"arn:aws:iam::4444{number:08}:role/r{number}" for number in range(400)]
    policy = stored(allow({"AWS": OWNER}, "kms:*"), allow({"AWS": names}, "kms:Decrypt"), unless())
    found = policy_access(policy, OWNER)
    assert found.verdict is Outcome.CLOSED
    bound = [a for a in found.answers if a.attests is Attests.BOUND and a.caller.outsider]
    described = {answer.caller.name for answer in bound if answer.verdict is Verdict.ALLOWED}
    assert described == {"one of the 400 accounts that the policy names"}
