"""Where AWS documents no result, a key is not called closed."""

import json
from collections.abc import Callable

import pytest

from generator.access.answers import Outcome
from generator.access.questions import outcome
from tests.policy.drafts import (
    ATTESTED,
    IMAGE,
    LEVEL,
    OWN,
    OWN_ARN,
    PRINCIPAL,
    ZEROS,
    Draft,
    Json,
    allow,
    attested_only,
    image,
    mapped_image,
    shut_unless,
)
from tests.policy.weakening import findings

CONTEXT = "kms:EncryptionContext:k"
VARIABLE = f"${{{ATTESTED}ImageSha384}}"
NO_VALUE = {"Ref": "AWS::NoValue"}


def denied_if(draft: Draft, key: str, *conditions: Json, absent: bool = True) -> None:
    """Deny everybody under any of *conditions* (operator: value) on *key*, and if it is absent."""
    draft.statements.remove(draft.deny)
    for each in [{"Null": "true"}] * absent + [*conditions]:
        condition: Json = {operator: {key: value} for operator, value in each.items()}
        draft.statements.append({**draft.deny, "Condition": condition})


def without(draft: Draft, element: str, value: object) -> None:
    """Deny everything but what *element* lists."""
    draft.deny.pop("Condition")
    draft.deny.pop(element.removeprefix("Not"))
    draft.deny[element] = value


def for_a_service(draft: Draft, name: str) -> None:
    attested_only(draft)
    draft.statements.append(allow({"Service": name}, "kms:Decrypt"))


def escaped(draft: Draft, version: str | None) -> None:
    denied_if(draft, CONTEXT, {"StringNotEquals": "*"}, {"StringLike": "${*}"})
    draft.key["KeyPolicy"].pop("Version")
    draft.key["KeyPolicy"].update({"Version": version} if version else {})


def folded(draft: Draft, *cases: str) -> None:
    denied_if(draft, CONTEXT, {"StringNotEqualsIgnoreCase": cases[0]}, {"StringEquals": [*cases]})


def parameter_spared(draft: Draft, *denied: str, **declaration: object) -> None:
    """Spare the value of a parameter, and deny every value that it seems to have."""
    draft.parameters["P"] = {"Type": "String", **declaration}
    denied_if(draft, CONTEXT, {"StringNotEquals": {"Ref": "P"}}, {"StringEquals": [*denied]})


def without_delimiter(draft: Draft, delimiter: str, spared: object, **declaration: object) -> None:
    draft.parameters["P"] = declaration
    denied_if(draft, CONTEXT, {"StringNotEquals": spared}, {"StringNotLike": f"*{delimiter}*"})


def selected(draft: Draft, first: object) -> None:
    """Select a policy by its place in a list whose first item may be absent."""
    draft.sections["Conditions"] = {"C": {"Fn::Equals": [{"Ref": "AWS::Region"}, "eu-west-1"]}}
    closed = draft.key["KeyPolicy"]
    opened = {**closed, "Statement": draft.statements[:2]}
    draft.key["KeyPolicy"] = {"Fn::Select": ["1", [first, closed, opened]]}


def old(draft: Draft) -> None:
    draft.key["KeyPolicy"]["Version"] = "2008-10-17"
    arn = {"Fn::Sub": "arn:${AWS::Partition}:iam::*:role/*"}
    condition = {"ArnNotLike": {PRINCIPAL: "arn:*:iam::*:role/*"}}
    draft.statements.append({**draft.deny, "Condition": condition})
    draft.spare("ArnLike", PRINCIPAL, arn)


def absent_condition(draft: Draft) -> None:
    shut_unless(draft, {"Ref": "AWS::Region"}, "eu-west-1")
    draft.statements[2] = draft.deny
    draft.deny["Condition"] = {"Fn::If": ["Open", NO_VALUE, draft.condition]}


