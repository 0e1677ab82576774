"""A parameter's possible values: its type, lengths, allowed values and pattern as a language.

``domain`` may be wider than what CloudFormation accepts, if a pattern is not translated or a type
has rules of its own; ``admits`` checks one value against the real pattern.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/parameters-section-structure.html
"""

from __future__ import annotations

import functools
import math
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import regex

from generator.deployments import dynamic_references, patterns
from generator.deployments.languages import (
    ALL,
    ANY_CHARACTER,
    EMPTY,
    Language,
    TooLargeError,
    both,
    characters,
    either,
    example,
    literal,
    none_of,
    one_of,
    repeat,
)
from generator.policy.operators import Truth, Unknown, listed

if TYPE_CHECKING:
    from collections.abc import Mapping

PATTERN_SECONDS = 0.5
"""An ordinary pattern needs a few microseconds for one value."""
VALUE_MAX = 4096
"""Bytes of a parameter's value."""
MIN_LENGTH_MAX = 256
"""A longer MinLength is not encoded; ``admits`` refuses values that are too short."""

_NUMBER = repeat(either(characters((48, 57)), one_of("+-.eE")), 1)
_ITEM = repeat(none_of(one_of(",")))


@dataclass(frozen=True)
class Domain:
    """The texts that a parameter, or an item of a list, may be."""

    language: Language
    longest: int | None
    is_list: bool
    usual: tuple[str, ...] = ()


def domain(declaration: Mapping[str, object]) -> Domain:
    """Return the language of the parameter with this *declaration*, or a superset."""
    kind = str(declaration.get("Type"))
    is_list = kind == "CommaDelimitedList" or "List<" in kind or "<CommaDelimitedList>" in kind
    default = declaration.get("Default")
    usual = () if default is None else tuple(str(each).strip() for each in _split(default, is_list))
    if kind.startswith("AWS::SSM::"):  # the constraints are about its name, not its value
        return Domain(_ITEM if is_list else ALL, None, is_list)
    allowed = declaration.get("AllowedValues")
    if isinstance(allowed, list) and allowed:
        texts = _allowed(allowed, is_list=is_list)
        if any(map(dynamic_references.is_dynamic, texts)):
            return _resolved(is_list=is_list, usual=usual)
        return Domain(either(*map(literal, texts)), None, is_list, usual)
    language = _NUMBER if "Number" in kind else _ITEM if is_list else ALL
    language = both(language, _by_pattern(declaration.get("AllowedPattern")))
    lowest, longest = _length(declaration, "MinLength"), _length(declaration, "MaxLength")
    if lowest and not is_list and lowest <= MIN_LENGTH_MAX:
        language = both(language, repeat(ANY_CHARACTER, lowest))
    constrained = language is not ALL or longest is not None
    if constrained and dynamic_references.admitted(language, longest):
        return _resolved(is_list=is_list, usual=usual or _shortest(language, longest))
    return Domain(language, None if is_list else longest or VALUE_MAX, is_list, usual)


def _resolved(*, is_list: bool, usual: tuple[str, ...]) -> Domain:
    """Return the domain of a parameter that may be a dynamic reference: any text.

    Its constraints are about the reference, as those of an SSM parameter's name.
    """
    return Domain(_ITEM if is_list else ALL, None, is_list, usual)


def _shortest(language: Language, longest: int | None) -> tuple[str, ...]:
    try:
        found = example(language, longest)
    except TooLargeError:
        return ()
    return () if found is None else (found,)


def _allowed(values: list[object], *, is_list: bool) -> list[str]:
    return [str(item).strip() for value in values for item in _split(value, is_list)]


def _split(value: object, is_list: bool) -> list[object]:  # noqa: FBT001 - private
    return [*str(value).split(",")] if is_list else [value]


def _by_pattern(pattern: object) -> Language:
    if pattern is None:
        return ALL
    try:
        found = patterns.language(str(pattern))
    except patterns.UntranslatableError:
        return ALL
    return ALL if found is EMPTY else found


def _length(declaration: Mapping[str, object], name: str) -> int | None:
    text = str(declaration.get(name, ""))
    return int(text) if re.fullmatch(r"[0-9]{1,5}", text) else None


def admits(declaration: Mapping[str, object], text: str) -> Truth:
    """Return whether a parameter's type, lengths and pattern admit *text* or a list's item."""
    kind, pattern = str(declaration.get("Type")), declaration.get("AllowedPattern")
    if kind.startswith("AWS::SSM::"):
        return Unknown("the constraints are about the name of an SSM parameter, not its value")
    if "Number" in kind and not re.fullmatch(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", text):
        return False
    lowest, highest = declaration.get("MinLength", 0), declaration.get("MaxLength", math.inf)
    try:
        if not float(str(lowest)) <= len(text) <= float(str(highest)):
            return False
    except ValueError:
        return Unknown("a length is not a number")
    return True if pattern is None else _pattern_admits(str(pattern), text)


def takes(declaration: Mapping[str, object], value: str | list[str]) -> Truth:
    """Return whether CloudFormation accepts *value* for a parameter, if that is known."""
    kind = str(declaration.get("Type"))
    if kind.startswith("AWS::SSM::"):  # whoever may write the SSM parameter decides
        return True
    allowed = declaration.get("AllowedValues")
    if isinstance(allowed, list) and allowed:
        texts = _allowed(allowed, is_list=domain(declaration).is_list)
        return all(str(each) in texts for each in listed(value))
    for each in listed(value):
        truth = admits(declaration, str(each))
        if truth is not True:
            return truth
    return True


@functools.cache
def _pattern_admits(pattern: str, text: str) -> Truth:
    try:
        return text in patterns.language(pattern)
    except patterns.UntranslatableError:
        pass
    try:
        with warnings.catch_warnings(action="error"):  # nested sets differ in Java
            re.compile(pattern)
            found = regex.fullmatch(pattern, text, timeout=PATTERN_SECONDS)
    except (re.error, regex.error, Warning, OverflowError, RecursionError):
        return Unknown("the pattern cannot be read")
    except TimeoutError:  # (a+)+ tries every way to divide the text
        return Unknown("the pattern takes too long")
    return found is not None
