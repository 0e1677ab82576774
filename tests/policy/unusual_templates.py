"""Templates with something that few people write: each kind has made a proof miss a deployment.

Every kind is a function that changes a template whose key is otherwise closed. Most leave the Deny
out where two texts are equal, so that a proof must find the values for which they are.
"""

import json
import re
from collections.abc import Sequence
from random import Random
from typing import Any

from tests.policy.random_patterns import TEXTS, pattern_of
from tests.policy.random_policies import IMAGE
from tests.policy.random_requests import HOST, OTHER, UNNAMED
from tests.policy.random_templates import NO_VALUE, READINGS, Drawn, Templates

Json = dict[str, Any]

IMAGE_KEY = "kms:RecipientAttestation:ImageSha384"
STORED = "{{resolve:ssm:/team/image}}"
INCLUDE: Json = {"Fn::Transform": {"Name": "AWS::Include", "Parameters": {"Location": "s3://a/b"}}}


def unusual_template(dice: Random) -> Drawn:
    """Return a template with one kind of unusual things in it, sometimes with two."""
    drawn = Templates(dice).plain_template()
    if dice.random() < 0.15:
        return _in_text(dice, drawn)
    dice.choice(KINDS)(dice, drawn)
    if dice.random() < 0.2:
        dice.choice(ANYWHERE)(dice, drawn)
    return drawn


# --- where the Deny is left out ---


def shut_unless(dice: Random, drawn: Drawn, left: object, right: object) -> None:
    """Leave the Deny out where two texts are equal, in one of several ways."""
    name = f"Open{len(drawn.conditions)}"
    sides = [left, right] if dice.random() < 0.5 else [right, left]
    equal: Json = {"Fn::Equals": sides}
    negated = dice.random() < 0.3
    drawn.conditions[name] = {"Fn::Not": [equal]} if negated else equal

    def either(when_equal: object, otherwise: object) -> Json:
        branches = [otherwise, when_equal] if negated else [when_equal, otherwise]
        return {"Fn::If": [name, *branches]}

    policy = drawn.key.get("KeyPolicy")
    if policy is None:
        return
    statements = policy.get("Statement") if isinstance(policy, dict) else None
    denial = statements[-1] if isinstance(statements, list) else None
    if not isinstance(policy, dict) or not isinstance(denial, dict) or "Effect" not in denial:
        drawn.key["KeyPolicy"] = either(NO_VALUE, policy)
        return
    way = dice.randrange(8)
    if way == 0:
        drawn.key["KeyPolicy"] = either(NO_VALUE, policy)
    elif way == 1:
        without = {**policy, "Statement": statements[:-1]}  # type: ignore[index] # a list
        drawn.key["KeyPolicy"] = either(without, policy)
    elif way == 2:
        denial["Effect"] = either("Allow", "Deny")
    elif way == 3:
        denial["Principal"] = either({"AWS": OTHER}, "*")
    elif way == 4:
        denial["Action"] = [either("kms:Encrypt", "kms:Decrypt"), "kms:ReEncryptFrom"]
    elif way == 5:
        image = {IMAGE_KEY: UNNAMED}
        denial["Condition"] = either({"StringEquals": image}, denial["Condition"])
    else:
        statements[-1] = either(NO_VALUE, denial)  # type: ignore[index] # a list


# --- scalars ---


def scalars(dice: Random, drawn: Drawn) -> None:
    """Compare booleans, numbers and dates without quotes, in values, mappings and defaults."""
    names = [*READINGS] if dice.random() < 0.7 else ["true", "yes", "012", "1.10", "on", "1e3"]
    first, second = dice.choice(names), dice.choice(names)
    if dice.random() < 0.5:
        second = first
    texts = READINGS[second] or ("null",)
    right = dice.choice([f"«{second}»", dice.choice(texts), dice.choice(texts)])
    declaration: Json = {"Type": "String", "AllowedValues": [f"«{first}»", "usual"]}
    if dice.random() < 0.5:
        declaration["Default"] = f"«{first}»"
    flag = drawn.parameter("Flag", declaration, [*READINGS[first], "usual"])
    if dice.random() < 0.6:
        shut_unless(dice, drawn, flag, right)
        return
    key = f"«{first}»" if READINGS[first] and dice.random() < 0.5 else dice.choice(texts)
    drawn.template["Mappings"]["Flags"] = {
        key: {"E": "Allow"},
        "usual": {"E": "Deny"},
    }
    _denial(drawn)["Effect"] = {"Fn::FindInMap": ["Flags", flag, "E"]}


