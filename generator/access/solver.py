"""A problem: formulas about symbols, decided by a SAT solver over the classes of each symbol.

Each symbol has one of its classes. That decides comparisons with known texts, languages and
thresholds; equalities between symbols are variables of their own, constrained by which classes have
a member in common. ``Free`` and ``Solves`` are unconstrained variables. So the solver may find a
model that no real request has (the caller checks), but if it finds none, there is no such request.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from generator.access.classes import Classes, Context, have_common
from generator.access.thresholds import candidates, family
from generator.deployments.formulas import (
    Atom,
    Contains,
    Equal,
    Every,
    Flag,
    Formula,
    Is,
    Matches,
    Measured,
    Negation,
    Solves,
    Some,
    Subject,
    Symbol,
)
from generator.deployments.languages import (
    ALL,
    EMPTY,
    Language,
    TooLargeError,
    both,
    literal,
    only_text,
    shortest,
)
from generator.policy.operators import POSITIVE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pysat.solvers import Solver

CONFLICTS_MAX = 200_000
"""The solver's limit for one answer, in its own deterministic measure of work."""


class UndecidedError(Exception):
    """The solver gave up."""


@dataclass(frozen=True, eq=False)
class Model:
    """What the solver found: each symbol's class, and the atoms that are true."""

    classes: dict[Symbol, int]
    true: tuple[Atom, ...]
    false: tuple[Atom, ...]


