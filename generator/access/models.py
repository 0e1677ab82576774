"""Turns a model of the solver into a concrete request that can be evaluated."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from generator.access.requests import IMAGE, PRINCIPAL_TYPE, Asked, Attested, Caller
from generator.deployments.formulas import (
    Contains,
    Equal,
    Flag,
    Items,
    Solves,
    Subject,
    Symbol,
    Text,
)
from generator.deployments.languages import (
    ALL,
    Language,
    TooLargeError,
    both,
    concat,
    either,
    example,
    glob,
    literal,
    one_of,
    others,
    shortest,
)
from generator.policy.request import ACTIONS, Attestation, Kind, Principal, Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from generator.access.solver import Model, Problem
    from generator.deployments.symbolic import Template
    from generator.policy.operators import Values


_KINDS = {
    Kind.ROOT.value: ":root",
    Kind.USER.value: ":user/",
    Kind.ROLE.value: ":role/",
    Kind.FEDERATED.value: ":federated-user/",
}
"""The symbols in a caller's ARN, by the caller's kind."""


@dataclass
class Assignment:
    """A value for each symbol, chosen for one model."""

    problem: Problem
    model: Model
    values: dict[Symbol, str] = field(default_factory=dict)
    lists: dict[Items, list[str]] = field(default_factory=dict)
    solved: set[Symbol] = field(default_factory=set)

    @classmethod
    def of(cls, problem: Problem, model: Model, callers: tuple[Caller, ...]) -> Assignment:
        """Choose values: first for equal symbols, then for unequal ones, then the rest."""
        made = cls(problem, model)
        for symbol, number in model.classes.items():
            members = problem.classes[symbol].members
            if number < len(members) and members[number].is_literal:
                made.values[symbol] = members[number].witness
        for caller in callers:
            made._name(caller)
        made._equalities()
        for atom in model.true:
            if isinstance(atom, Solves):
                made._fulfil(atom)
        for symbol in problem.classes:
            made._rest(symbol)
        solved = [atom for atom in model.true if isinstance(atom, Solves)]
        solved.sort(key=made._is_of_caller)  # constraints on the caller's own name come last
        unsolved = [atom for atom in solved if not made._solve(atom)]
        for atom in unsolved:
            made._fit(atom)
        made._fill_lists()
        return made

    def text(self, text: Text | Subject) -> str:
        """Return *text* with symbols replaced by their values."""
        return "".join(piece if isinstance(piece, str) else self.value(piece) for piece in text)

    def value(self, symbol: Symbol) -> str:
        """Return the value of *symbol*; a usual one if the problem does not constrain it."""
        if symbol not in self.values:
            self.values[symbol] = usual_value(symbol)
        return self.values[symbol]

    def holds(self, flag: Flag) -> bool:
        """Return whether a flag is set."""
        return flag in self.model.true

    # --- symbols ---

    def _take(self, symbol: Symbol, within: Language) -> str | None:
        classes = self.problem.classes.get(symbol)
        number = self.model.classes.get(symbol)
        if classes is None or number is None or number >= len(classes.members):
            return _short_text(both(symbol.language, within))
        return classes.search(number, within)

    def _name(self, caller: Caller) -> None:
        """The role name in a session's ARN is the last part of the role's path and name."""
        if caller.role in self.problem.classes:
            named = self.values.get(caller.name, "").rpartition("/")[2]
            within = literal(named) if named else ALL
            role = self._take(caller.role, within) or usual_value(caller.role)
            below = either(literal(""), concat(ALL, literal("/")))
            name = self._take(caller.name, concat(below, literal(role)))
            if name is not None:
                self.values[caller.role], self.values[caller.name] = role, name

    def _equalities(self) -> None:
        """Give equal symbols the same value, then those that are a part of another."""
        equalities = [atom for atom in self.model.true if isinstance(atom, Equal)]
        for group in _same(equalities):
            avoided = either(*map(self._avoided, group))
            own = [atom for atom in equalities if atom.symbol in group and _is_part(atom)]
            within = [self._wrapped(atom) for atom in own]
            within += [self._class_language(symbol) for symbol in group]
            taken = self._take(group[0], both(*within, others(avoided)))
            for symbol in group:
                if taken is not None:
                    self.values.setdefault(symbol, taken)
            for atom in own:
                self._part(atom, self.value(atom.symbol))

    def _part(self, atom: Equal, text: str) -> None:
        """Give the other symbol of an equality its part of *text*."""
        if atom.other not in self.values:
            inner = text[len(atom.before) : len(text) - len(atom.behind)]
            taken = self._take(atom.other, literal(inner, ignore_case=atom.ignore_case))
            if taken is not None:
                self.values[atom.other] = taken

    def _class_language(self, symbol: Symbol) -> Language:
        """Return a language that contains the symbol's class."""
        if symbol in self.values:
            return literal(self.values[symbol])
        classes, number = self.problem.classes.get(symbol), self.model.classes.get(symbol)
        if classes and number is not None and number < len(classes.members):
            member = classes.members[number]
            if member.is_literal:
                return literal(member.witness)
        return symbol.language

    def _wrapped(self, atom: Equal) -> Language:
        if atom.other in self.values:
            text = f"{atom.before}{self.values[atom.other]}{atom.behind}"
            return literal(text, ignore_case=atom.ignore_case)
        if atom.ignore_case:
            return ALL
        inner = self._class_language(atom.other)
        return concat(literal(atom.before), inner, literal(atom.behind))

    def _avoided(self, symbol: Symbol) -> Language:
        """Return the values that *symbol* must not have, because an equality does not hold."""
        found = []
        for atom in self.model.false:
            if not isinstance(atom, Equal):
                continue
            if atom.symbol is symbol and atom.other in self.values:
                text = f"{atom.before}{self.values[atom.other]}{atom.behind}"
                found.append(literal(text, ignore_case=atom.ignore_case))
            elif atom.other is symbol and atom.symbol in self.values:
                text = self.values[atom.symbol]
                inner = text[len(atom.before) : len(text) - len(atom.behind)]
                found.append(literal(inner, ignore_case=atom.ignore_case))
        return either(*found)

    def _rest(self, symbol: Symbol) -> None:
        if symbol not in self.values:
            taken = self._take(symbol, others(self._avoided(symbol)))
            self.values[symbol] = taken if taken is not None else usual_value(symbol)

    def _is_of_caller(self, atom: Solves) -> bool:
        """Return whether a subject is a name of the caller, by the caller's kind."""
        kinds = {_KINDS.get(text) for symbol, text in self.values.items() if "kind" in symbol.name}
        texts = [part for part in atom.subject if isinstance(part, str)]
        return any(kind in text for kind in kinds if kind for text in texts)

    def _solve(self, atom: Solves) -> bool:
        """Choose a parameter so that a joined text equals the subject, or matches it."""
        symbols = [piece for piece in atom.text if isinstance(piece, Symbol)]
        wanted = self.text(atom.subject)
        if len(symbols) != 1:
            return True
        symbol = symbols[0]
        index = atom.text.index(symbol)
        before, behind = self.text(atom.text[:index]), self.text(atom.text[index + 1 :])
        fits = wanted.startswith(before) and wanted.endswith(behind)
        inner = wanted[len(before) : len(wanted) - len(behind)]
        for text in ([inner] if fits else []) + ["*", "?" * len(inner)]:
            if text in symbol.language:
                self.values[symbol] = text
                self.solved.add(symbol)
                return True
        return False

    def _fit(self, atom: Solves) -> None:
        """Choose a parameter that is a pattern, and a request that matches it."""
        last = atom.subject[-1] if atom.subject else ""
        symbol = next(piece for piece in atom.text if isinstance(piece, Symbol))
        if not isinstance(last, Symbol) or symbol in self.solved:
            return
        self.values[symbol] = usual_value(symbol)
        pattern = glob(self.text(atom.text), ignore_case=atom.ignore_case)
        taken = self._take(last, pattern.after(self.text(atom.subject[:-1])))
        if taken is not None:
            self.values[last] = taken

    def _fulfil(self, atom: Solves) -> None:
        """Choose a request's value so that it matches a joined text."""
        subject = atom.subject[0] if len(atom.subject) == 1 else ""
        if not isinstance(subject, Symbol) or subject in self.values or subject.rank == 0:
            return
        text = re.sub(r"[*]", "", self.text(atom.text)).replace("?", "a")
        taken = self._take(subject, literal(text))
        if taken is not None:
            self.values[subject] = taken

    # --- lists ---

    def _fill_lists(self) -> None:
        """Give each list the items that it contains in the model, or a possible one."""
        atoms = [*self.model.true, *self.model.false]
        for items in dict.fromkeys(atom.items for atom in atoms if isinstance(atom, Contains)):
            found = []
            for atom in self.model.true:
                if isinstance(atom, Contains) and atom.items is items:
                    spelled = literal(self.text(atom.subject), ignore_case=atom.ignore_case)
                    item = _any_text(both(items.item.language, spelled))
                    if item is not None:
                        found.append(item)
            if items.item in self.values:  # an item that is a pattern
                found.append(self.values[items.item])
            if not found:
                avoided = [
                    self.text(atom.subject)
                    for atom in self.model.false
                    if isinstance(atom, Contains) and atom.items is items
                ]
                found = [_unlike(items.item, avoided)]
            self.lists[items] = [*dict.fromkeys(found)]
            if items.whole is not None:
                self._whole(items)

    def _whole(self, items: Items) -> None:
        """Choose the text that splits into the items."""
        whole = items.whole
        assert whole is not None  # noqa: S101 - for the type checker
        start = either(literal(""), concat(ALL, one_of(items.delimiter)))
        end = either(literal(""), concat(one_of(items.delimiter), ALL))
        wanted = [concat(start, literal(item), end) for item in self.lists[items]]
        text = _any_text(both(whole.language, *wanted))
        if text is not None:
            self.values[whole] = text


