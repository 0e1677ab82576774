"""Formulas about a deployment and a request that are not known yet.

A formula is ``True``, ``False``, an atom, or a combination of formulas. Atoms speak of *symbols*:
texts of which only the language is known. What an atom cannot say exactly is ``Free``: it may be
true or false as it suits whoever searches, so a gap in the encoding allows more requests, never
fewer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from generator.deployments.languages import ALL, Language

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, eq=False)
class Symbol:
    """A text that is not known, but for its language.

    Attributes:
        name: what the template or the request calls it.
        language: a superset of what it may be.
        longest: how many characters it has at most.
        rank: subjects name their symbols in the order of their ranks.
        why: why nobody can choose a value for it here; empty if a value can be chosen.
        usual: texts to choose first where any would do.
        member_of: the list of which it is an item, if Fn::Select takes it from one.
    """

    name: str
    language: Language = ALL
    longest: int | None = None
    rank: int = 0
    why: str = ""
    usual: tuple[str, ...] = ()
    member_of: Items | None = None


@dataclass(frozen=True, eq=False)
class Items:
    """A list of texts that is not known, but for the language of its items.

    ``whole`` is the text that *delimiter* splits into the items; without it a parameter is it.
    """

    name: str
    item: Symbol
    whole: Symbol | None = None
    delimiter: str = ","


Subject: TypeAlias = tuple[str | Symbol, ...]
"""What a request carries: known text and symbols, one behind the other."""
Text: TypeAlias = tuple[str | Symbol, ...]
"""What a policy or a condition says, in the same form."""


@dataclass(frozen=True)
class Flag:
    """Something that is so or not, by whoever makes the request."""

    name: str


@dataclass(frozen=True, eq=False)
class Free:
    """Something that the encoding leaves open, and why."""

    why: str


@dataclass(frozen=True)
class Is:
    """A symbol is exactly a text."""

    symbol: Symbol
    text: str


@dataclass(frozen=True)
class Matches:
    """A subject is in a language."""

    subject: Subject
    language: Language


@dataclass(frozen=True)
class Measured:
    """A symbol compares with a value by one of IAM's operators for numbers, dates, addresses."""

    symbol: Symbol
    operator: str
    expected: str


@dataclass(frozen=True)
class Equal:
    """A symbol is the text of *other* between *before* and *behind*."""

    symbol: Symbol
    before: str
    other: Symbol
    behind: str
    ignore_case: bool


@dataclass(frozen=True)
class Contains:
    """One of *items* is the subject."""

    items: Items
    subject: Subject
    ignore_case: bool


@dataclass(frozen=True)
class Solves:
    """A text with symbols in it is the subject; which values make it so is not encoded."""

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
    """Return *formula* with all that is free taken against it: what then holds is certain."""
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