class Problem:
    """Formulas, encoded together so that questions about them share the work."""

    def __init__(self, formulas: Iterable[Formula]) -> None:
        """Encode *formulas*; later questions must be made of them."""
        self.classes: dict[Symbol, Classes] = {}
        self._atoms: dict[Atom, int] = {}
        self._nodes: dict[int, tuple[Formula, int]] = {}
        self._class_variables: dict[Symbol, list[int]] = {}
        self._matched: dict[tuple[Subject, Language], int] = {}
        self._solver = _solver()
        self._attempts = 0
        self._last = 1
        self._true = 1
        self._add(self._true)
        formulas = [*formulas]
        atoms = [*dict.fromkeys(_atoms(formulas))]
        self._divide(atoms)
        for symbol in self.classes:
            self._choose_class(symbol)
        for formula in formulas:
            self.literal(formula)
        self._bind(atoms)

    # --- questions ---

    def solve(self, *assumed: Formula, usual: Sequence[Symbol] = ()) -> Model | None:
        """Return a model in which all of *assumed* hold, None if there is none.

        The symbols *usual* get a usual value, which makes a counterexample easier to read, and
        symbols for numbers, dates and so on get a value that operators can parse.

        Raises:
            UndecidedError: the search was given up.
        """
        literals = [self.literal(formula) for formula in assumed]
        literals += [variable for symbol in usual for variable in self._usual_class(symbol)]
        literals += [-variable for variable in self._unreadable() if usual]
        self._solver.conf_budget(CONFLICTS_MAX)
        found = self._solver.solve_limited(assumptions=literals)
        if found is None:
            raise UndecidedError
        if not found:
            return None
        values = self._solver.get_model()
        positive = {value for value in values if value > 0}
        classes = {
            symbol: next(i for i, variable in enumerate(variables) if variable in positive)
            for symbol, variables in self._class_variables.items()
        }
        true = tuple(atom for atom, variable in self._atoms.items() if variable in positive)
        false = tuple(atom for atom, variable in self._atoms.items() if variable not in positive)
        return Model(classes, true, false)

    def attempt(self) -> Flag:
        """Return a new flag that, when assumed, excludes the models passed to ``refuse``."""
        self._attempts += 1
        flag = Flag(f"attempt {self._attempts}")
        self._atoms[flag] = self._new()
        return flag

    def refuse(self, attempt: Flag, model: Model) -> None:
        """Exclude *model* from what is found under *attempt*."""
        chosen = [
            self._class_variables[symbol][number]
            for symbol, number in model.classes.items()
            if len(self._class_variables[symbol]) > 1
        ]
        related = [
            self._atoms[atom] if atom in model.true else -self._atoms[atom]
            for atom in (*model.true, *model.false)
            if isinstance(atom, (Equal, Contains, Solves))
        ]
        self._add(-self._atoms[attempt], *(-each for each in (*chosen, *related)))

    def close(self) -> None:
        """Free the solver's memory."""
        self._solver.delete()

    # --- classes ---

    def _divide(self, atoms: Sequence[Atom]) -> None:
        literals: dict[Symbol, list[str]] = {}
        measured: dict[Symbol, list[tuple[str, str]]] = {}
        for symbol in dict.fromkeys(_symbols(atoms)):
            self.classes[symbol] = Classes(symbol)
            if (text := only_text(symbol.language)) is not None:
                literals[symbol] = [text]
        for atom in atoms:
            if isinstance(atom, Is):
                literals.setdefault(atom.symbol, []).append(atom.text)
            elif isinstance(atom, Measured):
                measured.setdefault(atom.symbol, []).append((atom.operator, atom.expected))
        as_text = {*_symbols([atom for atom in atoms if not isinstance(atom, Measured)])}
        waiting: dict[Symbol, list[tuple[Subject, Language]]] = {}
        for atom in atoms:
            if isinstance(atom, Matches) and _is_ordered(atom.subject):
                first = _without_texts(atom.subject, atom.language)
                waiting.setdefault(first[0][0], []).append(first)  # type: ignore[arg-type]
        for symbol in sorted(self.classes, key=lambda each: each.rank):
            classes = self.classes[symbol]
            classes.literals = literals.get(symbol, [])
            tasks = [*dict.fromkeys(waiting.get(symbol, []))]
            contexts = [_context(subject, language) for subject, language in tasks]
            classes.contexts = [*dict.fromkeys(contexts)]
            read = measured.get(symbol, [])
            families = {family(operator) for operator, _ in read}
            # A value may be a number and a date; and not every text may be a value.
            any_text = len(families) < 2 and symbol.language is ALL  # noqa: PLR2004
            as_text_too = not (read and any_text) or symbol in as_text
            classes.divide(candidates(read), as_text=as_text_too)
            for subject, language in tasks:
                self._advance(classes, subject, language, waiting)

    def _advance(
        self,
        classes: Classes,
        subject: Subject,
        language: Language,
        waiting: dict[Symbol, list[tuple[Subject, Language]]],
    ) -> None:
        """Pass a language on to the subject's next symbol, for each class of the first."""
        for member in classes.members:
            rest, after = _without_texts(subject[1:], language.after(member.witness))
            if rest and after is not EMPTY and after is not ALL and isinstance(rest[0], Symbol):
                waiting.setdefault(rest[0], []).append((rest, after))

    def _choose_class(self, symbol: Symbol) -> None:
        classes = self.classes[symbol]
        variables = [self._new() for _ in classes.members]
        if not classes.complete:  # a value outside all known classes
            variables.append(self._new())
        self._class_variables[symbol] = variables
        self._add(*variables)
        carry = 0
        for variable in variables:  # at most one: a chain of "one was before"
            following = self._new()
            self._add(-variable, following)
            if carry:
                self._add(-carry, following)
                self._add(-carry, -variable)
            carry = following

    def _usual_class(self, symbol: Symbol) -> list[int]:
        classes = self.classes.get(symbol)
        if classes is None or not symbol.usual:
            return []
        variables = self._class_variables[symbol]
        numbers = range(len(classes.members))
        return [variables[each] for each in numbers if classes.contains(each, symbol.usual[0])]

    def _unreadable(self) -> Iterator[int]:
        """Yield the classes of values that no operator can read."""
        for symbol, classes in self.classes.items():
            if classes.has_unreadable:
                yield self._class_variables[symbol][-1]

    # --- encoding ---

    def literal(self, formula: Formula) -> int:
        """Return the solver's variable, possibly negated, for *formula*."""
        if isinstance(formula, bool):
            return self._true if formula else -self._true
        if isinstance(formula, Negation):
            return -self.literal(formula.part)
        if not isinstance(formula, (Some, Every)):
            return self._atom(formula)
        known = self._nodes.get(id(formula))
        if known is None:
            parts = [self.literal(part) for part in formula.parts]
            joined = self._any(parts) if isinstance(formula, Some) else self._all(parts)
            known = self._nodes[id(formula)] = (formula, joined)
        return known[1]

    def _atom(self, atom: Atom) -> int:
        if atom not in self._atoms:
            if isinstance(atom, Is):
                variable = self._is(atom)
            elif isinstance(atom, Matches):
                variable = self._matches(atom.subject, atom.language)
            elif isinstance(atom, Measured):
                variable = self._measured(atom)
            else:
                variable = self._new()
            self._atoms[atom] = variable
        return self._atoms[atom]

    def _is(self, atom: Is) -> int:
        number = self.classes[atom.symbol].number_of(atom.text)
        chosen = [] if number is None else [self._class_variables[atom.symbol][number]]
        return self._any([*chosen, *self._unsaid(atom.symbol)])

    def _unsaid(self, symbol: Symbol) -> list[int]:
        """Return a variable that is unconstrained if the symbol's class is the remaining one."""
        if self.classes[symbol].complete:
            return []
        return [self._all([self._class_variables[symbol][-1], self._new()])]

    def _measured(self, atom: Measured) -> int:
        """Compare each known value; in a class of several values, the results may differ."""
        classes = self.classes[atom.symbol]
        cases = [*self._unsaid(atom.symbol)]
        for number, member in enumerate(classes.members):
            variable = self._class_variables[atom.symbol][number]
            if not member.is_literal:
                cases.append(self._all([variable, self._new()]))
                continue
            truth = POSITIVE[atom.operator](atom.expected, member.witness)
            if truth is True:
                cases.append(variable)
            elif truth is not False:
                cases.append(self._all([variable, self._new()]))
        return self._any(cases)

    def _matches(self, subject: Subject, language: Language) -> int:
        subject, language = _without_texts(subject, language)
        if language is EMPTY:
            return -self._true
        if language is ALL:
            return self._true
        if not subject:
            return self._true if language.nullable else -self._true
        if not _is_ordered(subject):
            return self._new()
        key = (subject, language)
        if key not in self._matched:
            symbol = subject[0]
            assert isinstance(symbol, Symbol)  # noqa: S101 - texts were removed above
            by_rest: dict[Language, list[int]] = {}
            for number, member in enumerate(self.classes[symbol].members):
                after = language.after(member.witness)
                by_rest.setdefault(after, []).append(self._class_variables[symbol][number])
            cases = [
                self._all([self._any(variables), self._matches(subject[1:], after)])
                for after, variables in by_rest.items()
            ]
            self._matched[key] = self._any([*cases, *self._unsaid(symbol)])
        return self._matched[key]

    # --- what equalities imply ---

    def _bind(self, atoms: Sequence[Atom]) -> None:
        equalities = [atom for atom in atoms if isinstance(atom, Equal)]
        contained = [atom for atom in atoms if isinstance(atom, Contains)]
        for equal in equalities:
            self._bind_equal(equal)
            in_any_case = replace(equal, ignore_case=True)
            if not equal.ignore_case and in_any_case in self._atoms:
                self._add(-self._atoms[equal], self._atoms[in_any_case])
            for contains in contained:
                self._bind_item(equal, contains)
        self._bind_triangles(equalities)
        for contains in contained:
            self._bind_contains(contains)
            exactly = Contains(contains.items, contains.subject, ignore_case=False)
            if contains.ignore_case and exactly in self._atoms:
                self._add(-self._atoms[exactly], self._atoms[contains])

    def _bind_triangles(self, equalities: Sequence[Equal]) -> None:
        """Equality is transitive."""
        plain = {
            (atom.symbol, atom.other): self._atom(atom)
            for atom in equalities
            if not (atom.before or atom.behind or atom.ignore_case)
        }
        plain |= {(other, symbol): variable for (symbol, other), variable in plain.items()}
        for (first, second), one in plain.items():
            for (third, fourth), two in plain.items():
                if second is third and (three := plain.get((first, fourth))):
                    self._add(-one, -two, three)

    def _bind_item(self, equal: Equal, contains: Contains) -> None:
        """A symbol that equals an item of a list is contained in it."""
        is_item = equal.other.member_of is contains.items and not (equal.before or equal.behind)
        as_strict = contains.ignore_case or not equal.ignore_case
        if is_item and as_strict and contains.subject == (equal.symbol,):
            self._add(-self._atom(equal), self._atom(contains))

    def _bind_equal(self, atom: Equal) -> None:
        """The classes of equal symbols must have a member in common."""
        equal = self._atom(atom)
        held, said = self.classes[atom.symbol], self.classes[atom.other]
        if not (held.complete and said.complete):
            return
        for number, member in enumerate(said.members):
            chosen = self._class_variables[atom.other][number]
            partners = []
            for partner in range(len(held.members)):
                fits = self._have_common(atom, number, partner)
                if fits:
                    partners.append(self._class_variables[atom.symbol][partner])
                if fits and member.is_literal and held.members[partner].is_literal:
                    self._add(-chosen, -partners[-1], equal)
            self._add(-equal, -chosen, *partners)

    def _have_common(self, atom: Equal, number: int, partner: int) -> bool:
        held, said = self.classes[atom.symbol], self.classes[atom.other]
        one, other = said.members[number], held.members[partner]
        if one.is_literal:
            text = f"{atom.before}{one.witness}{atom.behind}"
            if atom.ignore_case:
                same = text.lower() == other.witness.lower()
                return same if other.is_literal else True
            return held.contains(partner, text)
        if other.is_literal:
            text = other.witness
            inner = text[len(atom.before) : len(text) - len(atom.behind)]
            whole = f"{atom.before}{inner}{atom.behind}"
            if atom.ignore_case:
                spelled = literal(inner, ignore_case=True)
                return whole.lower() == text.lower() and said.search(number, spelled) is not None
            return whole == text and said.contains(number, inner)
        if atom.ignore_case:
            return True
        return have_common((said, number), (held, partner), atom.before, atom.behind)

    def _bind_contains(self, atom: Contains) -> None:
        """A list contains only possible items."""
        contains = self._atom(atom)
        if len(atom.subject) != 1 or not isinstance(atom.subject[0], Symbol):
            return
        classes = self.classes[atom.subject[0]]
        if not classes.complete:
            return
        variables = self._class_variables[atom.subject[0]]
        language, only = atom.items.item.language, only_text(atom.items.item.language)
        possible = []
        for number, member in enumerate(classes.members):
            if member.is_literal:
                within = literal(member.witness, ignore_case=atom.ignore_case)
                fits = _overlap(language, within)
                if only == member.witness and fits:
                    self._add(-variables[number], contains)
            elif atom.ignore_case:
                fits = True
            else:
                fits = classes.search(number, language) is not None
            if fits:
                possible.append(variables[number])
        self._add(-contains, *possible)

    # --- clauses ---

    def _new(self) -> int:
        self._last += 1
        return self._last

    def _add(self, *literals: int) -> None:
        self._solver.add_clause(list(literals))

    def _any(self, literals: Sequence[int]) -> int:
        return -self._all([-each for each in literals])

    def _all(self, literals: Sequence[int]) -> int:
        needed = [*dict.fromkeys(each for each in literals if each != self._true)]
        if -self._true in needed or any(-each in needed for each in needed if each > 0):
            return -self._true
        if len(needed) < 2:  # noqa: PLR2004 - nothing to join
            return needed[0] if needed else self._true
        joined = self._new()
        for each in needed:
            self._add(-joined, each)
        self._add(joined, *(-each for each in needed))
        return joined


