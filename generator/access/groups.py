"""Groups of callers that share an answer: every caller of a key belongs to one of them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from generator.access.answers import BY_GRANT, Who
from generator.access.search import Callers, Example
from generator.deployments.formulas import Formula, Items, Text, every, negated, some
from generator.deployments.symbolic import Template, Written
from generator.nodes import mapping
from generator.policy.request import Kind

if TYPE_CHECKING:
    from generator.access.keys import Key

NAMED_MAX = 20
"""If a policy names more accounts than this, they are one group."""
_OF_ACCOUNTS = ("aws:principalaccount", "kms:calleraccount", "aws:principalarn")
"""Condition keys whose values name accounts that may call."""


@dataclass(frozen=True, eq=False)
class Group:
    """Callers that share an answer, and the condition for being one of them."""

    who: Who
    callers: Callers
    by_grant: bool = False


def groups_of(key: Key) -> Iterator[Group]:
    """Yield the groups of callers; every caller is in one of them."""
    own = key.of_owner
    administrator = Who("an administrator of the key's account", outsider=False)
    yield Group(administrator, Callers(own, _is_of_owner))
    yield Group(Who(BY_GRANT, outsider=False), _outsiders(key), by_grant=True)
    named_accounts = [*accounts_named_by(key)]
    if len(named_accounts) > NAMED_MAX:
        whole = every((some(formula for _, formula in named_accounts), negated(own)))
        texts = [text for text, _ in named_accounts]
        includes = functools.partial(_is_of_some_account, texts)
        who = Who(f"one of the {len(texts)} accounts that the policy names")
        yield Group(who, Callers(whole, includes))
    for text, formula in named_accounts if len(named_accounts) <= NAMED_MAX else ():
        outside = every((formula, negated(own)))
        includes = functools.partial(_is_of_account, text)
        yield Group(Who(f"account {shown(text)}"), Callers(outside, includes))
    named_ones = some(formula for _, formula in named_accounts)
    rest = every((key.caller.has_account, negated(own), negated(named_ones)))
    texts = [text for text, _ in named_accounts]
    unnamed = Callers(rest, functools.partial(_is_of_no_account, texts))
    yield Group(Who("an account that the policy does not name"), unnamed)
    for name, kind in (
        ("somebody without credentials", Kind.ANONYMOUS),
        ("an AWS service", Kind.SERVICE),
    ):
        callers = Callers(key.caller.is_(kind), functools.partial(_is_of_kind, kind))
        yield Group(Who(name), callers)


EVERYBODY = Callers(True, lambda _: True)  # noqa: FBT003 - a formula


def _outsiders(key: Key) -> Callers:
    outside = every((key.caller.has_account, negated(key.of_owner)))
    return Callers(outside, _is_outside)


def _is_outside(example: Example) -> bool:
    return bool(example.request.principal.account) and not _is_of_owner(example)


def _is_of_owner(example: Example) -> bool:
    request = example.request
    return request.principal.account == request.key_account


def _is_of_account(text: Text, example: Example) -> bool:
    account = example.request.principal.account
    values = example.deployment.parameters
    named_account = "".join(
        piece if isinstance(piece, str) else str(values.get(piece.name)) for piece in text
    )
    return bool(account) and account == named_account and not _is_of_owner(example)


def _is_of_some_account(texts: Sequence[Text], example: Example) -> bool:
    return any(_is_of_account(text, example) for text in texts)


def _is_of_no_account(texts: Sequence[Text], example: Example) -> bool:
    account = example.request.principal.account
    return bool(account) and not _is_of_owner(example) and not _is_of_some_account(texts, example)


def _is_of_kind(kind: Kind, example: Example) -> bool:
    return example.request.principal.kind is kind


def shown(text: Text) -> str:
    """Return *text* as the template has it, with symbols by their names."""
    return "".join(piece if isinstance(piece, str) else f"${{{piece.name}}}" for piece in text)


def accounts_named_by(key: Key) -> Iterator[tuple[Text, Formula]]:
    """Yield every account that the policy names, by its digits or by a parameter."""
    found: dict[Text, Formula] = {}
    usual = key.template.around.account.usual
    owner = usual if len(usual) == 1 else ()  # of a key on AWS it is known
    for statement in key.statements:
        for text in _texts(key.template, statement.body):
            for account in _accounts(text):
                if account not in found and account != owner:
                    found[account] = key.of_account(Written(account))
    yield from ((text, formula) for text, formula in found.items() if formula is not False)


def _accounts(text: Text) -> Iterator[Text]:
    """Yield the accounts in a text: twelve digits or a parameter, alone or in an ARN."""
    for index, piece in enumerate(text):
        if isinstance(piece, str):
            for account in re.findall(r"^\d{12}$|(?<=::)\d{12}(?=:)", piece):
                yield (account,)
            continue
        before = text[index - 1] if index else ""
        in_arn = isinstance(before, str) and before.endswith("::")
        is_parameter = not piece.why and not piece.name.startswith("AWS::")
        if is_parameter and (len(text) == 1 or in_arn):
            yield (piece,)


def _texts(template: Template, node: object) -> Iterator[Text]:
    """Yield the texts of principals and of conditions that a statement may contain."""
    body = mapping(node)
    for element in ("Principal", "NotPrincipal"):
        if element in body:
            yield from _all_texts(template, body[element])
    for _, operators in template.alternatives(body.get("Condition", {})):
        for keys in mapping(getattr(operators, "node", None)).values():
            for _, found in template.alternatives(keys):
                for key, values in mapping(getattr(found, "node", None)).items():
                    if str(key).lower() in _OF_ACCOUNTS:
                        yield from _all_texts(template, values)


def _all_texts(template: Template, node: object) -> Iterator[Text]:
    for _, found in template.alternatives(node):
        if isinstance(found, Written):
            yield found.text
        elif isinstance(found, Items):
            continue
        elif isinstance(inner := getattr(found, "node", None), (Mapping, list)):
            children = inner.values() if isinstance(inner, Mapping) else inner
            for child in children:
                yield from _all_texts(template, child)