def missing_in_statement(draft: Draft) -> None:
    """Deny, unless the mapping lacks the key that only the Deny looks for."""
    here = draft.parameter("P", None, AllowedValues=["k", "l"])
    mapped_image(draft, {"M": {"k": {"v": IMAGE}}}, here)
    shut_unless(draft, here, "l")


def missing_in_policy(draft: Draft) -> None:
    missing_in_statement(draft)
    closed = {**draft.key["KeyPolicy"], "Statement": [*draft.statements[:2], draft.deny]}
    opened = {**closed, "Statement": draft.statements[:2]}
    draft.key["KeyPolicy"] = {"Fn::If": ["Open", opened, closed]}


def contexts(draft: Draft) -> None:
    denied_if(draft, CONTEXT, {"StringNotEquals": "x"})
    condition = {"StringEquals": {CONTEXT.upper(): "x"}}
    draft.statements.append({**draft.deny, "Condition": condition})


def listed(draft: Draft, *values: str) -> None:
    draft.parameters["P"] = {"Type": "CommaDelimitedList", "AllowedValues": [*values]}
    image(draft, {"Ref": "P"})


def without_arns(draft: Draft) -> None:
    draft.parameters["P"] = {"Type": "CommaDelimitedList", "AllowedPattern": "x-[a-z]+"}
    draft.spare("ArnNotLike", PRINCIPAL, {"Ref": "P"})


def number(draft: Draft, text: str) -> None:
    draft.parameters["P"] = {"Type": "Number"}
    shut_unless(draft, {"Ref": "P"}, text)


def image_without_value(draft: Draft) -> None:
    draft.sections["Conditions"] = {"C": {"Fn::Equals": [{"Ref": "AWS::Region"}, "eu-west-1"]}}
    image(draft, [{"Fn::If": ["C", IMAGE, NO_VALUE]}])