def scalars_in_conditions(dice: Random, drawn: Drawn) -> None:
    """Compare condition keys with booleans and numbers without quotes."""
    operator, key, names = dice.choice(
        [
            ("Bool", "aws:ViaAWSService", ["yes", "off", "True", "NO"]),
            ("StringNotEquals", "aws:PrincipalTag/flag", [*READINGS]),
            ("NumericGreaterThanIfExists", "aws:MultiFactorAuthAge", ["012", "1.10", "7", "1e3"]),
            ("DateLessThanIfExists", "aws:CurrentTime", ["2026-01-01", "2026-01-01 00:00:00"]),
            ("Null", "aws:SourceVpc", ["yes", "false", "on"]),
            ("StringNotEquals", "aws:PrincipalAccount", ["444455556666", "012", "089"]),
        ]
    )
    condition = _denial(drawn)["Condition"]
    condition.setdefault(operator, {})[key] = f"«{dice.choice(names)}»"


# --- patterns and lists ---


def patterns(dice: Random, drawn: Drawn) -> None:
    """Constrain a parameter by a pattern, and leave the Deny out for one of its values."""
    java, python = pattern_of(dice)
    declaration: Json = {"Type": "String", "AllowedPattern": java}
    values = [text for text in TEXTS if re.fullmatch(python, text)]
    if dice.random() < 0.2:
        declaration["MaxLength"] = dice.choice([1, 2, "3"])
        values = [text for text in values if len(text) <= int(declaration["MaxLength"])]
    wanted = dice.choice(values) if values and dice.random() < 0.6 else dice.choice(TEXTS)
    declaration["Default"] = "" if dice.random() < 0.5 else wanted
    shape = drawn.parameter("Shape", declaration, values)
    if dice.random() < 0.3:
        shut_unless(dice, drawn, {"Fn::Sub": "<${Shape}>"}, f"<{wanted}>")
    else:
        shut_unless(dice, drawn, shape, wanted)


