"""A parameter may have every value that its constraints allow, and no other."""

import copy
import json
import random
import re
import warnings
from typing import Any

import pytest
from cfnlint.decode import decode

from generator.access.answers import Attests, Outcome
from generator.access.questions import outcome, policy_questions, questions
from generator.deployments import patterns
from generator.deployments.concrete import OWNER, Deployment
from generator.deployments.formulas import Items, Symbol
from generator.deployments.languages import both, others, shortest
from generator.deployments.parameters import takes
from generator.deployments.possible_texts import possible_texts
from generator.deployments.splitting import split_symbol
from generator.deployments.symbolic import Template
from generator.parameters import ENCRYPTOR_PARAMETERS, HOST_ACCOUNT, PARENT_ROLE
from generator.policy.evaluation import Verdict
from generator.policy.operators import UNKNOWN
from generator.policy.request import Grant
from generator.reading import documents
from tests.support.paths import ENCRYPTOR_TEMPLATE

OURS = ENCRYPTOR_TEMPLATE
ZEROS, IMAGE = "0" * 96, "1a" * 48
ACCOUNT = "444455556666"

Json = dict[str, Any]


def symbol(declaration: Json) -> Symbol:
    """Return the symbol of a parameter; of a list, that of its items."""
    found = Template({"Parameters": {"P": declaration}}).parameters["P"]
    return found.item if isinstance(found, Items) else found