def _is_part(atom: Equal) -> bool:
    return bool(atom.before or atom.behind or atom.ignore_case)


def _same(equalities: list[Equal]) -> list[list[Symbol]]:
    """Return the symbols of *equalities*, grouped by equality."""
    groups: dict[Symbol, list[Symbol]] = {}
    for atom in equalities:
        groups.setdefault(atom.symbol, [atom.symbol])
        if _is_part(atom):
            continue
        joined = [*groups[atom.symbol], *groups.get(atom.other, [atom.other])]
        together = [*dict.fromkeys(joined)]
        for symbol in together:
            groups[symbol] = together
    return [*{id(group): group for group in groups.values()}.values()]


def _any_text(language: Language, longest: int | None = None) -> str | None:
    try:
        return example(language, longest)
    except TooLargeError:
        return None


def _short_text(language: Language) -> str | None:
    """Return a text without detours: every one could meet a wildcard in an unforeseen place."""
    try:
        return shortest(language)
    except TooLargeError:
        return _any_text(language)


@functools.lru_cache(maxsize=10_000)
def usual_value(symbol: Symbol) -> str:
    """Return a value that *symbol* may have; a usual one if possible."""
    usual = next((text for text in symbol.usual if text in symbol.language), None)
    return usual if usual is not None else _any_text(symbol.language, symbol.longest) or ""