UNCLEAR: list[tuple[str, Callable[[Draft], object]]] = [
    ("a number that is none", lambda d: denied_if(
        d, LEVEL, {"NumericLessThanEquals": "5"}, {"NumericGreaterThan": "5"})),
    ("a boolean that is none", lambda d: denied_if(d, LEVEL, {"Bool": ["true", "false"]})),
    ("a date that is none", lambda d: denied_if(
        d, LEVEL, {"DateLessThan": "2020-01-01"}, {"DateGreaterThanEquals": "2020-01-01"})),
    ("an address that is none",
     lambda d: denied_if(d, LEVEL, {"IpAddress": ["0.0.0.0/0", "::/0"]})),
    ("an ARN that is none", lambda d: denied_if(
        d, LEVEL, {"ArnLike": "arn:*:*:*:*:*"}, {"ArnNotLike": "arn:*:*:*:*:*"})),
    ("an ARN with a variable that is none", lambda d: d.spare(
        "ArnNotLike", PRINCIPAL, "x-${aws:PrincipalAccount}")),
    ("a parameter that is no ARN", lambda d: d.spare(
        "ArnNotLike", PRINCIPAL, d.parameter("P", "x-[a-z]+"))),
    ("a list without ARNs", without_arns),
    ("seconds with a fraction", lambda d: denied_if(
        d, "aws:CurrentTime", {"DateLessThan": "2026-01-01"},
        {"DateGreaterThanEquals": "1767225600.0"})),
    ("a week", lambda d: denied_if(d, "aws:CurrentTime", {"DateLessThan": "2020-01-06"},
                                   {"DateGreaterThanEquals": "2020-W02-1"})),
    ("a mask", lambda d: denied_if(
        d, "aws:SourceIp", {"IpAddress": ["0.0.0.0/1", "128.0.0.0/128.0.0.0", "::/0"]})),
    ("digits of another script", lambda d: denied_if(
        d, "aws:EpochTime", {"NumericLessThan": "5"}, {"NumericGreaterThanEquals": "\u0665"})),
    ("another member of the policy", lambda d: d.key["KeyPolicy"].update(
        statement=d.statements[:2])),
    ("no values", lambda d: image(d, [])),
    ("no keys", lambda d: d.deny.update(Condition={"StringNotEquals": {}})),
    ("no actions that are spared", lambda d: without(d, "NotAction", [])),
    ("no keys that are spared", lambda d: without(d, "NotResource", [])),
    ("no callers that are spared", lambda d: without(d, "NotPrincipal", {"AWS": []})),
    ("no values in one place", image_without_value),
    ("every service", lambda d: for_a_service(d, "*")),
    ("an escape in an old policy", lambda d: escaped(d, "2008-10-17")),
    ("an escape in a policy without version", lambda d: escaped(d, None)),
    ("a multivalued key read as one value", lambda d: denied_if(
        d, "aws:TagKeys", {"StringNotEquals": "a"}, {"StringEquals": "a"})),
    ("a set read as one value", lambda d: denied_if(
        d, "aws:x", {"StringNotEquals": "a"}, {"ForAllValues:StringEquals": "a"})),
    ("two contexts that differ by case", contexts),
    ("the sign of Kelvin", lambda d: folded(d, "k", "K")),
    ("a long s", lambda d: folded(d, "s", "S")),
    ("an i without dot", lambda d: folded(d, "i", "I")),
    ("a letter with a ring", lambda d: folded(d, "\u00e5", "\u00c5")),
    ("a letter of another alphabet in an action", lambda d: d.deny.update(
        Action=["\u212ams:Decrypt", "\u212ams:ReEncryptFrom"])),
    ("a letter of another alphabet in a key", lambda d: d.deny.update(
        Condition={"StringNotEquals": {"\u212ams:RecipientAttestation:ImageSha384": IMAGE}})),
    ("a parameter that is a policy variable",
     lambda d: image(d, d.parameter("P", None, AllowedValues=[VARIABLE, IMAGE]))),
    ("a parameter of policy variables", lambda d: image(d, d.parameter("P", r"\$\{[\w:]+\}"))),
    ("a list of policy variables", lambda d: listed(d, VARIABLE)),
    ("a variable that a parameter completes",
     lambda d: image(d, {"Fn::Join": ["", ["$", d.parameter("P", r"\{[\w:]+\}")]]})),
    ("a variable around a parameter",
     lambda d: image(d, {"Fn::Join": ["", ["${kms:", d.parameter("P", r"[\w:]+"), "}"]]})),
    ("a pattern of a number", lambda d: parameter_spared(
        d, "1", Type="Number", AllowedPattern="1")),
    ("a length of a number", lambda d: parameter_spared(
        d, *"0123456789+-.eE", Type="Number", MaxLength=1)),
    ("a number of Java", lambda d: number(d, "0x1p3")),
    ("a character that Java counts twice",
     lambda d: shut_unless(d, d.parameter("P", "[^{]*", MinLength=2), "\U0001f600")),
    ("a pattern of a resource's id", lambda d: parameter_spared(
        d, "a", Type="AWS::EC2::Image::Id", AllowedPattern="a")),
    ("a list's item that becomes a text with a comma", lambda d: without_delimiter(
        d, ",", {"Ref": "P"}, Type="CommaDelimitedList")),
    ("a part that becomes a text with the delimiter", lambda d: without_delimiter(
        d, "|", {"Fn::Split": ["|", {"Ref": "P"}]}, Type="String")),
    ("a name in place of a pseudo parameter", lambda d: d.spare("ArnNotEquals", PRINCIPAL, {
        "Fn::Sub": [f"{OWN_ARN}role/r", {"AWS::AccountId": "none"}]})),
    ("an absent item before the selected one", lambda d: selected(d, NO_VALUE)),
    ("an item that may be absent before the selected one", lambda d: selected(
        d, {"Fn::If": ["C", d.key["KeyPolicy"], NO_VALUE]})),
    ("a list as JSON", lambda d: denied_if(
        d, CONTEXT, {"StringNotEquals": "a"}, {"StringEquals": {"Fn::ToJsonString": ["a"]}})),
    ("a text as JSON", lambda d: denied_if(
        d, CONTEXT, {"StringNotEquals": "a"}, {"StringEquals": {"Fn::ToJsonString": "a"}})),
    ("a principal as JSON", lambda d: d.deny.update(
        Principal={"Fn::ToJsonString": {"AWS": "*"}})),
    ("a condition as JSON", lambda d: d.deny.update(
        Condition={"Fn::ToJsonString": d.condition})),
    ("a statement as JSON", lambda d: d.statements.__setitem__(
        2, {"Fn::ToJsonString": d.deny})),
]  # fmt: skip
"""Each was once called closed."""
OPEN: list[tuple[str, Callable[[Draft], object]]] = [
    ("a missing key in a statement that is not taken", missing_in_statement),
    ("a missing key in a policy that is not taken", missing_in_policy),
    ("a service of another domain", lambda d: for_a_service(d, "rds.aws.internal")),
    ("a service of a secret partition", lambda d: for_a_service(d, "s3.c2s.ic.gov")),
    ("a beginning within a pattern",
     lambda d: shut_unless(d, d.parameter("P", "(?!(?:a(?=b))^b)[ab]*"), "ab")),
]  # fmt: skip
CLOSED: list[tuple[str, Callable[[Draft], object]]] = [
    ("an escape in a policy with variables", lambda d: escaped(d, "2012-10-17")),
    ("an old policy with references", old),
    ("a condition that may be absent", absent_condition),
    ("a whole policy as JSON", lambda d: d.key.update(
        KeyPolicy={"Fn::ToJsonString": d.key["KeyPolicy"]})),
    ("a time at which only attested callers decrypt",
     lambda d: d.statements.append(allow(OWN, "kms:Decrypt", DateLessThan={
         "aws:CurrentTime": "2030-01-01"}))),
    ("zeros of another length", lambda d: image(d, d.parameter(
        "P", "^[0-9a-f]{96}$", MinLength=96, AllowedPattern=f"^(?!{ZEROS}$)[0-9a-f]{{96}}$"))),
]  # fmt: skip


