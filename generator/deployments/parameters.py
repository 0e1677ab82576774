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
from generator.deployments.formulas import Items, Symbol
from generator.deployments.languages import (
    ALL,
    ANY_CHARACTER,
    EMPTY,
    Language,
    TooLargeError,
    alphabet,
    both,
    characters,
    concat,
    either,
    example,
    literal,
    none_of,
    one_of,
    repeat,
    shortest,
)
from generator.nodes import scalar_text
from generator.policy.operators import Truth, Unknown, listed

if TYPE_CHECKING:
    from collections.abc import Mapping

PATTERN_SECONDS = 0.5
"""An ordinary pattern needs a few microseconds for one value."""
_X_AND_P = [(ord(each), ord(each)) for each in "xXpP"]
VALUE_MAX = 4096
"""Bytes of a parameter's value."""
MIN_LENGTH_MAX = 256
"""A longer MinLength is not encoded; ``admits`` refuses values that are too short."""

_NUMBER = either(
    repeat(characters((0, 32), (43, 43), (45, 46), (48, 57), (65, 70), (97, 102), *_X_AND_P), 1),
    *(literal(f"{sign}{text}") for sign in ("", "+", "-") for text in ("NaN", "Infinity")),
)
"""What Java reads as a number: 1e3, 1f, 0x1p3, spaces around it, NaN. AWS documents no form."""
_ITEM = repeat(none_of(one_of(",")))
_TRIMMED = "".join(map(chr, range(ord(" ") + 1)))
_BEYOND_BMP = characters((0x10000, 0x10FFFF))
"""Characters that Java's length counts as two."""


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
    usual = () if default is None else tuple(_allowed([default], is_list=is_list) or ())
    if kind.startswith("AWS::SSM::"):  # the constraints are about its name, not its value
        return Domain(ALL, None, is_list)
    allowed = declaration.get("AllowedValues")
    if isinstance(allowed, list) and allowed:
        texts = _allowed(allowed, is_list=is_list)
        if texts is None or any(map(dynamic_references.is_dynamic, texts)):
            return Domain(ALL, None, is_list, usual)
        # A Number is compared as a number: 1.0 may be given where 1 is allowed.
        equal = _NUMBER if "Number" in kind else EMPTY
        return Domain(either(equal, *map(literal, texts)), None, is_list, usual)
    language = _NUMBER if "Number" in kind else _ITEM if is_list else ALL
    if kind in ("String", "CommaDelimitedList"):  # of others, AWS does not say that it counts
        language = both(language, _by_pattern(declaration.get("AllowedPattern")))
    if is_list and _may_be_trimmed(language):
        language = _ITEM
    longest = None
    if kind == "String":  # lengths are for String types
        lowest, longest = _length(declaration, "MinLength"), _length(declaration, "MaxLength")
        if lowest and lowest <= MIN_LENGTH_MAX:
            language = both(language, _not_shorter(language, lowest))
    constrained = language is not ALL or longest is not None
    if constrained and dynamic_references.admitted(language, longest):
        # Its constraints are about the reference, as those of an SSM parameter's name.
        return Domain(ALL, None, is_list, usual or _shortest(language, longest))
    return Domain(language, None if is_list else longest or VALUE_MAX, is_list, usual)


def _not_shorter(language: Language, lowest: int) -> Language:
    """Return texts of *lowest* characters or more, of which Java counts some as two."""
    found = repeat(ANY_CHARACTER, lowest)
    letters = (each for each in alphabet(language, _BEYOND_BMP) if each > "\uffff")
    if not any(dynamic_references.may_contain(language, each) for each in letters):
        return found
    with_some = concat(ALL, _BEYOND_BMP, ALL)
    return either(found, both(with_some, repeat(ANY_CHARACTER, (lowest + 1) // 2)))


def symbol_of(name: str, declaration: Mapping[str, object]) -> Symbol | Items:
    """Return the parameter *name* as a symbol, or as a list of symbols."""
    found = domain(declaration)
    symbol = Symbol(name, found.language, found.longest, usual=found.usual)
    return Items(name, symbol) if found.is_list else symbol


def _may_be_trimmed(language: Language) -> bool:
    """Return whether an item may have a space at an end, which CloudFormation removes.

    AWS does not say whether the pattern is for the item with its spaces or without, nor whether
    tabs and the like, which Java trims, too, are spaces.
    """
    if not any(dynamic_references.may_contain(language, each) for each in _TRIMMED):
        return False  # most patterns: found without a search
    space = one_of(_TRIMMED)
    spaced = either(concat(space, ALL), concat(ALL, space))
    try:
        return shortest(both(language, spaced)) is not None
    except TooLargeError:
        return True


def _shortest(language: Language, longest: int | None) -> tuple[str, ...]:
    try:
        found = example(language, longest)
    except TooLargeError:
        return ()
    return () if found is None else (found,)


def _allowed(values: list[object], *, is_list: bool) -> list[str] | None:
    """Return the texts of *values*, of a list those of its items; None if one is not certain.

    CloudFormation trims only the items of lists.
    """
    found: list[str] = []
    for value in values:
        text = scalar_text(value)
        if text is None:
            return None
        if not is_list:
            found.append(text)
        for each in text.split(",") if is_list else ():
            found += dict.fromkeys((each.strip(_TRIMMED), each.strip()))  # others may stay
    return found


def _by_pattern(pattern: object) -> Language:
    text = scalar_text(pattern)
    if not text:  # AWS does not say whether an empty pattern constrains anything
        return ALL
    try:
        found = patterns.language(text)
    except patterns.UntranslatableError:
        return ALL
    return ALL if found is EMPTY else found


def _length(declaration: Mapping[str, object], name: str) -> int | None:
    text = scalar_text(declaration.get(name, "")) or ""
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
    if pattern is None:
        return True
    expected = scalar_text(pattern)
    return _pattern_admits(expected, text) if expected else Unknown("the pattern is empty")


def takes(declaration: Mapping[str, object], value: str | list[str]) -> Truth:
    """Return whether CloudFormation accepts *value* for a parameter, if that is known."""
    kind = str(declaration.get("Type"))
    if kind.startswith("AWS::SSM::"):  # whoever may write the SSM parameter decides
        return True
    allowed = declaration.get("AllowedValues")
    if isinstance(allowed, list) and allowed:
        texts = _allowed(allowed, is_list=domain(declaration).is_list)
        if texts is None:
            return Unknown("an allowed value is a number whose text is not certain")
        return all(str(each) in texts for each in listed(value))
    for each in listed(value):
        if isinstance(value, list) and "," in str(each):
            return Unknown("only a dynamic reference can put a comma into an item of the list")
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