def _unlike(item: Symbol, avoided: list[str]) -> str:
    spelled = either(*(literal(text, ignore_case=True) for text in avoided))
    language = both(item.language, others(spelled))
    usual = next((text for text in item.usual if text in language), None)
    if usual is not None:
        return usual
    found = _any_text(language)
    return found if found is not None else usual_value(item)


def parameters(template: Template, assignment: Assignment) -> dict[str, str | list[str]]:
    """Return a value for each parameter, pseudo parameter and name that the template refers to."""
    found: dict[str, str | list[str]] = {}
    for name, symbol in template.parameters.items():
        if isinstance(symbol, Items):
            usual = [*symbol.item.usual] or [usual_value(symbol.item)]
            found[name] = _with_selected(template, assignment, symbol, usual)
        else:
            found[name] = assignment.value(symbol)
    for name, symbol in template.attributes.items():
        if not symbol.why:
            found[name] = assignment.value(symbol)
    around = template.around
    found["AWS::Partition"] = assignment.value(around.partition)
    found["AWS::Region"] = assignment.value(around.region)
    found["AWS::AccountId"] = assignment.value(around.account)
    return found


def _with_selected(
    template: Template, assignment: Assignment, items: Items, usual: list[str]
) -> list[str]:
    """Return a list that has the items of Fn::Select at their indices."""
    found = [*assignment.lists.get(items, [])]
    chosen = {
        index: assignment.value(symbol)
        for (name, index), symbol in sorted(template.selected.items())
        if name == items.name
    }
    found = [item for item in found if item not in chosen.values()]
    for index, value in chosen.items():
        while len(found) < index:
            found.append(next(iter(chosen.values())))
        found.insert(index, value)
    return found or usual


