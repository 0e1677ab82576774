"""Texts that a template splits into lists."""

from __future__ import annotations

import functools

from generator.deployments import dynamic_references
from generator.deployments.formulas import Items, Symbol
from generator.deployments.languages import TooLargeError, none_of, one_of, pieces, repeat


@functools.lru_cache(maxsize=256)
def split_symbol(symbol: Symbol, delimiter: str) -> Items:
    """Return a text split into a list: any text between delimiters is a possible item.

    An item that is a dynamic reference becomes any text, with or without delimiters.
    """
    name = f"{symbol.name} split at {delimiter}"
    if dynamic_references.admitted(symbol.language, symbol.longest):
        return Items(name, Symbol(name), symbol, delimiter)
    try:
        language = pieces(symbol.language, delimiter)
    except TooLargeError:
        language = repeat(none_of(one_of(delimiter)))
    return Items(name, Symbol(name, language, symbol.longest), symbol, delimiter)