ROWS: list[tuple[str, Json, list[str], list[str]]] = [
    ("an account", {"Type": "String", "AllowedPattern": HOST_ACCOUNT.pattern},
     [ACCOUNT, OWNER], ["", "*"]),
    ("a role", {"Type": "String", "AllowedPattern": PARENT_ROLE.pattern}, ["", "a/b"], ["*"]),
    ("no constraints", {"Type": "String"}, ["", "*", ZEROS, '"'], []),
    ("a value that is not empty", {"Type": "String", "MinLength": 1, "MaxLength": 9}, ["*"], [""]),
    ("a character that may count as two", {"Type": "String", "MinLength": 2, "MaxLength": 2},
     ["ab", "😀", "a😀"], ["a"]),
    ("a value that may be a dynamic reference", {"Type": "String", "MinLength": 1},
     ["*", ZEROS, ""], []),
    ("a pattern of dynamic references", {"Type": "String", "AllowedPattern": "^[a-z:/{}]+$"},
     ["*", ZEROS], []),
    ("an allowed dynamic reference", {"Type": "String", "AllowedValues": ["{{resolve:ssm:/a}}"]},
     ["*", ZEROS], []),
    ("allowed values", {"Type": "String", "AllowedValues": ["a", "*"]}, ["a", "*"], ["", "b"]),
    ("a list's allowed values", {"Type": "CommaDelimitedList", "AllowedValues": ["a,b", "c"]},
     ["a", "b", "c"], ["a,b", ""]),
    ("a number", {"Type": "Number"}, [ACCOUNT, "-1.5"], ["", "*", "none"]),
    ("an item of a list, which may become a text with a comma", {"Type": "CommaDelimitedList"},
     ["", ZEROS, "a,b"], []),
    ("an item with a space", {"Type": "CommaDelimitedList", "AllowedPattern": "^ x$"},
     ["x", " x"], []),
    ("an item with a tab", {"Type": "CommaDelimitedList", "AllowedPattern": "^\\tx$"},
     ["x", "\tx"], []),
    ("an allowed item with a no-break space",
     {"Type": "CommaDelimitedList", "AllowedValues": ["a,\u00a0b"]},
     ["a", "b", "\u00a0b"], ["c"]),
    ("an item with a space inside", {"Type": "CommaDelimitedList", "AllowedPattern": "^a b$"},
     ["a b"], ["a"]),
    ("a text with a space", {"Type": "String", "AllowedPattern": "^ x$"}, [" x"], ["x"]),
    ("from the parameter store", {"Type": "AWS::SSM::Parameter::Value<String>",
     "AllowedPattern": "^/a$"}, ["*", ZEROS], []),
    ("a pattern that is not translated", {"Type": "String", "AllowedPattern": r"(a)\1"},
     ["aa", "b"], []),
    ("upper case", {"Type": "String", "AllowedPattern": "[0-9A-F]{96}"},
     [IMAGE.upper(), ZEROS], [IMAGE]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("parameter", "among", "not_among"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_parameter_may_be_any_value_its_constraints_allow(
    parameter: Json, among: list[str], not_among: list[str]
) -> None:
    language = symbol(parameter).language
    assert [text for text in among if text not in language] == []
    assert [text for text in not_among if text in language] == []


PATTERNS = [
    *(parameter.pattern for parameter in ENCRYPTOR_PARAMETERS),
    *("a|bc", "(ab)*c", "[^a-c]+", "a{2,3}", "(?=a).b?", "(?!ab)a.*", "(?:a|b)(?!c)[a-d]", "^a$"),
    *(
        r"\d+\.\w",
        r"[\w.-]+",
        "(?<name>a)b",
        "a(?=b$)b",
        "^(x|(?!y)z?)$",
        r"[a\]-]+",
        "a??b+?",
        "((?!aa)[ab]{2})+",
    ),
]
TEXTS = ["".join(text) for text in ("", "a", "b", "ab", "abc", "bc", "ac", "aab", "aaa", "x", "z")]
TEXTS += [
    ZEROS,
    IMAGE,
    "none",
    ACCOUNT,
    "alias/a",
    "a/b",
    "..",
    "a.b",
    "1.a",
    "]",
    "-",
    "a\n",
    "\n",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_translated_pattern_matches_like_the_regular_expression(pattern: str) -> None:
    language = patterns.language(pattern)
    plain = pattern.replace("(?<name>", "(?P<name>").replace("$", r"(?=\n?\Z)")
    for text in TEXTS:
        assert (text in language) is bool(re.fullmatch(plain, text)), text
    example = shortest(language)
    assert example is not None
    assert re.fullmatch(plain, example)
    assert shortest(both(language, others(language))) is None


@pytest.mark.parametrize(
    "pattern",
    [r"(a)\1", "a*+", "(?<=a)b", "(?i)a", "[a&&b]", "[[a]]", "(", "a)", "[a", "*a", "a{3,2}", r"\b",
     r"\p{IsLatin}",
     r"\R", r"\v", r"\X", r"\N{SPACE}", r"\ud83d\ude00", "(?>a)",
     "b^a", "(" * 60 + ")" * 60, "[z-a]", "a{99999}", "(?=a)*b",
     "((?!ab)a)*", "\\"],
)  # fmt: skip
def test_unsupported_pattern_is_an_error(pattern: str) -> None:
    with pytest.raises(patterns.UntranslatableError):
        patterns.language(pattern)


def test_items_of_a_split_text_depend_on_their_position() -> None:
    pattern = "^(none|(?!0{96}$)[0-9a-f]{96}(,[0-9a-f]{96})*)$"
    items = split_symbol(symbol({"Type": "String", "AllowedPattern": pattern}), ",").item.language
    assert [text in items for text in (ZEROS, IMAGE, "none", "", "a")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    short = split_symbol(symbol({"Type": "String", "AllowedPattern": "a,b|c"}), ",").item.language
    assert [text in short for text in ("a", "b", "c", "a,b", "")] == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("declaration", "value", "expected"),
    [
        ({"Type": "String", "AllowedPattern": "[a-z]+"}, "a", True),
        ({"Type": "String", "AllowedPattern": "[a-z]+"}, "A", False),
        ({"Type": "CommaDelimitedList", "AllowedPattern": "[a-z]"}, ["a", "b"], True),
        ({"Type": "CommaDelimitedList", "AllowedPattern": "[a-z]"}, ["a", "1"], False),
        ({"Type": "String", "AllowedValues": ["a"]}, "b", False),
        ({"Type": "String", "MaxLength": 3}, "abcd", False),
        ({"Type": "String", "MinLength": 2}, "a", False),
    ],
)
def test_a_value_is_checked_against_the_declaration(
    declaration: Json, value: str | list[str], expected: object
) -> None:
    assert takes(declaration, value) is expected


FUNCTIONS: list[tuple[object, object]] = [
    ({"Fn::Sub": "a-${P}-${!Literal}"}, "a-x-${Literal}"),
    ({"Fn::Sub": ["${V}", {"V": {"Ref": "P"}}]}, "x"),
    ({"Fn::Join": [":", ["a", {"Ref": "P"}, {"Ref": "AWS::NoValue"}]]}, "a:x"),
    ({"Fn::Select": [1, {"Fn::Split": ["/", "a/b"]}]}, "b"),
    ({"Fn::FindInMap": ["M", "k", "v"]}, "mapped"),
    ({"Fn::FindInMap": ["M", {"Ref": "P"}, "v", {"DefaultValue": "other"}]}, "other"),
    ({"Fn::If": ["IsX", "yes", "no"]}, "yes"),
    ({"Ref": "AWS::AccountId"}, OWNER),
    ({"Ref": "AWS::URLSuffix"}, "amazonaws.com"),
    ({"Fn::ImportValue": "x"}, UNKNOWN),
    ({"Fn::Sub": "a${Bucket.Arn}"}, f"a{UNKNOWN}"),
]
REST: Json = {
    "Parameters": {"P": {"Type": "String", "AllowedValues": ["x"]}},
    "Mappings": {"M": {"k": {"v": "mapped"}}},
    "Conditions": {"IsX": {"Fn::Equals": [{"Ref": "P"}, "x"]}},
    "Resources": {
        "Key": {"Type": "AWS::KMS::Key"},
        "Role": {"Type": "AWS::IAM::Role", "Properties": {"Path": "/path/"}},
        "Bucket": {"Type": "AWS::S3::Bucket"},
    },
}


@pytest.mark.parametrize(("node", "expected"), FUNCTIONS, ids=[str(row[0]) for row in FUNCTIONS])
def test_an_intrinsic_function_is_resolved(node: object, expected: object) -> None:
    assert Deployment(REST, {"P": "x"}).resolve(node) == expected


def test_attributes_of_keys_and_roles_are_arns() -> None:
    stack = Deployment(REST, {"P": "x"})
    key = f"arn:aws:kms:eu-west-1:{OWNER}:key/Key"
    assert stack.resolve({"Fn::GetAtt": ["Key", "Arn"]}) == key
    assert stack.resolve({"Fn::Sub": "${Role.Arn}"}) == f"arn:aws:iam::{OWNER}:role/path/Role"


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("a", ["a"]),
        ({"Ref": "P"}, ["x"]),
        ({"Fn::If": ["IsX", "yes", "no"]}, ["yes", "no"]),
        ({"Fn::FindInMap": ["M", "k", "v"]}, ["mapped"]),
        ({"Fn::ImportValue": "x"}, [UNKNOWN]),
    ],
)
def test_possible_texts_are_all_found(node: object, expected: list[str]) -> None:
    assert possible_texts(REST, node) == expected


# --- conditions ----------------------------------------------------------------------------------

PSEUDO = [("AccountId", OWNER), ("StackName", "test"), ("Region", "ap-south-1"),
          ("Partition", "aws-cn")]  # fmt: skip
COMPARISONS: list[tuple[str, Json, list[object], set[str]]] = [
    ("a listed value", {"AllowedValues": ["a", "b"]}, [{"Fn::Sub": "${P}x"}, "cx"], {"closed"}),
    ("a listed value, always", {"AllowedValues": ["a"]}, [{"Fn::Sub": "${P}x"}, "ax"], {"open"}),
    ("an account", {}, [{"Ref": "P"}, {"Ref": "AWS::AccountId"}], {"open"}),
    ("a third value", {"Default": "a", "AllowedPattern": "[a-z]"}, [{"Ref": "P"}, "b"], {"open"}),
    ("no such value", {"AllowedPattern": "[a-z]"}, [{"Ref": "P"}, "bb"], {"closed"}),
    ("joined text", {"AllowedPattern": "[a-z]+"}, [{"Fn::Sub": "${P}-x"}, "test-x"], {"open"}),
    ("no such text", {"AllowedPattern": "[a-z]+"}, [{"Fn::Sub": "${P}-x"}, "1-x"], {"closed"}),
    ("two parameters", {"AllowedPattern": "[a-z]+"}, [{"Ref": "P"}, {"Ref": "Q"}], {"open"}),
    ("never two", {"AllowedPattern": "[0-9]+"}, [{"Ref": "P"}, {"Ref": "Q"}], {"closed"}),
    ("no region", {}, [{"Ref": "AWS::Region"}, "everywhere"], {"closed"}),
    ("a map's value", {}, [{"Fn::FindInMap": ["M", {"Ref": "AWS::Region"}, "v"]}, "open"],
     {"open"}),
]  # fmt: skip
COMPARISONS += [
    (f"{name} is {text}", {}, [{"Ref": f"AWS::{name}"}, text], {"open"}) for name, text in PSEUDO
]


@pytest.mark.parametrize(
    ("parameter", "sides", "expected"),
    [row[1:] for row in COMPARISONS],
    ids=[row[0] for row in COMPARISONS],
)
def test_satisfiable_condition_opens_the_key(
    parameter: Json, sides: list[object], expected: set[str]
) -> None:
    image = {"StringNotEquals": {"kms:RecipientAttestation:ImageSha384": IMAGE}}
    deny = {"Effect": "Deny", "Principal": "*", "Action": "*", "Resource": "*", "Condition": image}
    own = {"AWS": {"Ref": "AWS::AccountId"}}
    allow = {"Effect": "Allow", "Principal": own, "Action": "kms:Decrypt", "Resource": "*"}
    policy = {"Statement": [allow, {"Fn::If": ["C", {"Ref": "AWS::NoValue"}, deny]}]}
    template = {
        "Parameters": {
            "P": {"Type": "String", **parameter},
            "Q": {"Type": "String", "AllowedPattern": "[a-z]*"},
        },
        "Conditions": {"C": {"Fn::Equals": sides}},
        "Mappings": {"M": {"eu-west-1": {"v": "shut"}, "us-east-1": {"v": "open"}}},
        "Resources": {"Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": policy}}},
    }
    unattested = {
        answer.verdict for answer in questions(template) if answer.attests is not Attests.BOUND
    }
    assert expected == ({"open"} if Verdict.ALLOWED in unattested else {"closed"})
    assert Verdict.CANNOT_PROVE not in unattested


