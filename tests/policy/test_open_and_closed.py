"""Open keys that a list of sample callers and values would miss, and false alarms."""

import json
from collections.abc import Callable

import pytest

from generator.access.answers import Attests, Outcome
from generator.access.attestations import worth
from generator.access.questions import outcome, policy_access
from generator.policy.evaluation import Verdict
from generator.policy.request import Attestation, Grant, Leads
from tests.policy.drafts import (
    ACCOUNT,
    ATTESTED,
    HEX,
    IMAGE,
    LEVEL,
    OTHER,
    OWN,
    OWN_ARN,
    OWNER,
    PRINCIPAL,
    SECOND,
    STORED,
    ZEROS,
    Draft,
    Json,
    access,
    allow,
    another_image,
    as_text,
    attested_only,
    between_numbers,
    by_condition,
    denied_elsewhere,
    forged_mark,
    image,
    mapped_image,
    measured,
    needs_values,
    observers,
    of_china,
    pattern_list,
    registers,
    replica,
    role_with_include,
    second_pcr8,
    service_grants,
    shut_unless,
    split_images,
    stored,
    to_json,
    usage,
    via_service,
    with_a_key_twice,
)
from tests.policy.weakening import INCLUDE, findings, proof_and_findings

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
    ("times that leave nothing between them", lambda d: between_numbers(
        d, "2026-01-01T00:00:00+01:00", "2025-12-31T23:00:00Z", "aws:CurrentTime", "Date")),
    ("a policy in text, whose parameters are safe", lambda d: as_text(d, "^o-[a-z0-9]+$")),
]  # fmt: skip
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
    ("a tag that may not be a number", lambda d: between_numbers(d, "2", "2", LEVEL)),
    ("a time in a notation that AWS may not read", lambda d: between_numbers(
        d, "2026-01-01", "20260101T000000Z", "aws:CurrentTime", "Date")),
    ("more values than are distinguished", lambda d: needs_values(d, 13)),
    ("principals of two partitions", lambda d: d.statements.append(
        allow({"AWS": [f"arn:{each}:iam::{OTHER}:role/x" for each in ("aws", "aws-cn")]}, "a:b"))),
]  # fmt: skip
"""Values that the template does not determine."""


@pytest.mark.parametrize(("name", "edit"), OPEN, ids=[row[0] for row in OPEN])
def test_open_key_is_found_with_a_counterexample(
    name: str, edit: Callable[[Draft], object]
) -> None:
    draft = Draft()
    edit(draft)
    (found, *_), reported = proof_and_findings(draft.template)
    assert (found.key, found.verdict) == ("Key", Outcome.OPEN), name
    for answer in found.answers:
        if answer.verdict is Verdict.ALLOWED:
            assert answer.counterexample is not None
            assert answer.counterexample.action == answer.action
    assert any(rule[1:3] == "91" for rule, _, _ in reported)


@pytest.mark.parametrize(("name", "edit"), CLOSED, ids=[row[0] for row in CLOSED])
def test_closed_key_is_proved_without_findings(name: str, edit: Callable[[Draft], object]) -> None:
    draft = Draft()
    edit(draft)
    (found, *_), reported = proof_and_findings(draft.template)
    examples = [answer for answer in found.answers if answer.counterexample]
    assert (found.key, found.verdict) == ("Key", Outcome.CLOSED), (name, examples)
    assert reported == []


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


@pytest.mark.parametrize("network", ["10.0.0.0/8", "::/0", "192.0.2.7"])
def test_counterexample_has_an_address_not_a_network(network: str) -> None:
    draft = Draft()
    draft.host["Condition"] = {"IpAddress": {"aws:SourceIp": network}}
    draft.statements.remove(draft.deny)
    examples = [a.counterexample for a in access(draft).answers if a.caller.outsider]
    stated = {str(found.context.get("aws:sourceip", "")) for found in examples if found}
    assert [each for each in stated if "/" in each] == []
    assert stated - {""}


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
