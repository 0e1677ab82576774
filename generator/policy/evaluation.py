"""Evaluates key policy, identity policies and grants for one request, as KMS would.

This is the only place that defines what a policy *means*. The lint rules, ``explain`` and the
rehearsal's KMS all call ``evaluate``; nothing here depends on a particular template.

It never guesses. Whatever it cannot know (a policy variable, an unknown operator, a value that a
template leaves open, a condition key that was not given) is an ``Unknown``, the third truth value
of the logic. An unknown that cannot change the outcome disappears; any other makes the verdict
CANNOT_PROVE.

Evaluated are the key policy, the caller's identity policies and grants. Not evaluated, because they
can only remove permissions, are permission boundaries and session, organization and VPC endpoint
policies. Nor does it matter whether KMS offers an operation across accounts, or for a kind of key:
the verdict is about permissions.

Sources, below https://docs.aws.amazon.com/:
    IAM/latest/UserGuide/reference_policies_evaluation-logic.html
    IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
    IAM/latest/UserGuide/reference_policies_condition-single-vs-multi-valued-context-keys.html
    IAM/latest/UserGuide/reference_policies_elements_notprincipal.html
    kms/latest/developerguide/key-policies.html
    kms/latest/developerguide/conditions-attestation.html
    kms/latest/developerguide/grants.html
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from generator.policy.operators import Truth, Unknown, all_, any_
from generator.policy.request import Grant, Kind, Request
from generator.policy.statements import Finding, findings, grant_findings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Verdict(Enum):
    """What is certain about a request."""

    ALLOWED = "allowed"
    DENIED = "denied"
    CANNOT_PROVE = "cannot prove"


@dataclass(frozen=True)
class Decision:
    """A verdict, the statement that decides it, and the reason.

    ``statement`` is the index (from 0) in ``policy``, which is "key policy", "identity policy N"
    (N from 1) or "grant N"; it is None when no statement applies.
    """

    verdict: Verdict
    reason: str
    policy: str = "key policy"
    statement: int | None = None
    sid: str | None = None


def evaluate(
    request: Request,
    key_policy: Mapping[str, object],
    identity_policies: Sequence[Mapping[str, object]] = (),
    grants: Sequence[Grant] = (),
) -> Decision:
    """Decide *request* as KMS would.

    An explicit Deny always wins, over grants, too. In the key's own account a statement that names
    the caller suffices; one that names the account also needs an Allow in an identity policy.
    Callers of other accounts always need that. Root users, services and anonymous callers have no
    identity policies.
    """
    on_key = list(findings("key policy", key_policy, request))
    on_caller = [
        finding
        for number, policy in enumerate(identity_policies, 1)
        for finding in findings(f"identity policy {number}", policy, request)
    ]
    denials = [finding for finding in on_key + on_caller if "Deny" in finding.effects]
    for finding in denials:
        if finding.applies is True:
            return _decision(Verdict.DENIED, f"{finding} denies it", finding)

    allowed, by = _allowance(on_key, on_caller, list(grant_findings(grants, request)), request)
    if allowed is False:
        missing = "no statement of the key policy and no grant allows it"
        if by:
            missing = f"{by} delegates to the caller's identity policies, and none allows it"
        return Decision(Verdict.DENIED, missing)
    for finding in denials:
        if isinstance(finding.applies, Unknown):
            reason = f"{finding} may deny it, but {finding.applies.why}"
            return _decision(Verdict.CANNOT_PROVE, reason, finding)
    if isinstance(allowed, Unknown):
        return _decision(Verdict.CANNOT_PROVE, f"{by} may allow it, but {allowed.why}", by)
    return _decision(Verdict.ALLOWED, f"{by} allows it", by)


def _decision(verdict: Verdict, reason: str, by: Finding | None) -> Decision:
    return (
        Decision(verdict, reason, by.policy, by.index, by.sid) if by else Decision(verdict, reason)
    )


def _allowance(
    on_key: Sequence[Finding],
    on_caller: Sequence[Finding],
    grants: Sequence[Finding],
    request: Request,
) -> tuple[Truth, Finding | None]:
    """Return whether the request is allowed, and the statement or grant that decides it."""
    caller = request.principal
    delegated = any_(
        [
            caller.kind not in (Kind.USER, Kind.ROLE),
            *(finding.applies for finding in on_caller if "Allow" in finding.effects),
        ]
    )
    named = any_((caller.account in ("", request.key_account), delegated))
    granted = Unknown("AWS does not say that a grant suffices in another account")

    candidates: list[tuple[Truth, Finding]] = []
    for finding in [*on_key, *grants]:
        if "Allow" in finding.effects and finding.applies is not False:
            suffices = granted if finding in grants and named is False else named
            ways = (finding.by_name, suffices), (finding.by_account, delegated)
            candidates.append((any_(map(all_, ways)), finding))
    verdict = any_(truth for truth, _ in candidates)
    return verdict, next((finding for truth, finding in candidates if truth == verdict), None)