# --- values without quotes -----------------------------------------------------------------------

CLOSED_IF = """
Parameters: {{P: {{Type: {kind}, {constraints}}}}}
Conditions: {{Open: {condition}}}
Mappings: {{M: {{{mapped}}}}}
Resources:
  Key:
    Type: AWS::KMS::Key
    Properties:
      KeyPolicy:
        Statement:
          - {{Effect: Allow, Principal: {{AWS: !Ref AWS::AccountId}}, Action: kms:*, Resource: "*"}}
          - !If
            - Open
            - !Ref AWS::NoValue
            - Effect: {effect}
              Principal: "*"
              Action: kms:*
              Resource: "*"
"""
NEVER = "!Equals [a, b]"
WRITTEN: list[tuple[str, dict[str, str], Outcome]] = [
    ("booleans", {"constraints": "AllowedValues: [true, false]",
     "condition": "!Equals [!Ref P, true]"}, Outcome.OPEN),
    ("booleans and a text", {"constraints": "AllowedValues: [true, false]",
     "condition": '!Equals ["true", !Ref P]'}, Outcome.OPEN),
    ("a joined boolean", {"constraints": "AllowedValues: [true]",
     "condition": '!Equals [!Join ["", [!Ref P, false]], truefalse]'}, Outcome.OPEN),
    ("yes", {"constraints": "AllowedValues: [yes, no]", "condition": "!Equals [!Ref P, yes]"},
     Outcome.OPEN),
    ("yes is true", {"constraints": "AllowedValues: [yes, no]",
     "condition": '!Equals [!Ref P, "true"]'}, Outcome.OPEN),
    ("no other text", {"constraints": "AllowedValues: [true, false]",
     "condition": "!Equals [!Ref P, other]"}, Outcome.CLOSED),
    ("a list of booleans", {"kind": "CommaDelimitedList", "constraints": "AllowedValues: [true]",
     "condition": '!Equals [!Select [0, !Ref P], "true"]'}, Outcome.OPEN),
    ("a boolean that is a key", {"constraints": "AllowedPattern: ^(true|false)$",
     "mapped": "true: {v: Deny}, false: {v: Allow}", "effect": "!FindInMap [M, !Ref P, v]"},
     Outcome.OPEN),
    ("a boolean key that is named", {"mapped": "true: {v: Deny}",
     "effect": '!FindInMap [M, "true", v]'}, Outcome.CLOSED),
    ("an integer", {"constraints": "AllowedValues: [1]", "condition": '!Equals [!Ref P, "1"]'},
     Outcome.OPEN),
    ("other integers", {"constraints": "AllowedValues: [1]", "condition": '!Equals [!Ref P, "2"]'},
     Outcome.CLOSED),
    ("a reference inside a literal", {"constraints": "AllowedValues: [x]",
     "condition": "!Equals [!Sub '${!a${P}}', '${ax}']"}, Outcome.UNDECIDED),
    ("a decimal", {"constraints": "AllowedValues: [1.10]", "condition": '!Equals [!Ref P, "1.1"]'},
     Outcome.UNDECIDED),
    ("a number with its type", {"condition": '!Equals ["15", !!int "017"]'}, Outcome.UNDECIDED),
    ("an octal number", {"condition": '!Equals ["8", 010]'}, Outcome.UNDECIDED),
    ("an exponent", {"condition": '!Equals ["1000.0", 1e3]'}, Outcome.UNDECIDED),
    ("an octal key", {"mapped": '0777: {v: Allow}, "a": {v: Deny}',
     "effect": '!FindInMap [M, "511", v]'}, Outcome.UNDECIDED),
    ("an octal length", {"constraints": "MinLength: 010",
     "condition": "!Equals [!Ref P, abcdefgh]"}, Outcome.UNDECIDED),
    ("an empty pattern", {"constraints": 'AllowedPattern: ""', "condition": "!Equals [!Ref P, x]"},
     Outcome.UNDECIDED),
    ("a number", {"kind": "Number", "constraints": "AllowedValues: [1]",
     "condition": '!Equals [!Ref P, "1.0"]'}, Outcome.UNDECIDED),
    ("not a number", {"kind": "Number", "condition": "!Equals [!Ref P, NaN]"}, Outcome.UNDECIDED),
    ("a space", {"constraints": "AllowedValues: ['debug ']",
     "condition": "!Equals [!Ref P, 'debug ']"}, Outcome.OPEN),
]  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "expected"), [row[1:] for row in WRITTEN], ids=[row[0] for row in WRITTEN]
)
def test_a_value_without_quotes_is_the_text_that_cloudformation_reads(
    parts: dict[str, str], expected: Outcome
) -> None:
    usual = {"kind": "String", "constraints": "Default: a", "condition": NEVER, "effect": "Deny"}
    template = documents.parse(CLOSED_IF.format_map({"mapped": "k: {v: a}", **usual, **parts}))
    assert outcome(template, "Key") is expected


@pytest.mark.parametrize("key", ["yes: a, true: b", '"true": a, true: b', "on: a, On: b", "~: a"])
def test_a_key_that_parsers_read_differently_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"twice|empty key"):
        documents.parse(f"Resources: {{Key: {{{key}}}}}")


# --- a live key ----------------------------------------------------------------------------------


def test_grants_of_a_live_key_are_evaluated() -> None:
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


def test_excessive_nesting_cannot_be_proved_and_does_not_crash() -> None:
    node: object = "a"
    for _ in range(5000):
        node = {"Fn::Sub": ["${A}", {"A": node}]}
    key = {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": node}}
    answers = questions({"Resources": {"Key": key}})
    found = {answer.verdict for answer in answers if answer.attests is not Attests.BOUND}
    assert found == {Verdict.CANNOT_PROVE}


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


@pytest.mark.parametrize("seed", range(12))
def test_malformed_template_does_not_crash_the_analysis(seed: int) -> None:
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
