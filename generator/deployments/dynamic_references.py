"""Dynamic references: texts that CloudFormation replaces by what a service stores.

``{{resolve:ssm:name}}`` is resolved after all functions, wherever the text came from. So a text
that contains one, or that a parameter may complete to one, is a value from outside the template.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/dynamic-references.html
"""

from __future__ import annotations

import functools
import re
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
_END = "}}"
_PARTS = range(1, len(START))
_SUBSTITUTED = re.compile(r"\$\{[^{}]*\}")
REASON = "a dynamic reference ({{resolve:...}}) is resolved by CloudFormation"


def is_dynamic(text: object) -> bool:
    """Return whether *text* contains a dynamic reference."""
    return START in str(text)


def resolved(text: Text) -> Text:
    """Return *text*, or a symbol for any text in its place, if it may be resolved."""
    return (Symbol("a dynamic reference", why=REASON),) if _may_resolve(text) else text


def _may_resolve(text: Sequence[str | Symbol]) -> bool:
    """Return whether pieces may compose a dynamic reference that none of them contains.

    One inside a symbol needs no attention: the symbol's language then is any text.
    """
    if any(isinstance(piece, str) and START in piece for piece in text):
        return True
    return any(_continues(text[index + 1 :], _begun(piece)) for index, piece in enumerate(text))


def _begun(piece: str | Symbol) -> set[int]:
    """Return how many characters of START may be the end of *piece*; all, if it contains START."""
    if isinstance(piece, str):
        return {length for length in _PARTS if piece.endswith(START[:length])}
    if not may_contain(piece.language, START[0]):
        return set()  # most symbols: found without a search
    ends = {length for length in _PARTS if _meets(piece, concat(ALL, literal(START[:length])))}
    return ends | ({len(START)} if _meets(piece, _CONTAINS) else set())


def _continues(rest: Sequence[str | Symbol], begun: set[int]) -> bool:
    """Return whether *rest* may complete and end a reference of which a part has *begun*."""
    for piece in rest:
        following: set[int] = set()
        for length in begun:
            if length == len(START):
                if _may_end(piece):
                    return True
                following.add(length)
                continue
            if _may_begin(piece, START[length:]):
                after = piece[len(START) - length :] if isinstance(piece, str) else piece
                if _may_end(after):
                    return True
                following.add(len(START))
            following |= {
                longer
                for longer in range(length, len(START))
                if _may_be(piece, START[length:longer])
            }
        begun = following
        if not begun:
            return False
    return False


def _may_end(piece: str | Symbol) -> bool:
    """Return whether *piece* may have a character of the reference's end."""
    if isinstance(piece, str):
        return _END[0] in piece
    return may_contain(piece.language, _END[0])


def _may_begin(piece: str | Symbol, start: str) -> bool:
    if isinstance(piece, str):
        return piece.startswith(start)
    return _meets(piece, concat(literal(start), ALL))


def _may_be(piece: str | Symbol, text: str) -> bool:
    return piece == text if isinstance(piece, str) else text in piece.language


@functools.lru_cache(maxsize=10_000)
def _meets(symbol: Symbol, language: Language) -> bool:
    try:
        return shortest(both(symbol.language, language), symbol.longest) is not None
    except TooLargeError:
        return True


def is_within(node: object) -> bool:
    """Return whether a text inside *node*, or a key, has what may begin a dynamic reference."""
    return any(
        START[0] in _SUBSTITUTED.sub("", found) if isinstance(found, str) else is_keyed(found)
        for _, found in walk(node)
    )


def is_keyed(node: object) -> bool:
    """Return whether a key of the mapping *node* contains a dynamic reference."""
    return isinstance(node, dict) and any(is_dynamic(key) for key in node)


def admitted(language: Language, longest: int | None) -> bool:
    """Return whether a text in *language* may contain a dynamic reference."""
    if not may_contain(language, START[0]):
        return False  # most patterns: found without a search
    try:
        return shortest(both(language, _CONTAINS), longest) is not None
    except TooLargeError:
        return True


def may_contain(language: Language, character: str) -> bool:
    """Return False if, as *language* is written, *character* is in none of its texts."""
    parts = [part for part in language.parts if isinstance(part, Language)]
    while language.kind == "concat":  # the tail of a long text is nested deeply
        first, language = parts
        if may_contain(first, character):
            return True
        parts = [part for part in language.parts if isinstance(part, Language)]
    if language.kind in ("any", "repeat"):
        return any(may_contain(part, character) for part in parts)
    if language.kind == "all":
        return all(may_contain(part, character) for part in parts)
    return language.kind in ("not", "until") or character in language
