"""The texts that a node of a template may be, as far as the template lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from generator.deployments.comparisons import is_known, known
from generator.deployments.formulas import Symbol, Text
from generator.deployments.symbolic import Opaque, Template
from generator.nodes import mapping, scalar_text
from generator.policy.operators import UNKNOWN, listed

if TYPE_CHECKING:
    from collections.abc import Mapping


def possible_texts(template: Mapping[str, object], node: object) -> list[str]:
    """Return the texts that *node* may be; UNKNOWN among them if it may be another one."""
    found: list[str] = []
    for _, text in Template(template).texts(node):
        if isinstance(text, Opaque):
            found.append(UNKNOWN)
        elif is_known(text):
            found.append(known(text))
        else:
            found += _values_of(template, text)
    return [*dict.fromkeys(found)]


def _values_of(template: Mapping[str, object], text: Text) -> list[str]:
    """Return the values that a text of one parameter may have, if they are listed."""
    declared = mapping(template.get("Parameters"))
    piece = text[0]
    if len(text) != 1 or not isinstance(piece, Symbol):
        return [UNKNOWN]
    allowed = mapping(declared.get(piece.name)).get("AllowedValues")
    if not allowed:
        return [*piece.usual, UNKNOWN]
    return [UNKNOWN if text is None else text for text in map(scalar_text, listed(allowed))]