def lengths(dice: Random, drawn: Drawn) -> None:
    """Constrain a parameter by its length, in characters that are one or two units in Java."""
    least = dice.choice([1, 2, 3])
    declaration: Json = {"Type": "String", "MinLength": least, "MaxLength": dice.choice([3, 4])}
    values = [each for each in TEXTS if least <= len(each.encode("utf-16-le")) // 2]
    values = [each for each in values if len(each) <= declaration["MaxLength"]]
    shape = drawn.parameter("Long", declaration, values)
    shut_unless(dice, drawn, shape, dice.choice(TEXTS))


def spaces(dice: Random, drawn: Drawn) -> None:
    """Compare allowed values, and items of lists, that have spaces at an end."""
    allowed = dice.choice([["usual", " debug"], ["usual ", "debug "], ["usual", "debug"]])
    wanted = dice.choice(["debug", " debug", "debug ", "usual"])
    if dice.random() < 0.5:
        mode = drawn.parameter("Mode", {"Type": "String", "AllowedValues": allowed}, allowed)
        shut_unless(dice, drawn, mode, wanted)
        return
    values = [[each.strip()] for each in allowed]
    declaration: Json = {"Type": "CommaDelimitedList", "AllowedValues": allowed}
    if dice.random() < 0.6:
        pattern = dice.choice(["^ ?debug$", "^ debug$", "^debug ?$", "[a-z ]+", "^[^ ]+$"])
        declaration = {"Type": "CommaDelimitedList", "AllowedPattern": pattern}
        raw = ["debug", " debug", "debug ", "usual", " usual"]
        values = [[each.strip()] for each in raw if re.fullmatch(pattern, each)]
        values += [["usual", each[0]] for each in values]
    mode = drawn.parameter("Mode", declaration, values)
    node, right = dice.choice(
        [
            ({"Fn::Select": [0, mode]}, wanted),
            ({"Fn::Select": ["0", mode]}, wanted),
            ({"Fn::Join": ["", mode]}, wanted),
            ({"Fn::Join": [",", mode]}, f"usual,{wanted}"),
        ]
    )
    shut_unless(dice, drawn, node, right)


def numbers(dice: Random, drawn: Drawn) -> None:
    """Compare a Number, which may be given in any notation that equals an allowed one."""
    declaration: Json = {"Type": "Number"}
    values = ["1", "1.0", "01", "+1", "1e0", "10e-1", "2"]
    if dice.random() < 0.5:
        declaration["AllowedValues"] = [dice.choice([1, "1", "1.0"])]
        values.remove("2")
    elif dice.random() < 0.5:
        declaration["MinValue"] = 1
    level = drawn.parameter("Level", declaration, values)
    shut_unless(dice, drawn, level, dice.choice([*values, "2", "NaN", 1]))


# --- what is written elsewhere ---


def stored(dice: Random, drawn: Drawn) -> None:
    """Compare with a dynamic reference, often composed of two texts."""
    start, rest = "{{res", "olve:ssm:/a}}"
    if dice.random() < 0.5:
        cut = dice.randint(1, 12)
        start, rest = STORED[:cut], STORED[cut:]
    tail: Json = {"Type": "String", "AllowedPattern": "^[a-z:/{}]+$"}
    head: Json = {"Type": "String", "AllowedValues": ["x", start]}
    node: object = dice.choice(
        [
            STORED,
            {"Fn::Join": ["", [start, rest]]},
            {"Fn::Sub": ["${A}${B}", {"A": start, "B": rest}]},
            {"Fn::Join": ["", [start, drawn.parameter("Tail", tail, [rest])]]},
            {"Fn::Join": ["", [drawn.parameter("Head", head, ["x", start]), rest]]},
            {"Fn::Select": [1, ["x", STORED]]},
        ]
    )
    drawn.stored = True
    condition = _denial(drawn)["Condition"]
    if dice.random() < 0.6:
        operator = dice.choice(["StringNotLike", "StringNotEquals"])
        condition.clear()
        condition[operator] = {IMAGE_KEY: node}
    else:
        condition["StringNotLike"] = {"aws:PrincipalTag/team": node}


def macros(dice: Random, drawn: Drawn) -> None:
    """Have a macro, or a loop, write what the policy depends on."""
    drawn.macro = True
    policy, template = drawn.key["KeyPolicy"], drawn.template
    each = {"Fn::ForEach::Each": ["N", ["a"], {"${N}": {"Ref": "Stage"}}]}
    way = dice.randrange(8)
    if way == 0:
        template["Transform"] = dice.choice([["Mine"], "Mine", [{"Name": "AWS::Include"}, "Mine"]])
    elif way == 1:
        drawn.key["KeyPolicy"] = {**policy, **INCLUDE}
    elif way == 2:
        policy["Statement"].append(INCLUDE)
        policy["Statement"].pop(-2)
    elif way == 3:
        _denial(drawn)["Condition"].update(dice.choice([INCLUDE, each]))
    elif way == 4:
        drawn.key.update(INCLUDE)
    elif way == 5:
        template.update(dice.choice([INCLUDE, {"Fn::ForEach::Keys": ["N", ["a"], {}]}]))
    elif way == 6:
        template["Mappings"]["Effects"].update(INCLUDE)
        _denial(drawn)["Effect"] = {"Fn::FindInMap": ["Effects", {"Ref": "Stage"}, "E"]}
    else:
        template["Conditions"].update(dice.choice([INCLUDE, each]))
        _leave_out(drawn, "Production")


# --- keys and policies ---


def no_policy(dice: Random, drawn: Drawn) -> None:
    """Leave the policy out, always or under a condition: then KMS gives the key its default."""
    policy = drawn.key.pop("KeyPolicy")
    condition = dice.choice(["Production", "Far", "Same", "Both"])
    branches = [NO_VALUE, policy] if dice.random() < 0.5 else [policy, NO_VALUE]
    if dice.random() < 0.8:
        drawn.key["KeyPolicy"] = {"Fn::If": [condition, *branches]}
    elif dice.random() < 0.5:
        drawn.key["KeyPolicy"] = NO_VALUE


def usages(dice: Random, drawn: Drawn) -> None:
    """Use the key for something else, by a parameter, or as a replica of another key."""
    _denial(drawn)["Action"] = ["kms:Decrypt", "kms:ReEncryptFrom"]
    drawn.key["KeyPolicy"]["Statement"][1]["Action"] = ["kms:Decrypt", "kms:Derive*"]
    allowed = dice.sample(["ENCRYPT_DECRYPT", "KEY_AGREEMENT", "SIGN_VERIFY", " KEY_AGREEMENT"], 2)
    one = drawn.parameter("Usage", {"Type": "String", "AllowedValues": allowed}, allowed)
    pattern = {"Type": "String", "AllowedPattern": "^(AGREEMENT|[a-z])$"}
    part = drawn.parameter("Part", pattern, ["AGREEMENT", "a"])
    usage: object = dice.choice(
        [
            one,
            {"Fn::Join": ["_", ["KEY", part]]},
            {"Fn::If": ["Production", "KEY_AGREEMENT", NO_VALUE]},
            NO_VALUE,
            {"Fn::ImportValue": "usage"},
        ]
    )
    drawn.usage = usage
    if dice.random() < 0.5:
        drawn.key["KeyUsage"] = usage
        return
    key = drawn.resources["Key"]
    key["Type"] = "AWS::KMS::ReplicaKey"
    key["Properties"]["PrimaryKeyArn"] = {"Fn::GetAtt": ["Primary", "Arn"]}
    properties = {"MultiRegion": True, "KeyPolicy": drawn.key["KeyPolicy"], "KeyUsage": usage}
    if dice.random() < 0.7:
        drawn.resources["Primary"] = {"Type": "AWS::KMS::Key", "Properties": properties}
    else:
        key["Properties"]["PrimaryKeyArn"] = {"Fn::ImportValue": "primary"}
        drawn.usage = {"Fn::ImportValue": "usage"}


def surroundings(dice: Random, drawn: Drawn) -> None:
    """Compare pseudo parameters, functions of texts, and mappings with other texts."""
    word = drawn.parameter("Word", {"Type": "String", "AllowedPattern": "^[a-c,]{1,3}$"}, WORDS)
    left, right = dice.choice(
        [
            ({"Ref": "AWS::URLSuffix"}, "amazonaws.com.cn"),
            ({"Fn::Sub": "s3.${AWS::URLSuffix}"}, "s3.amazonaws.com"),
            ({"Ref": "AWS::Partition"}, "aws-us-gov"),
            ({"Fn::Select": [1, {"Fn::Split": [",", word]}]}, dice.choice(["a", "", "c"])),
            ({"Fn::Join": ["-", {"Fn::Split": [",", word]}]}, dice.choice(["a-b", "a", "--"])),
            ({"Fn::Sub": ["${!Word}${X}", {"X": word}]}, "${Word}a"),
            ({"Fn::Sub": "${Word}${AWS::AccountId}"}, "a111122223333"),
            ({"Fn::FindInMap": ["Effects", word, "E", {"DefaultValue": "no"}]}, "no"),
            ({"Fn::Join": ["", [{"Fn::If": ["Far", "x", NO_VALUE]}, word]]}, "xab"),
        ]
    )
    shut_unless(dice, drawn, left, right)


WORDS = ["a", "ab", "a,b", "b", "c,a", ",", "a,", ",,"]


def nested_ifs(dice: Random, drawn: Drawn) -> None:
    """Choose principals, actions, operators and values of statements by conditions."""
    own, host, denial = drawn.key["KeyPolicy"]["Statement"]

    def either(node: object, other: object) -> Json:
        branches = [node, other] if dice.random() < 0.5 else [other, node]
        inner = {"Fn::If": [dice.choice(CHOICES), *branches]}
        return {"Fn::If": [dice.choice(CHOICES), inner, node]} if dice.random() < 0.3 else inner

    condition = denial["Condition"]
    images = condition["StringNotEqualsIgnoreCase"]
    names = {"AWS": [host["Principal"]["AWS"], either(OTHER, NO_VALUE)]}
    several = [images[IMAGE_KEY], [IMAGE, either(UNNAMED, NO_VALUE)]]
    organization = {"StringEquals": {"aws:PrincipalOrgID": "o-1"}}
    changes: list[tuple[Json, Json]] = [
        (host, {"Principal": names}),
        (host, {"Condition": either(organization, NO_VALUE)}),
        (own, {"Principal": either(own["Principal"], {"AWS": {"Ref": "AWS::AccountId"}})}),
        (denial, {"Principal": either("*", {"AWS": either("*", HOST)})}),
        (denial, {"Action": either(["kms:Decrypt", "kms:ReEncryptFrom"], "kms:*")}),
        (denial, {"Resource": either("*", either(["*"], "arn:*:kms:*"))}),
        (images, {IMAGE_KEY: either(*several)}),
        (condition, {"StringNotEquals": either({"aws:PrincipalTag/t": "x"}, NO_VALUE)}),
        (condition, {"Bool": {"aws:ViaAWSService": either("true", "false")}}),
    ]
    for changed, members in dice.sample(changes, dice.choice([1, 2, 3])):
        changed.update(members)
    if dice.random() < 0.5:
        denial["Condition"] = either(condition, either(NO_VALUE, condition))


CHOICES = ["Production", "Far", "Same", "Both"]


def rules(dice: Random, drawn: Drawn) -> None:
    """Restrict a parameter by a rule, and leave the Deny out for one of its values."""
    allowed = dice.sample(["prod", "test", "dev"], 2)
    assertion = {"Assert": {"Fn::Contains": [allowed, {"Ref": "Stage"}]}}
    drawn.template["Rules"] = {"Stages": {"Assertions": [assertion]}}
    drawn.values["Stage"] = [each for each in drawn.values["Stage"] if each in allowed]
    shut_unless(dice, drawn, {"Ref": "Stage"}, dice.choice(["prod", "test", "dev"]))


def _in_text(dice: Random, drawn: Drawn) -> Drawn:
    """Write the whole policy as a text with parameters in it."""
    shape = {"Type": "String", "AllowedPattern": dice.choice(["^[a-z]+$", '^[^"\\\\]{1,9}$'])}
    drawn.parameter("Free", shape, ["a", "team"])
    secure = {"Type": "String", "AllowedValues": ["true"]}
    drawn.parameter("Secure", secure, ["true"])
    mark = dice.choice(["\ue000", "\ue001", "\ue002", "\ue003", "x", "${Free}", "${Secure}"])
    condition = {
        "StringNotEqualsIgnoreCase": {IMAGE_KEY: ["${Image}"]},
        dice.choice(["StringEquals", "Bool"]): {"aws:SecureTransport": mark},
    }
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "Own${Secure}",
                "Effect": "Allow",
                "Action": "kms:*",
                "Resource": "*",
                "Principal": {"AWS": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"},
            },
            {
                "Sid": "Host${Free}",
                "Effect": "Allow",
                "Action": "kms:Decrypt",
                "Resource": "*",
                "Principal": {"AWS": "${Other}"},
            },
            {
                "Effect": "Deny",
                "Principal": "*",
                "Resource": "*",
                "Condition": condition,
                "Action": ["kms:Decrypt", "kms:ReEncryptFrom"],
            },
        ],
    }
    drawn.key["KeyPolicy"] = {"Fn::Sub": json.dumps(policy, ensure_ascii=dice.random() < 0.5)}
    return drawn


def _denial(drawn: Drawn) -> Json:
    """Return the Deny, wherever a kind that came before has put it."""
    found = [*_denials(drawn.key.get("KeyPolicy"))]
    return found[0] if found else {"Condition": {}}


def _denials(node: object) -> Sequence[Json]:
    if isinstance(node, dict):
        is_denial = {"Condition", "Action"} <= {*node} and node.get("Effect") != "Allow"
        own = [node] if is_denial else []
        return own or [found for value in node.values() for found in _denials(value)]
    if isinstance(node, list):
        return [found for value in node for found in _denials(value)]
    return []


def _leave_out(drawn: Drawn, condition: str) -> None:
    statements = drawn.key["KeyPolicy"]["Statement"]
    statements[-1] = {"Fn::If": [condition, NO_VALUE, statements[-1]]}


ANYWHERE = [patterns, patterns, lengths, spaces, numbers, surroundings, rules]
"""Kinds that another kind may come before."""
KINDS = [
    *(*ANYWHERE, patterns, surroundings, scalars, scalars, scalars_in_conditions, stored, stored),
    *(macros, no_policy, usages, nested_ifs, nested_ifs),
]
"""Frequent kinds are those that depend on more values."""