def principal(caller: Caller, assignment: Assignment) -> Principal:
    """Return the caller."""
    kind = Kind.ROLE if caller.identity else Kind(assignment.value(caller.kind))
    if kind is Kind.ROLE and caller.role not in assignment.values and not caller.identity:
        assignment.values[caller.role] = assignment.value(caller.name).rpartition("/")[2]
    if caller.identity:
        name = assignment.text(caller.identity).rpartition("/")[2]
        assignment.values[caller.role] = name
    names = tuple(assignment.text(name) for name in caller.names(kind))
    has_account = kind not in (Kind.SERVICE, Kind.ANONYMOUS)
    account = assignment.value(caller.own_account) if has_account else ""
    return Principal(kind, account, names)


def request(asked: Asked, assignment: Assignment) -> Request:
    """Return the request, with every condition key that a policy mentions."""
    context: dict[str, Values] = {}
    for key, symbols in asked.values.items():
        present = [
            assignment.value(symbol)
            for symbol in symbols
            if assignment.holds(asked.carries(symbol))
        ]
        distinct = tuple(dict.fromkeys(present))
        # A single value also fits the operators for single values.
        context[key] = distinct[0] if len(distinct) == 1 else distinct
    caller = principal(asked.caller, assignment)
    service_type = asked.caller.service_type
    if caller.kind is Kind.SERVICE and assignment.holds(asked.carries(service_type)):
        context[PRINCIPAL_TYPE] = assignment.value(service_type)
    attestation, absent = _attestation(asked, assignment)
    return Request(
        asked.action,
        caller,
        key_account=assignment.value(asked.key_account),
        key_arn=assignment.text(asked.arn),
        attestation=attestation,
        context={**context, **absent},
        context_is_complete=True,
    )


def _attestation(
    asked: Asked, assignment: Assignment
) -> tuple[Attestation | None, Mapping[str, Values]]:
    attested = asked.attested
    takes = ACTIONS.get(asked.action)
    if attested is None or takes is None or not takes.attestable:
        return None, {}
    kind = assignment.value(attested.kind)
    if kind == "none":
        return None, {}
    attested.register("pcr0")
    found: dict[str, dict[int, str]] = {"enclave": {}, "NitroTPM": {}}
    absent: dict[str, Values] = {}
    for name, symbol, present in _registers(attested, assignment):
        of = "NitroTPM" if name.startswith("nitrotpm") else "enclave"
        if of == kind and present:
            found[of][int(name.rpartition("pcr")[2])] = assignment.value(symbol)
        elif of == kind:
            absent[f"kms:recipientattestation:{name}"] = ()
    if not found[kind]:  # a NitroTPM document, none of whose registers a policy mentions
        found[kind][4] = IMAGE
    return Attestation(found["enclave"], found["NitroTPM"]), absent


def _registers(attested: Attested, assignment: Assignment) -> Iterator[tuple[str, Symbol, bool]]:
    for name, symbol in sorted(attested.registers.items()):
        present = name == "pcr0" or assignment.holds(Flag(f"{name} is attested"))
        yield name, symbol, present
