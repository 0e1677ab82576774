"""How a policy's values compare with a request's, in three-valued logic.

Text with wildcards and IAM's condition operators, for ``generator.policy.evaluation``. A comparison
is true, false, or an ``Unknown`` that says why it is not known.

Sources, below https://docs.aws.amazon.com/IAM/latest/UserGuide/:
    reference_policies_elements_condition_operators.html
    reference_policies_condition-single-vs-multi-valued-context-keys.html
    reference_policies_variables.html
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import functools
import ipaddress
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""Inside a string: text that is not known before deployment. IAM forbids the character itself."""


@dataclass(frozen=True)
class Unknown:
    """Neither true nor false; ``why`` is the reason."""

    why: str

    def __bool__(self) -> NoReturn:
        """Raise: an unknown must not be used as a bool by mistake."""
        raise TypeError(f"neither true nor false: {self.why}")


Truth: TypeAlias = bool | Unknown


def not_(truth: Truth) -> Truth:
    """Negate; an unknown stays unknown."""
    return truth if isinstance(truth, Unknown) else not truth


def any_(truths: Iterable[Truth]) -> Truth:
    """Return True if one is true, else the first unknown, else False (Kleene's logic)."""
    verdict: Truth = False
    for truth in truths:
        if truth is True:
            return True
        if verdict is False:
            verdict = truth
    return verdict


def all_(truths: Iterable[Truth]) -> Truth:
    """Return False if one is false, else the first unknown, else True."""
    return not_(any_(map(not_, truths)))


def listed(value: object) -> Sequence[object]:
    """Return a policy's list; IAM accepts a single value in place of a list of one."""
    return value if isinstance(value, (list, tuple)) else [value]


# --- text ----------------------------------------------------------------------------------------


def matches(
    pattern: object, value: str, *, wildcards: bool = False, ignore_case: bool = False
) -> Truth:
    """Compare the whole *value* with *pattern*; with *wildcards*, ``*`` and ``?`` are special.

    UNKNOWN and policy variables (``${...}``) may be any text: then a match is never certain, but a
    mismatch of the rest is.
    """
    if not isinstance(pattern, str):
        return Unknown(f"{pattern!r} is not a text")
    return _text_matches(pattern, value, wildcards=wildcards, ignore_case=ignore_case)


@functools.lru_cache(maxsize=4096)
def _text_matches(pattern: str, value: str, *, wildcards: bool, ignore_case: bool) -> Truth:
    if wildcards and pattern == "*":
        return True
    if UNKNOWN in value:
        known = value.partition(UNKNOWN)[0].lower()
        if not re.search(f"[*?${UNKNOWN}]", pattern) and not pattern.lower().startswith(known):
            return False
        return Unknown(f"the value compared with {_shown(pattern)} is not known")
    expression, certain = _expression(pattern, wildcards=wildcards, ignore_case=ignore_case)
    if not expression.fullmatch(value):
        return False
    return certain or Unknown(f"the value of {_shown(pattern)} is not known")


def _expression(
    pattern: str, *, wildcards: bool, ignore_case: bool
) -> tuple[re.Pattern[str], bool]:
    """Translate *pattern*, and return whether all of it is known."""
    certain = True
    translated = []
    for part in re.findall(r"\$\{[^}]*\}|.", pattern, re.DOTALL):
        if part in ("${*}", "${?}", "${$}"):
            translated.append(re.escape(part[2]))
        elif part == UNKNOWN or part.startswith("${"):
            certain = False
            translated.append(".*")
        elif wildcards and part in "*?":
            translated.append({"*": ".*", "?": "."}[part])
        else:
            translated.append(re.escape(part))
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else re.NOFLAG)
    return re.compile("".join(translated), flags), certain


def _shown(text: str) -> str:
    return repr(text.replace(UNKNOWN, "…"))


# --- condition operators -------------------------------------------------------------------------

Comparison: TypeAlias = Callable[[str, str], Truth]  # compares the policy's value, the request's


def _text(*, wildcards: bool = False, ignore_case: bool = False) -> Comparison:
    return functools.partial(matches, wildcards=wildcards, ignore_case=ignore_case)


def _parsed(parse: Callable[[str], object], compare: Callable[..., bool]) -> Comparison:
    """Compare both sides after *parse*; *compare* gets the request's value first."""

    def comparison(expected: str, value: str) -> Truth:
        try:
            return compare(parse(value), parse(expected))
        except (ValueError, TypeError, OverflowError):
            return Unknown(f"{_shown(value)} and {_shown(expected)} cannot be compared")

    return comparison


def parse_number(text: str) -> decimal.Decimal:
    """Read a number of the operators for numbers.

    Raises:
        ValueError: *text* is not one.
    """
    if not re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", text):
        raise ValueError(text)
    return decimal.Decimal(text)


def parse_date(text: str) -> dt.datetime:
    """Read a date, with a time and its zone or without, or seconds since 1970.

    Raises:
        ValueError: *text* is neither. Other forms of ISO 8601 are not among those that AWS names.
        OverflowError: it is too many seconds.

    Source: https://www.w3.org/TR/NOTE-datetime
    """
    if re.fullmatch(r"[0-9]{5,}", text):
        return dt.datetime.fromtimestamp(float(text), dt.UTC)
    if not _DATE.fullmatch(text):
        raise ValueError(text)
    date = dt.datetime.fromisoformat(text)
    return date if date.tzinfo else date.replace(tzinfo=dt.UTC)