def test_grant_is_reported_if_its_creator_cannot_be_shown() -> None:
    draft = Draft()
    attested_only(draft)
    names = [
        {"Fn::Sub": f"{OWN_ARN}role/${{{first}}}${{{second}}}"} for first, second in ("AB", "CD")
    ]
    for name, letters in {"A": "a-z", "B": "a-z", "C": "b-y", "D": "c-x"}.items():
        draft.parameter(name, f"[{letters}]+")
    condition = {"StringEquals": {PRINCIPAL: names[1]}}
    draft.statements.append(allow({"AWS": names[0]}, "kms:CreateGrant", **condition))
    assert outcome(draft.template, "Key") is Outcome.OPEN
    assert "W9102" in {rule for rule, _, _ in findings(json.dumps(draft.template))}


def found(edit: Callable[[Draft], object]) -> Outcome:
    draft = Draft()
    edit(draft)
    return outcome(json.loads(json.dumps(draft.template)), "Key")


@pytest.mark.parametrize("edit", [row[1] for row in UNCLEAR], ids=[row[0] for row in UNCLEAR])
def test_what_aws_does_not_document_is_not_closed(edit: Callable[[Draft], object]) -> None:
    assert found(edit) is not Outcome.CLOSED


@pytest.mark.parametrize("edit", [row[1] for row in OPEN], ids=[row[0] for row in OPEN])
def test_open_key_is_found(edit: Callable[[Draft], object]) -> None:
    assert found(edit) is Outcome.OPEN


@pytest.mark.parametrize("edit", [row[1] for row in CLOSED], ids=[row[0] for row in CLOSED])
def test_closed_key_is_proved(edit: Callable[[Draft], object]) -> None:
    assert found(edit) is Outcome.CLOSED
