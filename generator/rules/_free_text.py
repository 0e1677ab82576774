"""Whether a value that CloudFormation substitutes can contain a shell metacharacter."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from generator.nodes import mapping

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
    from re import _constants as codes  # type: ignore[attr-defined] # no stubs
    from re import _parser as parser  # type: ignore[attr-defined]

HARMLESS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.,:/@%+=")
"""Characters without a special meaning to a shell: letters, digits, and those of a path."""

NAMES_OF_AWS = re.compile(
    r"(?:List<)?(?:"
    r"AWS::EC2::(?:AvailabilityZone::Name|(?:Image|Instance|SecurityGroup|Subnet|Volume|VPC)::Id)"
    r"|AWS::Route53::HostedZone::Id|AWS::SSM::Parameter::Name|Number)>?"
)
"""Types whose values AWS assigns or checks: identifiers and numbers.

``AWS::EC2::KeyPair::KeyName`` and ``AWS::EC2::SecurityGroup::GroupName`` are not among them: users
choose these names, which may include spaces and ampersands.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-supplied-parameter-types.html
"""
_SSM_VALUE = re.compile(r"AWS::SSM::Parameter::Value<(.*)>")


def holds_shell_characters(origin: str, template: Mapping[str, object]) -> bool:
    """Return whether a value from *origin*, see `substituted`, may contain such a character.

    Pseudo parameters cannot: regions, accounts, partitions, suffixes and stack names consist of
    letters, digits, hyphens and dots. Nor can names that AWS assigns (resources and their
    attributes), numbers, and parameters with AllowedValues.
    """
    if origin.startswith("{{resolve:"):
        return True
    declaration = mapping(template.get("Parameters")).get(origin)
    return isinstance(declaration, Mapping) and _is_free(declaration)


def _is_free(declaration: Mapping[str, object]) -> bool:
    kind = str(declaration.get("Type", "String"))
    if found := _SSM_VALUE.fullmatch(kind):
        # Constraints apply to the SSM parameter's name, but AWS checks values of its own types.
        return not NAMES_OF_AWS.fullmatch(found[1])
    if NAMES_OF_AWS.fullmatch(kind) or isinstance(declaration.get("AllowedValues"), list):
        return False
    pattern = declaration.get("AllowedPattern")
    return pattern is None or not _matches_only_harmless(str(pattern))


@lru_cache(maxsize=64)
def _matches_only_harmless(pattern: str) -> bool:
    """Return whether every text that *pattern* fully matches consists of HARMLESS characters.

    Look-around assertions are ignored, and a pattern that cannot be parsed is not harmless.
    """
    try:
        with warnings.catch_warnings(action="error"):  # nested sets differ in Java
            parsed = parser.parse(pattern)
            return _harmless(parsed)
    except (re.error, Warning, OverflowError, RecursionError):
        return False


def _harmless(sequence: Iterable[tuple[object, Any]]) -> bool:
    return all(_token_is_harmless(code, argument) for code, argument in sequence)


def _token_is_harmless(code: object, argument: Any) -> bool:  # noqa: ANN401, PLR0911 - a table of tokens, as re parses them
    match code, argument:
        case (codes.AT | codes.ASSERT | codes.ASSERT_NOT | codes.GROUPREF, _):
            return True
        case (codes.LITERAL, int() as point):
            return chr(point) in HARMLESS
        case (codes.IN, list() as members):
            return all(_member_is_harmless(*member) for member in members)
        case (codes.MAX_REPEAT | codes.MIN_REPEAT | codes.POSSESSIVE_REPEAT, (_, _, inner)):
            return _harmless(inner)
        case (codes.SUBPATTERN, (_, flags, _, inner)):
            return not flags and _harmless(inner)
        case (codes.ATOMIC_GROUP, inner):
            return _harmless(inner)
        case (codes.BRANCH, (_, branches)):
            return all(map(_harmless, branches))
    return False


def _member_is_harmless(code: object, argument: object) -> bool:
    if code is codes.LITERAL and isinstance(argument, int):
        return chr(argument) in HARMLESS
    if code is codes.RANGE and isinstance(argument, tuple):
        low, high = argument
        return high - low < len(HARMLESS) and all(
            chr(point) in HARMLESS for point in range(low, high + 1)
        )
    # In Java \d and \w are the ASCII ones.
    return code is codes.CATEGORY and argument in (codes.CATEGORY_DIGIT, codes.CATEGORY_WORD)
