"""A template with one closed key and its edits, and policies of keys that exist."""

import copy
import json
from typing import Any

from generator.access.answers import KeyAccess
from generator.access.questions import accesses
from tests.policy.weakening import INCLUDE

Json = dict[str, Any]

ACCOUNT, OTHER = "444455556666", "777788889999"
IMAGE, SECOND, ZEROS = "ab" * 48, "cd" * 48, "0" * 96
ATTESTED = "kms:RecipientAttestation:"
OWN_ARN = "arn:${AWS::Partition}:iam::${AWS::AccountId}:"
OWN: Json = {"AWS": {"Ref": "AWS::AccountId"}}
HEX = "[0-9a-f]{96}"
PRINCIPAL, LEVEL = "aws:PrincipalArn", "aws:PrincipalTag/level"
STORED = "{{resolve:ssm:/stored}}"
OWNER = "111122223333"
ARN = f"arn:aws:kms:eu-west-1:{OWNER}:key/11111111-2222-3333-4444-555555555555"


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


def between_numbers(
    draft: Draft, low: str, high: str, key: str = "aws:MultiFactorAuthAge", read: str = "Numeric"
) -> None:
    more = copy.deepcopy(draft.deny)
    draft.spare(f"{read}LessThanEqualsIfExists", key, low)
    more["Condition"][f"{read}GreaterThanEqualsIfExists"] = {key: high}
    draft.statements.append(more)


def needs_values(draft: Draft, number: int) -> None:
    """Spare requests that have *number* distinct values of a multivalued key."""
    draft.statements.remove(draft.deny)
    for each in range(number):
        deny = copy.deepcopy(draft.deny)
        keys = {"kms:EncryptionContextKeys": f"k{each}"}
        deny["Condition"]["ForAllValues:StringNotEquals"] = keys
        draft.statements.append(deny)


def access(draft: Draft) -> KeyAccess:
    return next(each for each in accesses(draft.template) if each.key == "Key")


def stored(*statements: Json) -> Json:
    return {"Version": "2012-10-17", "Statement": [*statements]}


def unless(**more: object) -> Json:
    image = {"StringNotEqualsIgnoreCase": {f"{ATTESTED}ImageSha384": IMAGE}}
    actions = ["kms:Decrypt", "kms:ReEncryptFrom"]
    return {**allow("*", actions), "Effect": "Deny", "Condition": {**image, **more}}
