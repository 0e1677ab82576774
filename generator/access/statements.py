"""When a policy's statement applies: the symbolic form of ``generator.policy.statements``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from generator.access.conditions import condition_holds
from generator.deployments.comparisons import (
    EXACTLY,
    How,
    compare,
    compare_items,
    is_known,
    known,
)
from generator.deployments.formulas import (
    Formula,
    Free,
    Is,
    Items,
    Subject,
    Text,
    choice,
    every,
    negated,
    some,
)
from generator.deployments.policy_texts import parsed_text
from generator.deployments.symbolic import (
    Composed,
    Encoded,
    Located,
    Node,
    NoValue,
    Opaque,
    Template,
    Written,
)
from generator.nodes import mapping, walk
from generator.policy.request import Kind

if TYPE_CHECKING:
    from generator.access.requests import Asked, Caller
    from generator.nodes import Path

_EVERYBODY = "*"
_PRINCIPAL = re.compile(r"\d{12}|A(IDA|ROA)\w+|arn:[^:]+:(iam|sts)::\d{12}:[^*?]+")
_ACTION, _RESOURCE = How(wildcards=True, ignore_case=True), How(wildcards=True, variables=True)
_SERVICE = re.compile(r"[A-Za-z0-9.-]+")
_REFERENCE = re.compile(r"\$\{[A-Za-z][^{}$]*\}")
_MEMBERS = {"Id", "Statement", "Version"}
_WITH_VARIABLES = "2012-10-17"
"""The version of the policy language with variables, and in which ``${*}`` is a literal ``*``."""
_EFFECTS = ("Deny", "Allow")
_ELEMENTS = ("Action", "Resource", "Principal")


@dataclass(frozen=True, eq=False)
class Statement:
    """A statement that a policy may have, and when it has it.

    ``body`` is None if nothing is known about it; ``why`` is the reason. ``is_certain`` says
    whether the statement exists in every deployment in which ``when`` holds; a role's need not.
    """

    when: Formula
    body: Mapping[str, object] | None
    path: Path
    why: str = ""
    free: tuple[Free, Free] = field(default=(Free(""), Free("")))
    named: dict[Caller, tuple[Formula, Formula]] = field(default_factory=dict)
    is_certain: bool = False


def policy_statements(
    template: Template, node: object, path: Path, default: Mapping[str, object] | None = None
) -> list[Statement]:
    """Return every statement that the policy *node* may have; *default* is in place of no value."""
    found: list[Statement] = []
    for when, policy in template.alternatives(node, path):
        document: object = policy
        if isinstance(policy, Written):
            document = parsed_text(policy.text)
        elif isinstance(policy, Located):
            document = policy.node
        elif isinstance(policy, Encoded):
            document = policy.document
        if isinstance(policy, NoValue):
            if default is not None:
                found += _listed(template, when, default["Statement"], path)
            continue
        if not isinstance(document, Mapping) or "Statement" not in document:
            why = document.why if isinstance(document, Opaque) else "the policy has no statements"
            found.append(_unknown(when, path, why))
            continue
        if more := [*map(str, document.keys() - _MEMBERS)]:
            found.append(_unknown(when, path, f"{more[0]} is not a member of a policy"))
            continue
        if document.get("Version") != _WITH_VARIABLES and _has_special_text(document):
            why = f"without Version {_WITH_VARIABLES}, ${{...}} has another meaning"
            found.append(_unknown(when, path, why))
            continue
        is_placed = isinstance(policy, (Located, Encoded))
        place = policy.path if isinstance(policy, (Located, Encoded)) else path
        below = (*place, "Statement") if is_placed else place
        found += _listed(template, when, document["Statement"], below)
    return found


def _has_special_text(document: Mapping[str, object]) -> bool:
    """Return whether a text has a dollar sign that is not of a reference or a variable.

    Source: IAM User Guide, "IAM JSON policy elements: Version".
    """
    pieces: list[object] = []
    for _, node in walk(document):
        pieces += node.text if isinstance(node, Composed) else [node]
    texts = (piece for piece in pieces if isinstance(piece, str))
    return any("$" in _REFERENCE.sub("", text) for text in texts)


def _listed(template: Template, when: Formula, node: object, path: Path) -> Iterator[Statement]:
    for also, item, place in template.items(node, path):
        together = every((when, also))
        if isinstance(item, Located) and isinstance(item.node, Mapping):
            yield Statement(together, item.node, place)
        else:
            why = item.why if isinstance(item, Opaque) else "it is not a statement"
            yield _unknown(together, place, why)


def _unknown(when: Formula, path: Path, why: str) -> Statement:
    return Statement(when, None, path, why, (Free(why), Free(why)))


@dataclass(frozen=True, eq=False)
class Applied:
    """Formulas: the statement denies, allows by naming the caller, allows by naming the account."""

    denies: Formula
    allows_name: Formula
    allows_account: Formula = False


def applied(template: Template, statement: Statement, asked: Asked, *, on_key: bool) -> Applied:
    """Return the formulas for what *statement*, of a key or identity policy, does to *asked*."""
    with template.evaluated(statement.when if statement.is_certain else False):
        return _applied(template, statement, asked, on_key=on_key)


def _applied(template: Template, statement: Statement, asked: Asked, *, on_key: bool) -> Applied:
    if statement.body is None:
        deny, allow = statement.free
        return Applied(every((statement.when, deny)), every((statement.when, allow)))
    body = statement.body
    elements = _ELEMENTS if on_key else _ELEMENTS[:2]
    formed = _well_formed(body, elements)
    if not formed:
        deny, allow = (Free("it is not a well-formed statement") for _ in range(2))
        return Applied(every((statement.when, deny)), every((statement.when, allow)))
    denies, allows = (_has_effect(template, body.get("Effect"), name) for name in _EFFECTS)
    action = _covers(template, body, "Action", (asked.action,), _ACTION)
    if action is False:
        return Applied(False, False)  # noqa: FBT003 - formulas
    if asked.caller not in statement.named:  # the same for every action
        statement.named[asked.caller] = _callers(template, body, asked.caller)
    by_name, by_account = statement.named[asked.caller]
    tests = every(
        (
            statement.when,
            action,
            _covers(template, body, "Resource", asked.arn, _RESOURCE),
            condition_holds(template, body.get("Condition", {}), asked.held),
        )
    )
    return Applied(
        every((denies, tests, some((by_name, by_account)))),
        every((allows, tests, by_name)),
        every((allows, tests, by_account)),
    )


def _well_formed(body: Mapping[str, object], elements: Sequence[str]) -> bool:
    used = {str(name) for name in body}
    allowed = {"Sid", "Effect", "Condition", *elements, *(f"Not{name}" for name in elements)}
    return used <= allowed and all((name in used) != (f"Not{name}" in used) for name in elements)


def _has_effect(template: Template, node: object, effect: str) -> Formula:
    """Return whether the effect is *effect*, as a formula; an unknown effect may be either."""
    cases: list[Formula] = []
    for when, text in template.texts(node):
        if isinstance(text, Opaque):
            cases.append(every((when, Free(text.why))))
        elif is_known(text) and known(text) not in _EFFECTS:
            cases.append(every((when, Free(f"the effect {known(text)!r} is not known"))))
        else:
            cases.append(every((when, compare(text, (effect,)))))
    return some(cases)


def _covers(
    template: Template, body: Mapping[str, object], element: str, subject: Subject, how: How
) -> Formula:
    node = body.get(element, body.get(f"Not{element}"))
    items = [(when, item) for when, item, _ in template.items(node)]
    covered = some(every((when, value_matches(item, subject, how))) for when, item in items)
    if element in body:
        return covered
    empty = Free(f"AWS does not say what Not{element} without values means")
    return choice(some(when for when, _ in items), negated(covered), empty)


def value_matches(node: Node, subject: Subject, how: How = EXACTLY) -> Formula:
    """Return whether a value of a policy matches a text of a request, as a formula."""
    if isinstance(node, Written):
        return compare(node.text, subject, how)
    if isinstance(node, Items):
        return compare_items(node, subject, how)
    return Free(node.why if isinstance(node, Opaque) else "a value that is not a text")


# --- principals ----------------------------------------------------------------------------------


def _callers(
    template: Template, body: Mapping[str, object], caller: Caller
) -> tuple[Formula, Formula]:
    """Return whether the statement names the caller, and whether the account, as formulas."""
    if "Principal" not in body and "NotPrincipal" not in body:
        return True, False  # an identity policy applies to its own caller
    if "Principal" in body:
        found = [
            (every((when, name)), every((when, account)))
            for when, kind, node in entries(template, body["Principal"])
            for name, account in [named(kind, node, caller)]
        ]
        return some(name for name, _ in found), some(account for _, account in found)
    exempt = [*entries(template, body["NotPrincipal"])]
    empty = Free("AWS does not say what NotPrincipal without values means")
    named_any = some(when for when, _, _ in exempt)
    return choice(named_any, negated(_excepted(exempt, caller)), empty), False


def entries(template: Template, element: object) -> Iterator[tuple[Formula, str, Node]]:
    """Yield formula, type and name: ``"*"`` alone means what ``{"AWS": "*"}`` means."""
    for when, node in template.alternatives(element):
        if isinstance(node, Located) and isinstance(node.node, Mapping):
            for kind, names in node.node.items():
                for also, name, _ in template.items(names):
                    yield every((when, also)), str(kind), name
        else:
            everybody = isinstance(node, Written) and node.text == (_EVERYBODY,)
            yield when, "AWS" if everybody else "", node


def named(kind: str, node: Node, caller: Caller) -> tuple[Formula, Formula]:
    """Return whether an entry of Principal names the caller, and whether the account."""
    if kind == "Service":
        if isinstance(node, Written) and is_known(node.text):
            name = known(node.text)
            if not _SERVICE.fullmatch(name):
                return Free(f"{name!r} is not a service that this evaluation knows"), False
        return every((caller.is_(Kind.SERVICE), value_matches(node, (caller.service,)))), False
    if kind != "AWS" or not isinstance(node, (Written, Items)):
        return Free("a principal that this evaluation does not know"), False
    if isinstance(node, Written) and is_known(node.text) and "${" not in known(node.text):
        name = known(node.text)
        if name == _EVERYBODY:
            return True, False
        if not _PRINCIPAL.fullmatch(name):
            return Free(f"{name!r} is not a principal that this evaluation knows"), False
    everybody = value_matches(node, (_EVERYBODY,))
    by_name = [
        every((caller.is_(who), value_matches(node, own)))
        for who in (Kind.USER, Kind.ROLE, Kind.FEDERATED)
        for own in caller.names(who)
    ]
    by_account = every(
        (
            caller.has_account,
            some(value_matches(node, own) for own in caller.account_names),
        )
    )
    return some((everybody, *by_name)), by_account


def _excepted(exempt: Sequence[tuple[Formula, str, Node]], caller: Caller) -> Formula:
    """Return whether NotPrincipal exempts the caller, as a formula.

    It must list the caller's account as well as the caller (and a session's role). If it lists only
    some of these, AWS does not document the result: it says "might".
    """

    def listed(subjects: Sequence[Subject]) -> Formula:
        return some(
            every((when, value_matches(node, own))) for when, _, node in exempt for own in subjects
        )

    if any(kind not in ("AWS", "Service") for _, kind, _ in exempt):
        return Free("NotPrincipal names a kind of principal that this evaluation does not know")
    everybody = some(every((when, value_matches(node, (_EVERYBODY,)))) for when, _, node in exempt)
    account = listed(caller.account_names)
    cases: list[Formula] = []
    for kind in Kind:
        own = [] if kind is Kind.ROOT else [listed([name]) for name in caller.names(kind)]
        identities = own if kind in (Kind.SERVICE, Kind.ANONYMOUS) else [*own, account]
        all_listed = every(identities) if identities else False
        open_ = Free("NotPrincipal lists only one of the caller and the caller's account")
        partly = every((some(identities), negated(all_listed), open_))
        cases.append(every((caller.is_(kind), some((all_listed, partly)))))
    return some((everybody, *cases))


def literal_partitions(template: Template, statements: Sequence[Statement]) -> Formula:
    """Return what principals written as ARNs imply about the partition.

    KMS refuses a policy that names a principal which does not exist, and in a partition there are
    only principals of that partition.

    Source: https://docs.aws.amazon.com/kms/latest/APIReference/API_PutKeyPolicy.html
    """
    tests: list[Formula] = []
    for statement in statements:
        body = mapping(statement.body)
        element = body.get("Principal", body.get("NotPrincipal"))
        for when, kind, node in entries(template, element) if element is not None else ():
            if kind == "AWS" and isinstance(node, Written) and (name := _partition(node.text)):
                partition = Is(template.around.partition, name)
                tests.append(some((negated(every((statement.when, when))), partition)))
    return every(tests)


def _partition(text: Text) -> str:
    start = text[0] if text else ""
    found = re.match(r"arn:([a-z-]+):iam:", start) if isinstance(start, str) else None
    return found[1] if found else ""
