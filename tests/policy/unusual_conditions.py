"""Conditions that few people write: each kind has made a proof miss a request that decrypts.

Every function returns Condition elements. A policy gets one Deny for each of them, so only requests
that satisfy none decrypt unattested. Whether there are any depends on values that a proof must
tell apart: between two thresholds, in another notation, or of another length.
"""

from collections.abc import Callable
from random import Random
from typing import Any

Json = dict[str, Any]
Arn = Callable[[str, str], Any]
"""Returns the ARN of a principal, from its account and resource."""

ACCOUNTS = ["111122223333", "444455556666", "777788889999"]
NEVER: Json = {"StringEquals": {"aws:PrincipalTag/never": "never"}}
AGES = ["aws:MultiFactorAuthAge", "aws:PrincipalTag/level", "kms:EncryptionContext:n"]
TIMES = ["aws:CurrentTime", "aws:TokenIssueTime", "aws:PrincipalTag/until"]
LEVEL = "aws:PrincipalTag/level"

NUMBERS = [
    *(["1.9999999", "2", "2.0"], ["-0.5", "-0", "0", "+0.5"], ["007", "7.0000000001", "8"]),
    *(["1000000000000000000"], ["1000000000000000000", "1000000000000000001"]),
    *(["9" * 30, f"{'9' * 30}.5", f"1{'0' * 30}"], ["0.1", f"0.1{'0' * 24}1"]),
]
"""Numbers that are equal or lie close together, and numbers beyond those of a computer."""
DATES = [
    ["2020-01-01T00:00:00-12:00"],
    ["2026-12-01T00:00:00+14:00"],
    ["2019-12-31T10:00:00+14:00", "2020-01-01T00:00:00Z", "2020-01-01T00:00:00-12:00"],
    ["2026-12-01T00:00:00+14:00", "2026-11-30T10:00:00Z", "2026-11-30T10:00:00.000001Z"],
    ["1767225600", "2026-01-01T00:00:00.25Z", "1767225600.25", "2026-01-01T00:00:00.5Z"],
    ["2026-01-01", "2026-01-01T00:00Z", "2026-01-01T00:00:00.0Z"],
    ["0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00"],
]
"""Moments that are equal or lie close together, by their year, zone, fraction and notation."""
DOUBTFUL = {
    "Numeric": [["1e3", "1000"], ["5", "NaN"], ["0x10", "16"], ["1_000", ""]],
    "Date": [
        ["2026", "2026-06"],
        ["20260101T000000Z", "2026-W01-4"],
        ["1767225600000", "4102444800"],
        ["99999", "0"],
    ],
}
"""Values that not every reader accepts: little is proved about them."""


def intervals(dice: Random, _: Arn) -> list[Json]:
    """Leave an interval of numbers or dates, which may be empty or have one side only."""
    name, groups, keys = dice.choice([("Numeric", NUMBERS, AGES), ("Date", DATES, TIMES)])
    group = dice.choice(groups if dice.random() < 0.95 else DOUBTFUL[name])
    key, if_exists = dice.choice(keys), "IfExists" if dice.random() < 0.9 else ""
    low, high = sorted(dice.choice(range(len(group))) for _ in range(2))
    if dice.random() < 0.2:
        low, high = high, low
    below, above = (f"{dice.choice(['', 'Equals', 'Equals'])}{if_exists}" for _ in range(2))
    sides: list[Json] = [
        {f"{name}LessThan{below}": {key: group[low]}},
        {f"{name}GreaterThan{above}": {key: group[high]}},
    ]
    if dice.random() < 0.4 or len(group) == 1:
        return [dice.choice(sides)]
    if dice.random() < 0.2:
        not_ = dice.choice(["", "Not"])
        sides.append({f"{name}{not_}Equals{if_exists}": {key: dice.sample(group, 2)}})
    return sides


def also_measured(dice: Random, _: Arn) -> list[Json]:
    """Compare the same key as a text, and as a number, a date or something else."""
    key = dice.choice([LEVEL, LEVEL, "aws:UserAgent", "kms:CallerAccount", "aws:PrincipalAccount"])
    patterns = ["a-*", "*b", "4444*", "?-"]
    text: Json = dice.choice(
        [
            *({"StringNotLike": {key: each}} for each in patterns),
            {"StringNotEquals": {key: ["5", "admin"]}},
            {"StringNotLikeIfExists": {key: "4444*"}},
            {"StringNotEqualsIgnoreCase": {key: "TRUE"}},
            {"NumericNotEquals": {key: "444455556666"}},
        ]
    )
    measured: Json = dice.choice(
        [
            {"NumericLessThan": {key: "5"}},
            {"NumericEquals": {key: "111122223333"}},
            {"DateLessThan": {key: "2020-01-01"}},
            {"Bool": {key: "true"}},
            {"BinaryEquals": {key: "QUJD"}},
            {"IpAddress": {key: "10.0.0.0/8"}},
        ]
    )
    never = NEVER if dice.random() < 0.7 else {}
    return [text, merged(measured, never)] if dice.random() < 0.8 else [merged(measured, {})]


