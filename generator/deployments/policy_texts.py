"""Policies that are texts in a template: JSON with parameters inside its strings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from generator import nodes
from generator.deployments.comparisons import is_empty, joined
from generator.deployments.formulas import Symbol, Text
from generator.deployments.languages import (
    ANY_CHARACTER,
    both,
    characters,
    either,
    one_of,
    others,
    repeat,
)
from generator.deployments.symbolic import Composed, Opaque
from generator.nodes import unique_json

if TYPE_CHECKING:
    from collections.abc import Mapping

_FIRST_MARK, _MARKS_MAX = 0xE000, 6400
"""Unicode's private-use characters, each in place of a parameter while JSON is decoded."""
_JSON_TEXT = repeat(both(ANY_CHARACTER, others(either(one_of('"\\'), characters((0, 31))))))
"""Texts that can neither end a string in JSON nor begin an escape."""


def parsed_text(text: Text) -> object:
    """Decode a policy that is a text, keeping its symbols; Opaque, with a reason, if impossible."""
    symbols = [piece for piece in text if isinstance(piece, Symbol)]
    for symbol in symbols:
        if not _json_safe(symbol):
            why = f"{symbol.name} may close a string in the policy's text and add statements"
            return Opaque(symbol.why or why)
    if len(symbols) > _MARKS_MAX:
        return Opaque("the policy's text has too many parameters")
    marks = {chr(_FIRST_MARK + index): symbol for index, symbol in enumerate(symbols)}
    numbered = iter(marks)
    raw = "".join(piece if isinstance(piece, str) else next(numbered) for piece in text)
    try:
        document = unique_json(raw)
    except (ValueError, RecursionError):
        return Opaque("the policy's text is not JSON, or has the same key twice in one object")
    found = [mark for text in nodes.texts(document) for mark in text if mark in marks]
    keys = {mark for _, node in nodes.walk(document) for key in nodes.mapping(node) for mark in key}
    if sorted(found) != [*marks] or keys & set(marks):
        return Opaque("the policy's text has a parameter in a key, or a private-use character")
    return _with_symbols(document, marks)


def _with_symbols(node: object, marks: Mapping[str, Symbol]) -> object:
    if isinstance(node, str) and marks:
        pieces_ = re.split(f"([{''.join(marks)}])", node)
        if len(pieces_) > 1:
            return Composed(joined([marks.get(piece, piece) for piece in pieces_]))
    if isinstance(node, dict):
        return {key: _with_symbols(value, marks) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_symbols(value, marks) for value in node]
    return node


def _json_safe(symbol: Symbol) -> bool:
    """Return whether no value of *symbol* ends a string in JSON or begins an escape."""
    return not symbol.why and is_empty(both(symbol.language, others(_JSON_TEXT)))