_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?(Z|[+-][0-9]{2}:[0-9]{2}))?"
)
_CIDR = re.compile(r"[0-9a-fA-F:.]+(/[0-9]{1,3})?")


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    if not _CIDR.fullmatch(text):  # Python also reads masks, and zones of addresses
        raise ValueError(text)
    return ipaddress.ip_network(text, strict=False)


def _within(
    address: ipaddress.IPv4Network | ipaddress.IPv6Network,
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> bool:
    return address[0] in network and address[-1] in network


_VARIABLE = re.compile(r"\$\{[^}]*\}")
_ARN_SECTIONS = 6  # arn:partition:service:region:account:resource


def _arn(pattern: str, value: str) -> Truth:
    """Compare section by section: a wildcard does not reach across a colon."""
    if _VARIABLE.sub("", pattern).count(":") < _ARN_SECTIONS - 1:
        return Unknown(f"{_shown(pattern)} is not an ARN")
    if UNKNOWN in pattern + value or "${" in pattern:
        return matches(pattern, value, wildcards=True)
    sections, parts = pattern.split(":", 5), value.split(":", 5)
    if not len(sections) == len(parts) == _ARN_SECTIONS:
        return Unknown(f"{_shown(value)} and {_shown(pattern)} are not both ARNs")
    return all_(matches(s, p, wildcards=True) for s, p in zip(sections, parts, strict=True))


POSITIVE: Mapping[str, Comparison] = {
    "StringEquals": _text(),
    "StringEqualsIgnoreCase": _text(ignore_case=True),
    "StringLike": _text(wildcards=True),
    "NumericEquals": _parsed(parse_number, operator.eq),
    "NumericLessThan": _parsed(parse_number, operator.lt),
    "NumericLessThanEquals": _parsed(parse_number, operator.le),
    "NumericGreaterThan": _parsed(parse_number, operator.gt),
    "NumericGreaterThanEquals": _parsed(parse_number, operator.ge),
    "DateEquals": _parsed(parse_date, operator.eq),
    "DateLessThan": _parsed(parse_date, operator.lt),
    "DateLessThanEquals": _parsed(parse_date, operator.le),
    "DateGreaterThan": _parsed(parse_date, operator.gt),
    "DateGreaterThanEquals": _parsed(parse_date, operator.ge),
    "Bool": _parsed(_boolean, operator.eq),
    "BinaryEquals": _parsed(functools.partial(base64.b64decode, validate=True), operator.eq),
    "IpAddress": _parsed(_network, _within),
    "ArnEquals": _arn,
    "ArnLike": _arn,
}
NEGATED: Mapping[str, str] = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "NumericNotEquals": "NumericEquals",
    "DateNotEquals": "DateEquals",
    "NotIpAddress": "IpAddress",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
}


Values: TypeAlias = str | Sequence[str]
"""A condition key's value in a request: a text if single-valued, a sequence if multivalued."""


def condition_holds(condition: object, values: Callable[[str], Values | Unknown]) -> Truth:
    """Evaluate a Condition element: every operator and every key in it must hold.

    Args:
        condition: operator -> key -> value or values, of which one must match.
        values: what the request carries under a key; ``()`` if it does not carry it.
    """
    if not isinstance(condition, Mapping):
        return Unknown("its condition is not known")
    tests: list[Truth] = []
    for name, keys in condition.items():
        if isinstance(keys, Mapping):
            tests += [
                _holds(str(name), expected, values(str(key))) for key, expected in keys.items()
            ]
        else:
            tests.append(Unknown(f"the condition keys of {name} are not known"))
    return all_(tests)


def _holds(name: str, expected: object, values: Values | Unknown) -> Truth:
    quantifier, _, rest = name.rpartition(":")
    base = rest.removesuffix("IfExists")
    comparison = POSITIVE.get(NEGATED.get(base, base))
    if name == "Null" and not isinstance(values, Unknown):
        comparison, values = _text(ignore_case=True), str(values == ()).lower()
    elif comparison is None or quantifier not in ("", "ForAllValues", "ForAnyValue"):
        return Unknown(f"{name} is not a condition operator that this evaluation knows")
    if isinstance(values, Unknown):
        return values
    if values == ():
        return _holds_without_key(quantifier, negated=base in NEGATED, if_exists=base != rest)
    if not quantifier and not isinstance(values, str):
        return Unknown(f"{name} compares one value, and a multivalued key needs a set operator")

    wanted = [_json_text(item) for item in listed(expected)]
    held = [any_(comparison(item, str(value)) for item in wanted) for value in listed(values)]
    if base in NEGATED:
        held = [not_(truth) for truth in held]
    return any_(held) if quantifier == "ForAnyValue" else all_(held)


def _holds_without_key(quantifier: str, *, negated: bool, if_exists: bool) -> Truth:
    """Return whether a missing key satisfies an operator: negated, IfExists and ForAllValues do."""
    if quantifier == "ForAnyValue":
        return Unknown("AWS does not say what IfExists adds to ForAnyValue") if if_exists else False
    return quantifier == "ForAllValues" or if_exists or negated


def _json_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (str, int, float)) else UNKNOWN
