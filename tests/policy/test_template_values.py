"""A parameter stands for every value that its constraints allow, and nothing else."""

import copy
import json
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
from cfnlint.decode import decode

from generator.key_questions import Attests, policy_questions, questions
from generator.parameters import ENCLAVE_IMAGES, HOST_ACCOUNT, PARENT_ROLE
from generator.policy.evaluation import Grant, Verdict
from generator.policy.operators import UNKNOWN
from generator.template_values import HOST, IMAGE, OWNER, ZEROS, deployments

OURS = Path(__file__).parents[2] / "templates/Deploy-ApplicationEncryptor-Cfn.yaml"

Json = dict[str, Any]


def values(parameter: Json, use: object = None, **template: object) -> list[object]:
    """Return what *use* of the parameter P may be."""
    whole: Json = {"Parameters": {"P": parameter}, **template}
    node = {"Ref": "P"} if use is None else use
    return [stack.resolve(node) for stack in deployments(whole, node)]


ROWS: list[tuple[str, Json, set[str], set[str]]] = [
    ("an account", {"Type": "String", "AllowedPattern": HOST_ACCOUNT.pattern},
     {HOST, OWNER}, {"", "*", UNKNOWN}),
    ("a role", {"Type": "String", "AllowedPattern": PARENT_ROLE.pattern}, {""}, {"*", UNKNOWN}),
    ("no constraints", {"Type": "String"}, {"", "*", ZEROS, HOST, IMAGE, UNKNOWN}, set()),
    ("a value that is not empty", {"Type": "String", "MinLength": 1}, {"*", ZEROS}, {""}),
    ("allowed values", {"Type": "String", "AllowedValues": ["a", "*"]}, {"a", "*"}, {"", UNKNOWN}),
    ("a number", {"Type": "Number"}, {HOST, OWNER}, {"", "*", "none"}),
    ("from the parameter store", {"Type": "AWS::SSM::Parameter::Value<String>",
     "AllowedPattern": "^/a$"}, {UNKNOWN}, {"*", ZEROS}),
    ("a pattern for Java alone", {"Type": "String", "AllowedPattern": r"\p{Alpha}+"},
     {UNKNOWN}, {"*", ZEROS}),
    ("a pattern that Java reads otherwise", {"Type": "String", "AllowedPattern": "[[a]]"},
     {UNKNOWN}, {"*", ZEROS}),
    ("a class that holds an asterisk", {"Type": "String", "AllowedPattern": "[!-9a-z]+"},
     {"*", UNKNOWN}, {""}),
    ("a pattern with only its default in it", {"Type": "String", "Default": "kms:Decrypt",
     "AllowedPattern": "kms:[A-Za-z]+"}, {"kms:Decrypt", UNKNOWN}, set()),
    ("upper case", {"Type": "String", "AllowedPattern": "[0-9A-F]{96}"},
     {IMAGE.upper(), ZEROS}, {IMAGE, UNKNOWN}),
    ("a pattern that takes for ever", {"Type": "String",
     "AllowedPattern": r"(\w|\w\w)+[!?]"}, {UNKNOWN}, {IMAGE, ZEROS}),
    ("a length that is no number", {"Type": "String", "MinLength": "abc"}, {UNKNOWN}, {IMAGE}),
    ("a point", {"Type": "String", "AllowedPattern": "a.c"}, {UNKNOWN}, {"*"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("parameter", "among", "not_among"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_a_parameter_is_all_that_its_constraints_admit(
    parameter: Json, among: set[str], not_among: set[str]
) -> None:
    found = values(parameter)
    assert among <= {str(value) for value in found}
    assert not not_among & {str(value) for value in found}


def test_a_list_of_images_is_never_zeros_empty_or_a_wildcard() -> None:
    parameter = {
        "Type": "CommaDelimitedList",
        "Default": "none",
        "AllowedPattern": ENCLAVE_IMAGES.pattern,
    }
    assert values(parameter) == [["none"], [IMAGE]]
    assert [ZEROS] in values({"Type": "CommaDelimitedList"})
    assert [] in values({"Type": "CommaDelimitedList"})


FUNCTIONS: list[tuple[object, object]] = [
    ({"Fn::Sub": "a-${P}-${!Literal}"}, "a-x-${Literal}"),
    ({"Fn::Sub": ["${V}", {"V": {"Ref": "P"}}]}, "x"),
    ({"Fn::Join": [":", ["a", {"Ref": "P"}, {"Ref": "AWS::NoValue"}]]}, "a:x"),
    ({"Fn::Select": [1, {"Fn::Split": ["/", "a/b"]}]}, "b"),
    ({"Fn::FindInMap": ["M", "k", "v"]}, "mapped"),
    ({"Fn::FindInMap": ["M", {"Ref": "AWS::AccountId"}, "v"]}, UNKNOWN),
    ({"Fn::Select": ["\N{SUPERSCRIPT TWO}", ["a", "b", "c"]]}, UNKNOWN),
    ({"Fn::If": ["IsX", "yes", "no"]}, "yes"),
    ({"Fn::GetAtt": ["Key", "Arn"]}, f"arn:aws:kms:eu-west-1:{OWNER}:key/Key"),
    ({"Fn::GetAtt": "Role.Arn"}, f"arn:aws:iam::{OWNER}:role/path/Role"),
    ({"Fn::Sub": "${Role.Arn}"}, f"arn:aws:iam::{OWNER}:role/path/Role"),
    ({"Ref": "AWS::AccountId"}, OWNER),
    ({"Fn::ImportValue": "x"}, UNKNOWN),
    ({"Fn::Sub": "a${Bucket.Arn}"}, f"a{UNKNOWN}"),
    ({"a": {"Ref": "AWS::NoValue"}, "b": 1}, {"b": 1}),
    ({"Fn::Transform": {"Name": "AWS::Include"}, "Effect": "Deny"}, UNKNOWN),
]


@pytest.mark.parametrize(("node", "expected"), FUNCTIONS, ids=[str(row[0]) for row in FUNCTIONS])
def test_an_intrinsic_function_is_resolved(node: object, expected: object) -> None:
    rest: Json = {
        "Mappings": {"M": {"k": {"v": "mapped"}, OWNER: {"v": "the account of this module"}}},
        "Conditions": {"IsX": {"Fn::Equals": [{"Ref": "P"}, "x"]}},
        "Resources": {
            "Key": {"Type": "AWS::KMS::Key"},
            "Role": {"Type": "AWS::IAM::Role", "Properties": {"Path": "/path/"}},
            "Bucket": {"Type": "AWS::S3::Bucket"},
        },
    }
    parameter = {"Type": "String", "AllowedValues": ["x"]}
    assert values(parameter, node, **rest) == [expected]


def test_a_condition_that_cannot_be_told_is_taken_both_ways() -> None:
    imported = {"C": {"Fn::Equals": [{"Fn::ImportValue": "stage"}, "test"]}}
    found = values({"Type": "String"}, {"Fn::If": ["C", "open", "shut"]}, Conditions=imported)
    assert set(map(str, found)) == {"open", "shut"}


def test_what_a_policy_compares_decides_which_values_are_tried() -> None:
    condition = {"C": {"Fn::Equals": [{"Ref": "P"}, "backdoor"]}}
    found = values({"Type": "String"}, {"Fn::If": ["C", "open", "shut"]}, Conditions=condition)
    assert "open" in found


LITERALS = [
    *(("AccountId", OWNER), ("AccountId", "123456789012"), ("StackName", "stack")),
    *(("StackName", "test"), ("Region", "eu-west-1"), ("Region", "ap-south-1")),
    *(("Partition", "aws"), ("Partition", "aws-cn")),
]
COMPARISONS: list[tuple[str, Json, list[object], set[str]]] = [
    ("a listed value", {"AllowedValues": ["a", "b"]}, [{"Fn::Sub": "${P}x"}, "cx"], {"differs"}),
    ("a listed value, always", {"AllowedValues": ["a"]}, [{"Fn::Sub": "${P}x"}, "ax"], {"equals"}),
    ("an account", {}, [{"Ref": "P"}, {"Ref": "AWS::AccountId"}], {"equals", "differs"}),
    ("a third value", {"Default": "a", "AllowedPattern": "[a-z]"}, [{"Ref": "P"}, "a"],
     {"equals", "differs"}),
    ("composed text", {"AllowedPattern": "[a-z]+"}, [{"Fn::Sub": "${P}-x"}, "test-x"],
     {"equals", "differs"}),
    ("joined text", {}, [{"Fn::Join": ["-", ["a", {"Ref": "P"}]]}, "a-b"], {"equals", "differs"}),
    ("two parameters", {"AllowedPattern": "[a-z]+"}, [{"Ref": "P"}, {"Ref": "Q"}],
     {"equals", "differs"}),
    ("no region", {}, [{"Ref": "AWS::Region"}, "everywhere"], {"differs"}),
    ("a map's value", {}, [{"Fn::FindInMap": ["M", {"Ref": "AWS::Region"}, "v"]}, "open"],
     {"equals", "differs"}),
]  # fmt: skip


COMPARISONS += [
    (f"{name} is {literal}", {}, [{"Ref": f"AWS::{name}"}, literal], {"equals", "differs"})
    for name, literal in LITERALS
]


@pytest.mark.parametrize(
    ("parameter", "sides", "expected"),
    [row[1:] for row in COMPARISONS],
    ids=[row[0] for row in COMPARISONS],
)
def test_a_condition_is_tried_both_ways_unless_it_has_only_one(
    parameter: Json, sides: list[object], expected: set[str]
) -> None:
    found = values(
        {"Type": "String", **parameter},
        {"Fn::If": ["C", "equals", "differs"]},
        Conditions={"C": {"Fn::Equals": sides}},
        Mappings={"M": {"eu-west-1": {"v": "shut"}, "us-east-1": {"v": "open"}}},
    )
    assert set(map(str, found)) == expected


# --- a live key ----------------------------------------------------------------------------------


def test_a_live_key_is_asked_about_with_its_grants() -> None:
    owner, grantee = "123456789012", "arn:aws:iam::444455556666:role/granted"
    delegate = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{owner}:root"},
        "Action": "kms:*",
        "Resource": "*",
    }
    answers = policy_questions({"Statement": [delegate]}, owner, [Grant(grantee, ["Decrypt"])])
    (granted,) = (
        answer
        for answer in answers
        if answer.caller.name.startswith(grantee)
        and (answer.action, answer.attests) == ("kms:Decrypt", Attests.NOTHING)
    )
    assert granted.caller.outsider
    assert granted.decision.verdict is Verdict.ALLOWED
    assert granted.decision.policy == "grant 1"


def test_nesting_too_deep_is_a_doubt_and_no_crash() -> None:
    node: object = "a"
    for _ in range(5000):
        node = {"Fn::Sub": ["${A}", {"A": node}]}
    key = {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": node}}
    answers = questions({"Resources": {"Key": key}})
    assert {answer.decision.verdict for answer in answers} == {Verdict.CANNOT_PROVE}


# --- malformed templates -------------------------------------------------------------------------

WEIRD: list[object] = [
    *(None, [], {}, 5, True, "", "*", [[]], [{}], [None], "arn:aws:iam::", "{", 1e400),
    *({"Fn::If": []}, {"Fn::If": ["x"]}, {"Fn::If": ["No", 1, 2]}, {"Ref": None}, {"Ref": {}}),
    *({"Fn::GetAtt": []}, {"Fn::Sub": []}, {"Fn::Sub": {}}, {"Fn::Join": []}, {"Fn::Not": []}),
    *({"Fn::Select": ["9", [1]]}, {"Fn::FindInMap": []}, {"Condition": "HostIsNarrowedToRole"}),
    *({"Fn::Equals": [1]}, {"Fn::Transform": 1}, {"a": {"b": [None]}}, {"Fn::And": {}}),
]


def _places(node: object) -> list[tuple[Any, Any]]:
    children = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    return [place for key, child in children for place in ((node, key), *_places(child))]


@pytest.mark.parametrize("seed", range(60))
def test_no_template_makes_the_questions_crash(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311  (nothing here is secret)
    decoded, _ = decode(str(OURS))
    template = json.loads(json.dumps(decoded))
    template["Resources"] = {"EnclaveKey": template["Resources"]["EnclaveKey"]}
    for _ in range(dice.choice([1, 2, 3])):
        parts = {name: template[name] for name in ("Resources", "Parameters", "Conditions")}
        holder, key = dice.choice(_places(parts))
        if holder is not parts:
            holder[key] = copy.deepcopy(dice.choice(WEIRD))
    with warnings.catch_warnings(action="error"):
        questions(template)
