"""Describes what a counterexample depends on.

What can be changed without changing the answer is left out: parameters, condition keys and the
caller's name are each replaced by usual values, and the evaluator is asked again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from generator.access.models import usual_value
from generator.access.requests import ZEROS
from generator.access.search import Example, policy_of
from generator.deployments.formulas import Items
from generator.nodes import mapping
from generator.policy.operators import Values, listed
from generator.policy.request import Kind, Principal

if TYPE_CHECKING:
    from generator.deployments.concrete import Value

_SHOWN = 40  # characters
_PLACES = {"AWS::AccountId": "the key's account", "AWS::Region": "the region"}
_KINDS = {
    Kind.ROOT: "the root user",
    Kind.USER: "an IAM user",
    Kind.FEDERATED: "a federated user",
}


Shows = Callable[[Example], bool]


def given(example: Example, shows: Shows) -> tuple[str, Example]:
    """Return a description of what the answer depends on, and the simplest such request.

    *shows* returns whether another request has the same answer.
    """
    words: list[str] = []
    example = _simplest_caller(example, shows)
    if caller := _caller(example):
        words.append(f"for {caller}")
    example = _fewest_conditions(example, shows)
    example = _usual_parameters(example, shows)
    for name, value in example.deployment.parameters.items():
        if _matters(example, name, value, shows):
            words.append(f"{_PLACES.get(name, name)} is {_shown(value)}")
    words += [
        f"{key} is {_shown(value)}" if value else f"there is no {key}"
        for key, value in example.request.context.items()
        if not key.startswith("kms:recipientattestation:")
    ]
    return ", ".join(words), example


def _simplest_caller(example: Example, shows: Shows) -> Example:
    """Return the example with an ordinary role of the same account, if that is also allowed."""
    principal = example.request.principal
    if example.role is not None or principal.kind in (Kind.SERVICE, Kind.ANONYMOUS):
        return example
    partition = principal.names[0].split(":")[1]
    role = f"arn:{partition}:iam::{principal.account}:role/example"
    changed = _by(example, Principal.session(role, "session"))
    return changed if shows(changed) else example


def _by(example: Example, principal: Principal) -> Example:
    grants = [replace(grant, grantee=principal.names[0]) for grant in example.grants]
    request = replace(example.request, principal=principal)
    return replace(example, request=request, grants=grants)


def _caller(example: Example) -> str:
    """Return which callers of the account it holds for, empty if for an ordinary role."""
    principal = example.request.principal
    if example.role is not None or principal.kind is Kind.ANONYMOUS:
        return ""
    if principal.kind is Kind.SERVICE:
        return f"the service {principal.names[0]}"
    resource = principal.names[0].split(":", 5)[5]
    if resource == "role/example":
        return ""
    pattern = _pattern(example, principal.names)
    if principal.kind in _KINDS and not pattern:
        return _KINDS[principal.kind]
    kind = {Kind.USER: "user", Kind.FEDERATED: "federated user"}.get(principal.kind, "role")
    return f"any {kind} {pattern}" if pattern else f"a {kind} such as {resource}"


def _pattern(example: Example, names: tuple[str, ...]) -> str:
    """Return a description of how the policy names the caller, if by a pattern or by name."""
    policy, _ = policy_of(example.key, example.deployment)
    for text in _texts([*listed(policy["Statement"])]):
        for kind in ("role/", "user/", "federated-user/", "assumed-role/"):
            _, found, name = text.partition(f":{kind}")
            matches = re.escape(text).replace(r"\*", ".*").replace(r"\?", ".")
            if found and name and any(re.fullmatch(matches, own) for own in names):
                return _in_words(name)
    return ""


def _in_words(pattern: str) -> str:
    inner = pattern.strip("*")
    if not re.search(r"[*?]", pattern):
        return f"whose name is {pattern}"
    if re.search(r"[*?]", inner) or not inner:
        return f"whose name matches {pattern}"
    if pattern.startswith("*"):
        return (
            f"whose name contains {inner}"
            if pattern.endswith("*")
            else f"whose name ends with {inner}"
        )
    return f"whose name begins with {inner}"


def _texts(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, (dict, list)):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _texts(child)


def _fewest_conditions(example: Example, shows: Shows) -> Example:
    """Leave out every condition key that the answer does not depend on."""
    for key, value in example.request.context.items():
        rest: dict[str, Values] = {k: v for k, v in example.request.context.items() if k != key}
        changed = replace(example, request=replace(example.request, context=rest))
        if (value and shows(changed)) or (not value and shows(changed)):
            example = changed
    return example


def _usual_parameters(example: Example, shows: Shows) -> Example:
    """Give each parameter its default, or a usual value, unless the answer depends on it."""
    declared = mapping(example.key.template.template.get("Parameters"))
    for name, symbol in example.key.template.parameters.items():
        usual: Value
        if isinstance(symbol, Items):
            default = mapping(declared.get(name)).get("Default", usual_value(symbol.item))
            usual = [*map(str.strip, str(default).split(","))]
        else:
            usual = usual_value(symbol)
        if usual == example.deployment.parameters.get(name):
            continue
        changed = _with(example, name, usual)
        if shows(changed):
            example = changed
    return example


def _with(example: Example, name: str, value: Value) -> Example:
    values = {**example.deployment.parameters, name: value}
    return replace(example, deployment=replace(example.deployment, parameters=values))


def _matters(example: Example, name: str, value: Value, shows: Shows) -> bool:
    """Return whether the answer depends on the value of a parameter."""
    if name == "AWS::AccountId":
        if len(example.key.template.around.account.usual) == 1:  # it is known, as of a live key
            return False
        return not shows(_of_other_account(example))
    if name == "AWS::Region":
        others = (_with(example, name, other) for other in ("eu-west-1", "us-east-1", "sa-east-1"))
        return not all(map(shows, others))
    symbol = example.key.template.parameters.get(name)
    if symbol is None:
        return False
    account = example.request.principal.account
    if value == account and account:
        return not shows(_by_other_account(example))
    usual = usual_value(symbol.item if isinstance(symbol, Items) else symbol)
    return value not in (usual, [usual])


def _by_other_account(example: Example) -> Example:
    """Return the example with another account in place of the caller's."""
    old, new = example.request.principal.account, "123456789012"
    principal = example.request.principal
    names = tuple(name.replace(f":{old}:", f":{new}:") for name in principal.names)
    for name, value in example.deployment.parameters.items():
        if value == old:
            example = _with(example, name, new)
    return _by(example, replace(principal, account=new, names=names))


def _of_other_account(example: Example) -> Example:
    """Return the example with another account in place of the key's."""
    old, new = example.request.key_account, "123456789012"
    principal = example.request.principal
    if principal.account == old:
        names = tuple(name.replace(old, new) for name in principal.names)
        principal = replace(principal, account=new, names=names)
    request = replace(
        example.request,
        principal=principal,
        key_account=new,
        key_arn=example.request.key_arn.replace(f":{old}:", f":{new}:"),
    )
    return _by(replace(_with(example, "AWS::AccountId", new), request=request), principal)


def _shown(value: Values) -> str:
    if not isinstance(value, str):
        return ", ".join(map(_shown, value)) or "an empty list"
    if value == ZEROS:
        return "96 zeros"
    return repr(value) if len(value) <= _SHOWN else f"{value[:8]}…"
