"""Dynamic references: texts that CloudFormation replaces by what a service stores.

``{{resolve:ssm:name}}`` is resolved after all functions, wherever the text came from. So a text
that contains one, or that a parameter may complete to one, is a value from outside the template.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/dynamic-references.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from generator.deployments.formulas import Symbol, Text
from generator.deployments.languages import (
    ALL,
    Language,
    TooLargeError,
    both,
    concat,
    literal,
    shortest,
)
from generator.nodes import walk

if TYPE_CHECKING:
    from collections.abc import Sequence

START = "{{resolve:"
_CONTAINS = concat(ALL, literal(START), ALL)
_BEGUN = tuple(START[:length] for length in range(1, len(START)))
REASON = "a dynamic reference ({{resolve:...}}) is resolved by CloudFormation"


def is_dynamic(text: object) -> bool:
    """Return whether *text* contains a dynamic reference."""
    return START in str(text)


def resolved(text: Text) -> Text:
    """Return *text*, or a symbol for any text in its place, if it may be resolved."""
    return (Symbol("a dynamic reference", why=REASON),) if _may_resolve(text) else text


def _may_resolve(text: Sequence[str | Symbol]) -> bool:
    for piece, following in zip(text, (*text[1:], ""), strict=True):
        if isinstance(piece, str) and START in piece:
            return True
        if isinstance(piece, str) and isinstance(following, Symbol) and piece.endswith(_BEGUN):
            return True
    return False


def is_within(node: object) -> bool:
    """Return whether a text inside *node*, or a key, contains or begins a dynamic reference."""
    return any(
        "{{" in found if isinstance(found, str) else is_keyed(found) for _, found in walk(node)
    )


def is_keyed(node: object) -> bool:
    """Return whether a key of the mapping *node* contains a dynamic reference."""
    return isinstance(node, dict) and any(is_dynamic(key) for key in node)


def admitted(language: Language, longest: int | None) -> bool:
    """Return whether a text in *language* may contain a dynamic reference."""
    if not _may_contain(language, START[0]):
        return False  # most patterns: found without a search
    try:
        return shortest(both(language, _CONTAINS), longest) is not None
    except TooLargeError:
        return True


def _may_contain(language: Language, character: str) -> bool:
    """Return False if, as *language* is written, *character* is in none of its texts."""
    parts = [part for part in language.parts if isinstance(part, Language)]
    while language.kind == "concat":  # the tail of a long text is nested deeply
        first, language = parts
        if _may_contain(first, character):
            return True
        parts = [part for part in language.parts if isinstance(part, Language)]
    if language.kind in ("any", "repeat"):
        return any(_may_contain(part, character) for part in parts)
    if language.kind == "all":
        return all(_may_contain(part, character) for part in parts)
    return language.kind in ("not", "until") or character in language
