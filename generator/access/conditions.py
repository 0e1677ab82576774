"""When a Condition element holds: the symbolic form of ``generator.policy.operators``.

Everything here has a concrete counterpart there, which confirms what the solver finds.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from generator.access.requests import condition_key
from generator.deployments.comparisons import How, compare, compare_items, is_known, known
from generator.deployments.formulas import (
    Formula,
    Free,
    Items,
    Measured,
    Subject,
    Symbol,
    choice,
    every,
    negated,
    some,
)
from generator.deployments.symbolic import (
    Located,
    Node,
    NoValue,
    Opaque,
    Template,
    Written,
)
from generator.policy.operators import NEGATED, POSITIVE, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from generator.access.requests import Held

_TEXTS = {
    "StringEquals": How(variables=True),
    "StringEqualsIgnoreCase": How(ignore_case=True, variables=True),
    "StringLike": How(wildcards=True, variables=True),
    "ArnEquals": How(by_section=True, variables=True),
    "ArnLike": How(by_section=True, variables=True),
}
"""Operators whose values are patterns; the others compare numbers, dates or addresses."""

Value = tuple[Formula, Node]


def condition_holds(template: Template, node: object, held: Callable[[str], Held]) -> Formula:
    """Return whether every operator and every key of a Condition element holds, as a formula."""
    tests: list[Formula] = []
    for when, operators in template.alternatives(node):
        if isinstance(operators, NoValue):  # CloudFormation removes it, so nothing is required
            continue
        if not isinstance(operators, Located) or not isinstance(operators.node, dict):
            tests.append(_implies(when, Free("its condition is not known")))
            continue
        for name, keys in operators.node.items():
            for also, found in template.alternatives(keys):
                if isinstance(found, NoValue):
                    continue
                tests.append(_implies(every((when, also)), _operator(template, name, found, held)))
    return every(tests)


def _implies(when: Formula, then: Formula) -> Formula:
    return some((negated(when), then))


def _operator(template: Template, name: object, keys: Node, held: Callable[[str], Held]) -> Formula:
    if not isinstance(keys, Located) or not isinstance(keys.node, dict) or not keys.node:
        return Free(f"the condition keys of {name} are not known")
    tests: list[Formula] = []
    for key, expected in keys.node.items():
        if not str(key).isascii() and str(key).lower().isascii():
            tests.append(Free(f"{key} has a letter beyond ASCII"))
            continue
        values = [(when, node) for when, node, _ in template.items(expected)]
        empty = Free(f"AWS does not say what {name} without values means")
        holds = _holds(str(name), values, held(condition_key(key)))
        tests.append(choice(some(when for when, _ in values), holds, empty))
    return every(tests)


def _holds(name: str, expected: list[Value], held: Held) -> Formula:
    quantifier, _, rest = name.rpartition(":")
    base = rest.removesuffix("IfExists")
    operator = NEGATED.get(base, base)
    if name == "Null":
        return _is_null(expected, held)
    if operator not in POSITIVE or quantifier not in ("", "ForAllValues", "ForAnyValue"):
        return Free(f"{name} is not a condition operator that this evaluation knows")
    is_negated = base in NEGATED

    def one(subject: Subject) -> Formula:
        matched = some(every((when, _compared(operator, node, subject))) for when, node in expected)
        return negated(matched) if is_negated else matched

    without = _without_key(quantifier, is_negated=is_negated, if_exists=base != rest)
    if held.why:
        return Free(held.why)
    if held.several:
        return _of_several(quantifier, one, held, without)
    cases = []
    for when, subject in held.cases:
        cases.append(every((when, without if subject is None else one(subject))))
    return some(cases)


def _of_several(
    quantifier: str, one: Callable[[Subject], Formula], held: Held, without: Formula
) -> Formula:
    present = some(there for there, _ in held.several)
    if quantifier == "ForAnyValue":
        found = some(every((there, one((symbol,)))) for there, symbol in held.several)
    else:
        found = every(_implies(there, one((symbol,))) for there, symbol in held.several)
    if not quantifier:
        single = every(
            negated(every((there, other)))
            for index, (there, _) in enumerate(held.several)
            for other, _ in held.several[:index]
        )
        several = Free("a multivalued key needs a set operator")
        found = some((every((single, found)), every((negated(single), several))))
    return some((every((present, found)), every((negated(present), without))))


def _without_key(quantifier: str, *, is_negated: bool, if_exists: bool) -> Formula:
    if quantifier == "ForAnyValue":
        return Free("AWS does not say what IfExists adds to ForAnyValue") if if_exists else False
    return quantifier == "ForAllValues" or if_exists or is_negated


def _is_null(expected: list[Value], held: Held) -> Formula:
    if held.several:
        absent = negated(some(there for there, _ in held.several))
    else:
        absent = some(when for when, subject in held.cases if subject is None)
    cases = []
    for when, node in expected:
        for value, meant in (("true", absent), ("false", negated(absent))):
            cases.append(every((when, meant, _compared("StringEqualsIgnoreCase", node, (value,)))))
    return some(cases)


def _compared(operator: str, node: Node, subject: Subject) -> Formula:
    """Return whether one value of a policy matches one value of a request, as a formula."""
    if isinstance(node, Items):
        if operator in _TEXTS:
            return compare_items(node, subject, _TEXTS[operator])
        return Free(f"what {node.name} contains is not known")
    if not isinstance(node, Written):
        return Free(node.why if isinstance(node, Opaque) else "a value that is not a text")
    if operator in _TEXTS:
        return compare(node.text, subject, _TEXTS[operator])
    if not is_known(node.text):
        return Free("a value of a condition is not known")
    return _measured(operator, known(node.text), subject)


def _measured(operator: str, expected: str, subject: Subject) -> Formula:
    if is_known(subject):
        truth = POSITIVE[operator](expected, known(subject))
        return Free(truth.why) if isinstance(truth, Unknown) else truth
    if len(subject) == 1 and isinstance(subject[0], Symbol):
        return Measured(subject[0], operator, expected)
    return Free(f"{operator} compares a text that is joined from several values")


implies = functools.partial(_implies)