def _solver() -> Solver:
    from pysat.solvers import Solver

    return Solver(name="glucose4")


def _atoms(formulas: Sequence[Formula]) -> Iterator[Atom]:
    pending, seen = [*formulas], set()
    while pending:
        formula = pending.pop()
        if isinstance(formula, bool) or id(formula) in seen:
            continue
        seen.add(id(formula))
        if isinstance(formula, (Some, Every)):
            pending += formula.parts
        elif isinstance(formula, Negation):
            pending.append(formula.part)
        else:
            yield formula


def _symbols(atoms: Iterable[Atom]) -> Iterator[Symbol]:
    for atom in atoms:
        if isinstance(atom, (Is, Measured, Equal)):
            yield atom.symbol
        if isinstance(atom, Equal):
            yield atom.other
        if isinstance(atom, (Matches, Contains)):
            yield from (part for part in atom.subject if isinstance(part, Symbol))


def _without_texts(subject: Subject, language: Language) -> tuple[Subject, Language]:
    """Remove known text from the beginning of *subject*."""
    rest = [*subject]
    while rest and isinstance(rest[0], str):
        language = language.after(str(rest.pop(0)))
    return tuple(rest), language


def _context(subject: Subject, language: Language) -> Context:
    known = [*itertools.takewhile(lambda part: isinstance(part, str), subject[1:])]
    is_last = len(known) == len(subject) - 1
    return Context(language, "".join(map(str, known)), is_last)


def _is_ordered(subject: Subject) -> bool:
    ranks = [part.rank for part in subject if isinstance(part, Symbol)]
    return all(low < high for low, high in itertools.pairwise(ranks))


def _overlap(one: Language, other: Language) -> bool:
    try:
        return shortest(both(one, other)) is not None
    except TooLargeError:
        return True