def many_values(dice: Random, _: Arn) -> list[Json]:
    """Require several values of a multivalued key at once."""
    key = dice.choice(["kms:EncryptionContextKeys", "aws:PrincipalOrgPaths", "aws:TagKeys"])
    count = dice.choice([1, 2, 3, 5, 6, 7, 7, 8, 9, 12])
    if dice.random() < 0.1:
        count = 13
    names = [f"k{number}" for number in range(count)]
    operator = dice.choice(["StringNotEquals"] * 4 + ["StringNotLike", "StringNotEqualsIgnoreCase"])
    found = [{f"ForAllValues:{operator}": {key: name}} for name in names]
    further = [
        {f"ForAnyValue:{operator}": {key: names}},
        {"ForAnyValue:StringEquals": {key: dice.choice(names)}},
        {"ForAnyValue:StringLike": {key: "*"}},
        {"Null": {key: dice.choice(["true", "false"])}},
        {f"ForAllValues:{operator}IfExists": {key: [*names[:2], "x*"]}},
        {f"ForAllValues:{operator}": {key: names}},
    ]
    return found + (_some(dice, further) if dice.random() < 0.4 else [])


def long_values(dice: Random, _: Arn) -> list[Json]:
    """Compare with a text of more than 2,048 characters."""
    value = "a" * dice.choice([2047, 2048, 2049, 4000])
    operator = dice.choice(["StringNotEquals", "StringNotLike", "StringNotEqualsIgnoreCase"])
    key = dice.choice(["aws:UserAgent", "aws:Referer", "kms:EncryptionContext:long"])
    return [{operator: {key: dice.choice([value, value.upper(), f"{value}*", [value, "b"]])}}]


