"""Formulas about an unknown deployment and an unknown request.

A formula is ``True``, ``False``, an atom, or a combination of formulas. Atoms are about *symbols*:
texts of which only the language is known. What cannot be expressed exactly is ``Free``: the solver
may take it as true or false, so a gap in the encoding allows more requests, never fewer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from generator.deployments.languages import ALL, Language

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, eq=False)
class Symbol:
    """A text of which only the language is known.

    Attributes:
        name: its name in the template or the request.
        language: a superset of its possible values.
        longest: its greatest number of characters.
        rank: subjects list their symbols in the order of their ranks.
        why: why no value can be chosen for it here; empty if one can.
        usual: texts to prefer if any value would do.
        is_typed: whether operators for numbers, dates and so on can read every value.
        member_of: the list of which it is an item, if Fn::Select takes it from one.
    """

    name: str
    language: Language = ALL
    longest: int | None = None
    rank: int = 0
    why: str = ""
    usual: tuple[str, ...] = ()
    is_typed: bool = False
    member_of: Items | None = None


@dataclass(frozen=True, eq=False)
class Items:
    """A list of texts of which only the language of its items is known.

    ``whole`` is the text that *delimiter* splits into the items; without it, a parameter is it.
    """

    name: str
    item: Symbol
    whole: Symbol | None = None
    delimiter: str = ","


Subject: TypeAlias = tuple[str | Symbol, ...]
"""A value of a request: known text and symbols in sequence."""
Text: TypeAlias = tuple[str | Symbol, ...]
"""A value of a policy or a condition, in the same form."""


@dataclass(frozen=True)
class Flag:
    """Something that the caller may choose to be true or false."""

    name: str


@dataclass(frozen=True, eq=False)
class Free:
    """Something that the encoding leaves open; ``why`` is the reason."""

    why: str


@dataclass(frozen=True)
class Is:
    """A symbol equals a text."""

    symbol: Symbol
    text: str


@dataclass(frozen=True)
class Matches:
    """A subject is in a language."""

    subject: Subject
    language: Language


@dataclass(frozen=True)
class Measured:
    """A symbol satisfies one of IAM's operators for numbers, dates or addresses with a value."""

    symbol: Symbol
    operator: str
    expected: str


@dataclass(frozen=True)
class Equal:
    """A symbol equals the text of *other* between *before* and *behind*."""

    symbol: Symbol
    before: str
    other: Symbol
    behind: str
    ignore_case: bool


@dataclass(frozen=True)
class Contains:
    """One of *items* equals the subject."""

    items: Items
    subject: Subject
    ignore_case: bool


@dataclass(frozen=True)
class Solves:
    """A text with symbols equals the subject; the values for that are not encoded."""

    text: Text
    subject: Subject
    ignore_case: bool


@dataclass(frozen=True, eq=False)
class Some:
    """At least one of the parts holds."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, eq=False)
class Every:
    """All parts hold."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, eq=False)
class Negation:
    """The part does not hold."""

    part: Formula = field()


Atom: TypeAlias = Flag | Free | Is | Matches | Measured | Equal | Contains | Solves
Formula: TypeAlias = bool | Atom | Some | Every | Negation


def some(formulas: Iterable[Formula]) -> Formula:
    """Return the disjunction."""
    parts = []
    for formula in formulas:
        if formula is True:
            return True
        if formula is not False:
            parts.append(formula)
    return parts[0] if len(parts) == 1 else Some(tuple(parts)) if parts else False


def every(formulas: Iterable[Formula]) -> Formula:
    """Return the conjunction."""
    parts = []
    for formula in formulas:
        if formula is False:
            return False
        if formula is not True:
            parts.append(formula)
    return parts[0] if len(parts) == 1 else Every(tuple(parts)) if parts else True


def negated(formula: Formula) -> Formula:
    """Return the negation."""
    if isinstance(formula, bool):
        return not formula
    return formula.part if isinstance(formula, Negation) else Negation(formula)


def choice(formula: Formula, then: Formula, otherwise: Formula) -> Formula:
    """Return *then* where *formula* holds, else *otherwise*."""
    return some((every((formula, then)), every((negated(formula), otherwise))))


def strictly(formula: Formula) -> Formula:
    """Return *formula* with everything ``Free`` taken against it: what then holds is certain."""
    return _strict(formula, positive=True, known={})


def _strict(formula: Formula, *, positive: bool, known: dict[tuple[int, bool], Formula]) -> Formula:
    if isinstance(formula, bool):
        return formula if positive else not formula
    if isinstance(formula, Negation):
        return _strict(formula.part, positive=not positive, known=known)
    if isinstance(formula, Free):
        return False
    if not isinstance(formula, (Some, Every)):
        return formula if positive else negated(formula)
    key = (id(formula), positive)
    if key not in known:
        parts = [_strict(part, positive=positive, known=known) for part in formula.parts]
        known[key] = some(parts) if isinstance(formula, Some) is positive else every(parts)
    return known[key]
