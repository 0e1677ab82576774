"""Whether a statement of a policy applies to a request: its principals, actions and conditions.

Sources, below https://docs.aws.amazon.com/:
    IAM/latest/UserGuide/reference_policies_elements.html
    IAM/latest/UserGuide/reference_policies_elements_notprincipal.html
    kms/latest/developerguide/grants.html
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from generator.policy.operators import (
    UNKNOWN,
    Truth,
    Unknown,
    all_,
    any_,
    condition_holds,
    listed,
    matches,
    not_,
)
from generator.policy.request import SERVICE, Grant, Kind, Principal, Request


@dataclass(frozen=True)
class Finding:
    """One statement (or grant), and whether it applies to the request."""

    policy: str
    index: int
    effects: tuple[str, ...]  # both, if which one it is cannot be known
    by_name: Truth  # it names the caller itself, or everybody
    by_account: Truth = False  # it names the caller's account, which delegates to its IAM
    sid: str | None = None

    @property
    def applies(self) -> Truth:
        """Return whether it applies, by naming the caller or the caller's account."""
        return any_((self.by_name, self.by_account))

    def __str__(self) -> str:
        """Name it for a person."""
        if self.policy.startswith("grant"):
            return self.policy
        name = f"statement {self.index + 1}" + (f" ({self.sid})" if self.sid else "")
        owner = "the" if self.policy == "key policy" else "the caller's"
        return f"{name} of {owner} {self.policy}"


def grant_findings(grants: Sequence[Grant], request: Request) -> Iterator[Finding]:
    """Yield whether each grant lets the caller."""
    operation = request.action.partition(":")[2].lower()
    for index, grant in enumerate(grants):
        covered: Truth = operation in (name.lower() for name in grant.operations)
        if grant.constraints:
            met = Unknown(f"whether {', '.join(grant.constraints)} is met is not evaluated")
            covered = all_((covered, met))
        kind = "Service" if SERVICE.fullmatch(grant.grantee) else "AWS"
        by_name, by_account = _named(kind, grant.grantee, request.principal)
        yield Finding(
            f"grant {index + 1}",
            index,
            ("Allow",),
            all_((covered, by_name)),
            all_((covered, by_account)),
        )


def findings(name: str, policy: Mapping[str, object], request: Request) -> Iterator[Finding]:
    """Yield whether each statement of the policy *name* applies."""
    elements = _KEY_POLICY_ELEMENTS if name == "key policy" else _IDENTITY_POLICY_ELEMENTS
    for index, statement in enumerate(listed(policy.get("Statement", UNKNOWN))):
        if (
            not isinstance(statement, Mapping)
            or statement.get("Effect") not in ("Allow", "Deny")
            or not _is_well_formed(frozenset(statement), elements)
        ):
            # KMS stores no such statement, so its effect is not known.
            unknown = Unknown("it is not a well-formed statement, or not known before deployment")
            yield Finding(name, index, ("Deny", "Allow"), unknown)
            continue
        sid = statement.get("Sid")
        yield Finding(
            name,
            index,
            (statement["Effect"],),
            *_statement_applies(statement, request),
            sid=sid if isinstance(sid, str) else None,
        )


_IDENTITY_POLICY_ELEMENTS = ("Action", "Resource")
_KEY_POLICY_ELEMENTS = ("Action", "Resource", "Principal")


@functools.lru_cache
def _is_well_formed(used: frozenset[str], elements: Sequence[str]) -> bool:
    """Return whether KMS and IAM accept a statement with the elements *used*."""
    known = {"Sid", "Effect", "Condition", *elements, *(f"Not{element}" for element in elements)}
    return used <= known and all(
        (element in used) != (f"Not{element}" in used) for element in elements
    )


def _statement_applies(statement: Mapping[str, object], request: Request) -> tuple[Truth, Truth]:
    """Return whether it applies by naming the caller, and whether by naming the account."""
    action = _covers(statement, "Action", request.action, ignore_case=True)
    by_name, by_account = _caller_matches(statement, request.principal)
    if action is False or (by_name is False and by_account is False):
        return False, False  # most statements end here, which saves the rest of the work
    asked = all_(
        (
            action,
            _covers(statement, "Resource", request.key_arn, ignore_case=False),
            condition_holds(statement.get("Condition", {}), request.values),
        )
    )
    return all_((asked, by_name)), all_((asked, by_account))


def _covers(
    statement: Mapping[str, object], element: str, value: str, *, ignore_case: bool
) -> Truth:
    patterns = listed(statement.get(element, statement.get(f"Not{element}")))
    covered = any_(
        matches(pattern, value, wildcards=True, ignore_case=ignore_case) for pattern in patterns
    )
    return covered if element in statement else not_(covered)


# --- principals ----------------------------------------------------------------------------------


def _caller_matches(statement: Mapping[str, object], caller: Principal) -> tuple[Truth, Truth]:
    """Return whether the statement names the caller, and whether it names the caller's account."""
    if "Principal" not in statement and "NotPrincipal" not in statement:
        return True, False  # an identity policy applies to its own caller
    if "Principal" in statement:
        named = [_named(*entry, caller) for entry in _entries(statement["Principal"])]
        return any_(by_name for by_name, _ in named), any_(by_account for _, by_account in named)
    return not_(_excepted(list(_entries(statement["NotPrincipal"])), caller)), False


def _entries(element: object) -> Iterator[tuple[str, object]]:
    """Yield (type, name): ``"*"`` alone means what ``{"AWS": "*"}`` means."""
    if not isinstance(element, Mapping):
        yield ("AWS" if element == "*" else "", element)
        return
    for kind, names in element.items():
        for name in listed(names):
            yield str(kind), name


def _named(kind: str, name: object, caller: Principal) -> tuple[Truth, Truth]:
    if kind == "AWS" and name == "*":
        return True, False
    if kind == "Service":
        return caller.kind is Kind.SERVICE and matches(name, caller.names[0]), False
    if kind != "AWS" or not isinstance(name, str) or _is_not_a_principal(name):
        return Unknown(f"{name!r} is not a principal that this evaluation knows"), False
    by_name = any_(matches(name, own) for own in caller.names)
    by_account = any_(matches(name, own) for own in caller.account_names)
    if caller.kind is Kind.ROOT:
        return by_account, False
    return by_name, by_account


def _is_not_a_principal(name: str) -> bool:
    # KMS shows a deleted user or role as its unique id, which no longer matches anybody.
    shape = r"\d{12}|A(IDA|ROA)\w+|arn:[^:]+:(iam|sts)::\d{12}:[^*?]+"
    return UNKNOWN not in name and "${" not in name and not re.fullmatch(shape, name)


def _excepted(entries: Sequence[tuple[str, object]], caller: Principal) -> Truth:
    """Return whether NotPrincipal exempts the caller.

    It must list the caller's account as well as the caller (and a session's role). If it lists only
    some of these, AWS does not document the result: it says "might".
    """
    if any(name == "*" for _, name in entries):
        return True
    if any(kind not in ("AWS", "Service") for kind, _ in entries):
        return Unknown("NotPrincipal names a kind of principal that this evaluation does not know")
    if caller.account:
        own_names = (name for name in caller.names if caller.kind is not Kind.ROOT)
        identities = [*((name,) for name in own_names), caller.account_names]
    else:
        identities = [caller.names]
    exempt = [
        any_(matches(name, own) for _, name in entries for own in names) for names in identities
    ]
    if any_(exempt) is True and all_(exempt) is False:
        return Unknown("NotPrincipal lists only one of the caller and the caller's account")
    return all_(exempt)