def principals(dice: Random, arn: Arn) -> list[Json]:
    """Spare principals by patterns of their ARNs with unusual paths and wildcards."""
    account = dice.choice(ACCOUNTS)
    names = [
        *("role/a//*", "role//x", "role/a//b/c", "user/*//*", "role/*/", "role/**", "role/?/x"),
        *("role/a.b@c,d=e+f", "role/A-*", "role/a:b/c", "role/a/../b", "user/%41", "role/~/x"),
        *("role/*-?", "federated-user/*", "role/a*b*c", f"role/{'x' * 60}*", "role/", "us?r/ann"),
    ]
    value = arn(account, dice.choice(names))
    if isinstance(value, str) and dice.random() < 0.3:
        value = dice.choice(
            [
                value.replace(account, f"{account[:3]}*"),
                value.replace(account, f"{account[:-1]}?"),
                value.replace(":iam:", ":*:"),
                value.replace("arn:", "ARN:"),
                value[: len(value) // 2] + "*",
            ]
        )
    operator = dice.choice(["StringNotLike"] * 3 + ["ArnNotLike"] * 2 + ["ArnNotEquals"])
    return [{f"{operator}{dice.choice(['', '', 'IfExists'])}": {"aws:PrincipalArn": value}}]


def addresses(dice: Random, _: Arn) -> list[Json]:
    """Spare, or refuse, addresses of both families."""
    networks = [
        *("0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8", "10.1.2.3", "10.1.2.3/8"),
        *("::ffff:10.0.0.0/104", "::ffff:0:0/96", "2001:DB8::/32", "2001:db8::1", "::/1"),
        *("8000::/1", "255.255.255.255", "0.0.0.0/32", "300.1.1.1/8", "10.0.0.0/33"),
    ]
    readable = networks[:-2] if dice.random() < 0.9 else networks
    key = dice.choice(["aws:SourceIp", "aws:SourceIp", "aws:VpcSourceIp", LEVEL])
    if dice.random() < 0.5:
        if_exists = dice.choice(["IfExists", "IfExists", ""])
        chosen = dice.sample(readable, dice.choice([1, 2, 3]))
        if dice.random() < 0.3:
            chosen = ["0.0.0.0/1", "128.0.0.0/1", *(["::/0"] if dice.random() < 0.5 else [])]
        return [{f"IpAddress{if_exists}": {key: each}} for each in chosen]
    return [{"NotIpAddress": {key: dice.sample(readable, dice.choice([1, 1, 2]))}}]


def binaries(dice: Random, _: Arn) -> list[Json]:
    """Refuse binary values."""
    key = dice.choice(["kms:Blob", LEVEL, "kms:RecipientAttestation:PCR3"])
    value = dice.choice(["QUJD", "QmluYXJ5", "", "not base64", "ab" * 48, "QUJD\n"])
    found = [{f"BinaryEquals{dice.choice(['', 'IfExists'])}": {key: value}}]
    return found + ([{"StringNotEquals": {key: value}}] if dice.random() < 0.4 else [])


def booleans(dice: Random, _: Arn) -> list[Json]:
    """Refuse booleans in unusual spellings and types."""
    key = dice.choice(
        ["aws:ViaAWSService", "aws:MultiFactorAuthPresent", LEVEL, "aws:SecureTransport"]
    )
    words: list[Any] = ["TRUE", "False", "tRuE", "true", "false", True, False]
    if dice.random() < 0.1:
        words = ["1", "yes", "", 1, " true"]
    if_exists = dice.choice(["IfExists", "IfExists", ""])
    return [
        {f"Bool{if_exists}": {key: dice.choice(words)}} for _ in range(dice.choice([1, 1, 2, 2]))
    ]


def empties(dice: Random, _: Arn) -> list[Json]:
    """Compare with nothing, with empty texts, and by empty operators."""
    operator = dice.choice(
        [
            *("StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "Null"),
            *("ForAllValues:StringEquals", "ForAnyValue:StringNotEquals", "NumericNotEquals"),
            "ArnNotLike",
        ]
    )
    key = dice.choice(["aws:PrincipalTag/team", "kms:EncryptionContextKeys", "aws:userid"])
    value = dice.choice([[], [], "", "", ["", "x"]])
    return [dice.choice([{operator: {key: value}}] * 4 + [{operator: {}}, {}])]


def wildcards(dice: Random, _: Arn) -> list[Json]:
    """Spare values with wildcards and IAM's escapes of them."""
    key = dice.choice(["aws:PrincipalTag/team", "aws:userid", "kms:ViaService", "aws:SourceVpc"])
    patterns = [
        *("*", "?", "??*", "*a", "*?b?*", "**", "a*b*", "bl?e", "Bl*", "é*", "* ", "\\*", "[a-z]*"),
        *("a${*}b", "${?}", "${$}", "${*}*", "bl${?}e"),
    ]
    positive = dice.random() < 0.3
    operator = "StringLike" if positive else "StringNotLike"
    chosen = _some(dice, patterns)
    operator += dice.choice(["", "", "IfExists"])
    found: list[Json] = [{operator: {key: chosen}}]
    if dice.random() < 0.3:
        found.append({f"String{dice.choice(['', 'Not'])}Equals": {key: dice.choice(patterns)}})
    return found


def variables(dice: Random, _: Arn) -> list[Json]:
    """Compare with policy variables, with and without a default."""
    names = [
        *("${aws:username}", "${aws:PrincipalTag/team}", "${aws:PrincipalTag/team, 'none'}"),
        *("x-${aws:PrincipalAccount}", "${aws:PrincipalAccount", "${}", "${saml:sub}*"),
    ]
    operator = dice.choice(["StringNotEquals", "StringNotLike", "StringEquals", "ArnNotLike"])
    return [{operator: {dice.choice(["aws:userid", "aws:PrincipalArn"]): dice.choice(names)}}]


def other_registers(dice: Random, _: Arn) -> list[Json]:
    """Refuse values of registers, beside the image."""
    register = dice.choice(["PCR1", "PCR3", "PCR8", "PCR16", "NitroTPMPCR7", "NitroTPMPCR12"])
    key = f"kms:RecipientAttestation:{register}"
    values = dice.choice(["0" * 96, "ab" * 48, ["1" * 96, "2" * 96], "AB" * 48, "*", "0*"])
    operator = dice.choice(["StringNotEquals", "StringNotEqualsIgnoreCase", "StringNotLike"])
    return [dice.choice([{operator: {key: values}}, {"Null": {key: "false"}}])]


KINDS = [
    *([intervals] * 5 + [also_measured] * 4 + [many_values] * 3 + [principals] * 3),
    *(long_values, long_values, addresses, addresses, binaries, booleans, empties),
    *(wildcards, wildcards, other_registers),
]
"""Frequent kinds are those that depend on more values."""
RARE = variables
"""Nothing is proved about policy variables, so they are drawn seldom."""


def unusual(dice: Random, arn: Arn) -> list[Json]:
    """Return the conditions of one kind, sometimes of two."""
    kind = RARE if dice.random() < 0.02 else dice.choice(KINDS)
    found = kind(dice, arn)
    if dice.random() < 0.2 and len(found) == 1:
        other = dice.choice(KINDS)(dice, arn)
        return [merged(found[0], each) for each in other]
    return found


def merged(*conditions: Json) -> Json:
    """Return a Condition element that holds when all *conditions* hold."""
    found: Json = {}
    for condition in conditions:
        for operator, keys in condition.items():
            found.setdefault(operator, {}).update(keys)
    return found


def recased(dice: Random, condition: Json) -> Json:
    """Return *condition* with its keys in other letters; keys are compared ignoring case."""
    change = dice.choice([str.lower, str.upper, str.title])
    return {
        operator: {change(key): value for key, value in keys.items()}
        for operator, keys in condition.items()
    }


def _some(dice: Random, items: list[Any]) -> list[Any]:
    return dice.sample(items, dice.randint(1, min(3, len(items))))
