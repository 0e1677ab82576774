"""What KMS answers: a key policy, evaluated for one request.

This is the one place that says what a policy *means*. The lint rules, ``explain`` and the
rehearsal's KMS all ask ``evaluate``; nothing here knows any particular template.

It never guesses. What it cannot know (a policy variable, an operator it does not know, a value
that a template leaves open, a condition key that the caller did not state) is a ``Doubt``, which
travels through the logic as a third truth value. A doubt that cannot change the outcome vanishes;
any other makes the verdict CANNOT_PROVE.

Evaluated: the key policy, the caller's identity policies, grants. Not evaluated, because they can
only take away: permission boundaries, session, organization and VPC endpoint policies. Whether KMS
offers an operation across accounts, or for a kind of key at all, is not asked either: the verdict
is about permission.

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

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from generator.policy.operators import (
    UNKNOWN,
    Doubt,
    Truth,
    Values,
    all_,
    any_,
    condition_holds,
    listed,
    matches,
    not_,
)


class Leads(Enum):
    """Where an action takes whoever may call it."""

    TO_PLAINTEXT = "plaintext"  # what the key protects
    TO_CONTROL = "control"  # of who may do the rest
    TO_FORGERY = "forgery"  # a data key that the caller knows, wrapped by this key


class Action(NamedTuple):
    """What KMS documents of one of its operations."""

    leads: Leads
    attestable: bool  # takes a Recipient; without that parameter KMS sees no attestation


ACTIONS: Mapping[str, Action] = {
    "kms:Decrypt": Action(Leads.TO_PLAINTEXT, attestable=True),
    "kms:ReEncryptFrom": Action(Leads.TO_PLAINTEXT, attestable=False),
    "kms:DeriveSharedSecret": Action(Leads.TO_PLAINTEXT, attestable=True),
    "kms:CreateGrant": Action(Leads.TO_CONTROL, attestable=False),
    "kms:PutKeyPolicy": Action(Leads.TO_CONTROL, attestable=False),
    "kms:ReplicateKey": Action(Leads.TO_CONTROL, attestable=False),
    "kms:GenerateDataKey": Action(Leads.TO_FORGERY, attestable=True),
    "kms:GenerateDataKeyPair": Action(Leads.TO_FORGERY, attestable=True),
    "kms:Encrypt": Action(Leads.TO_FORGERY, attestable=False),
    "kms:ReEncryptTo": Action(Leads.TO_FORGERY, attestable=False),
}
"""Every action that leads to plaintext, to control, or to an artifact of the caller's own making.

``GenerateRandom`` takes a Recipient as well, but uses no key and therefore no key policy.
"""
_ATTESTABLE = {name.lower() for name, facts in ACTIONS.items() if facts.attestable}


# --- the request ---------------------------------------------------------------------------------


class Kind(Enum):
    """Kinds of caller; the value is what ``aws:PrincipalType`` says of it."""

    ROOT = "Account"
    USER = "User"
    ROLE = "AssumedRole"
    SERVICE = "Service"
    ANONYMOUS = "Anonymous"


@dataclass(frozen=True)
class Principal:
    """Who asks.

    ``names`` are the identifiers by which a policy can name exactly this caller, the one that
    ``aws:PrincipalArn`` shows first; ``account`` is empty for services and anonymous callers.
    """

    kind: Kind
    account: str
    names: tuple[str, ...]

    @classmethod
    def parse(cls, name: str) -> Principal:
        """Read an ARN of IAM or STS, a service principal, or ``*`` for an anonymous caller.

        An STS session does not show its role's path; it is taken to be ``/``. Where the path is
        known, call ``session`` instead.

        Raises:
            ValueError: *name* is none of these.
        """
        if name == "*":
            return cls(Kind.ANONYMOUS, "", ())
        if re.fullmatch(r"[a-z0-9.-]+\.amazonaws\.com(\.cn)?", name):
            return cls(Kind.SERVICE, "", (name,))
        arn = re.fullmatch(r"arn:([^:]+):(iam|sts)::(\d{12}):(root|[a-z-]+/.+)", name)
        kind, _, rest = arn[4].partition("/") if arn else ("", "", "")
        if arn and kind == "assumed-role" and rest.count("/") == 1:
            role, session = rest.split("/")
            return cls.session(f"arn:{arn[1]}:iam::{arn[3]}:role/{role}", session)
        if not arn or kind not in ("root", "user", "role"):
            raise ValueError(f"{name!r} is no principal: give the ARN of a root, user or role")
        return cls(Kind[kind.upper()], arn[3], (name,))

    @classmethod
    def session(cls, role_arn: str, session_name: str) -> Principal:
        """Return the caller that assumed *role_arn* (with its path) as *session_name*."""
        role = cls.parse(role_arn)
        partition, name = role_arn.split(":")[1], role_arn.rpartition("/")[2]
        session = f"arn:{partition}:sts::{role.account}:assumed-role/{name}/{session_name}"
        return cls(Kind.ROLE, role.account, (role_arn, session))

    @property
    def account_names(self) -> tuple[str, ...]:
        """How a policy names the caller's whole account."""
        if not self.account:
            return ()
        return (f"arn:{self.names[0].split(':')[1]}:iam::{self.account}:root", self.account)


@dataclass(frozen=True)
class Attestation:
    """A verified attestation document of a Nitro enclave: hexadecimal digests by PCR index.

    An index that is missing here has a value that is not known.
    """

    pcrs: Mapping[int, str]

    @classmethod
    def debug(cls) -> Attestation:
        """Return what an enclave in debug mode attests: zeros."""
        return cls(dict.fromkeys(range(16), "0" * 96))


@dataclass(frozen=True)
class Request:
    """One call to KMS.

    Args:
        action: the permission it needs, e.g. ``kms:Decrypt`` (ReEncrypt needs two).
        principal: who calls.
        key_account: the twelve digits of the account that owns the key.
        key_arn: the key, or UNKNOWN: then a policy is satisfied by ``*`` only.
        attestation: what KMS verified, None without ``Recipient``. Ignored for actions that
            take no ``Recipient``.
        context: further condition keys: text, a list of a multivalued key, ``()`` of an absent
            one. What follows from the other arguments is known already.
        context_is_complete: no other condition key is present. Otherwise such a key is a doubt.
    """

    action: str
    principal: Principal
    key_account: str
    key_arn: str = UNKNOWN
    attestation: Attestation | None = None
    context: Mapping[str, Values] = field(default_factory=dict)
    context_is_complete: bool = False

    @functools.cached_property
    def _known(self) -> Mapping[str, Values]:
        caller = self.principal
        # KMS answers over TLS only.
        known: dict[str, Values] = {"aws:securetransport": "true"}
        known["aws:principalisawsservice"] = str(caller.kind is Kind.SERVICE).lower()
        if caller.account:
            known["aws:principalarn"] = caller.names[0]
            known["aws:principalaccount"] = known["kms:calleraccount"] = caller.account
            known["aws:principaltype"] = caller.kind.value
        elif caller.kind is Kind.SERVICE:
            known["aws:principalservicename"] = caller.names[0]
        return known | {key.lower(): values for key, values in self.context.items()}

    def values(self, key: str) -> Values | Doubt:
        """Return the value or values of a condition key, ``()`` if the request lacks it."""
        key = key.lower()
        if key in self._known:
            return self._known[key]
        if pcr := re.fullmatch(r"kms:recipientattestation:(?:pcr(\d{1,2})|imagesha384)", key):
            if self.attestation is None or self.action.lower() not in _ATTESTABLE:
                return ()
            return self.attestation.pcrs.get(int(pcr[1] or 0), UNKNOWN)
        if self.context_is_complete:
            return ()
        return Doubt(f"whether and how the request carries {key} is not known")


@dataclass(frozen=True)
class Grant:
    """A grant as ``ListGrants`` shows it; *operations* without prefix, e.g. ``Decrypt``."""

    grantee: str
    operations: Sequence[str]
    constraints: Mapping[str, object] = field(default_factory=dict)


# --- the answer ----------------------------------------------------------------------------------


class Verdict(Enum):
    """What is certain about a request."""

    ALLOWED = "allowed"
    DENIED = "denied"
    CANNOT_PROVE = "cannot prove"


@dataclass(frozen=True)
class Decision:
    """A verdict, the statement that decides it, and the reason in words.

    ``statement`` is the index (from 0) in ``policy``, which is "key policy", "identity policy N"
    (N from 1) or "grant N"; it is None when no statement applies.
    """

    verdict: Verdict
    reason: str
    policy: str = "key policy"
    statement: int | None = None
    sid: str | None = None


@dataclass(frozen=True)
class _Finding:
    """One statement (or grant), and whether it applies to the request."""

    policy: str
    index: int
    effects: tuple[str, ...]  # both, if which one it is cannot be known
    by_name: Truth  # it names the caller itself, or everybody
    by_account: Truth = False  # it names the caller's account, which delegates to its IAM
    sid: str | None = None

    @property
    def applies(self) -> Truth:
        return any_((self.by_name, self.by_account))

    def __str__(self) -> str:
        if self.policy.startswith("grant"):
            return self.policy
        name = f"statement {self.index + 1}" + (f" ({self.sid})" if self.sid else "")
        return f"{name} of the {self.policy}"


def evaluate(
    request: Request,
    key_policy: Mapping[str, object],
    identity_policies: Sequence[Mapping[str, object]] = (),
    grants: Sequence[Grant] = (),
) -> Decision:
    """Decide *request* as KMS would.

    An explicit Deny wins everywhere, over grants too. In the key's own account a statement that
    names the caller suffices; one that names the account needs an Allow by an identity policy
    besides. Callers of other accounts need that in any case. Root users, services and anonymous
    callers have no identity policies to ask.
    """
    on_key = list(_findings("key policy", key_policy, request))
    on_caller = [
        finding
        for number, policy in enumerate(identity_policies, 1)
        for finding in _findings(f"identity policy {number}", policy, request)
    ]
    denials = [finding for finding in on_key + on_caller if "Deny" in finding.effects]
    for finding in denials:
        if finding.applies is True:
            return _decision(Verdict.DENIED, f"{finding} denies it", finding)

    allowed, by = _allowance(on_key, on_caller, list(_grant_findings(grants, request)), request)
    if allowed is False:
        missing = "no statement of the key policy and no grant allows it"
        if by:
            missing = f"{by} leaves it to the caller's identity policies, and none allows it"
        return Decision(Verdict.DENIED, missing)
    for finding in denials:
        if isinstance(finding.applies, Doubt):
            reason = f"{finding} may deny it, but {finding.applies.why}"
            return _decision(Verdict.CANNOT_PROVE, reason, finding)
    if isinstance(allowed, Doubt):
        return _decision(Verdict.CANNOT_PROVE, f"{by} may allow it, but {allowed.why}", by)
    return _decision(Verdict.ALLOWED, f"{by} allows it", by)


def _decision(verdict: Verdict, reason: str, by: _Finding | None) -> Decision:
    return (
        Decision(verdict, reason, by.policy, by.index, by.sid) if by else Decision(verdict, reason)
    )


def _allowance(
    on_key: Sequence[_Finding],
    on_caller: Sequence[_Finding],
    grants: Sequence[_Finding],
    request: Request,
) -> tuple[Truth, _Finding | None]:
    """Return whether the request is allowed, and the statement or grant to which that is due."""
    caller = request.principal
    delegated = any_(
        [
            caller.kind not in (Kind.USER, Kind.ROLE),
            *(finding.applies for finding in on_caller if "Allow" in finding.effects),
        ]
    )
    named = any_((caller.account in ("", request.key_account), delegated))
    granted = Doubt("AWS does not say that a grant suffices in another account")

    candidates: list[tuple[Truth, _Finding]] = []
    for finding in [*on_key, *grants]:
        if "Allow" in finding.effects and finding.applies is not False:
            suffices = granted if finding in grants and named is False else named
            ways = (finding.by_name, suffices), (finding.by_account, delegated)
            candidates.append((any_(map(all_, ways)), finding))
    verdict = any_(truth for truth, _ in candidates)
    return verdict, next((finding for truth, finding in candidates if truth == verdict), None)


def _grant_findings(grants: Sequence[Grant], request: Request) -> Iterator[_Finding]:
    operation = request.action.partition(":")[2].lower()
    for index, grant in enumerate(grants):
        covered: Truth = operation in (name.lower() for name in grant.operations)
        if grant.constraints:
            met = Doubt(f"whether {', '.join(grant.constraints)} is met is not evaluated")
            covered = all_((covered, met))
        by_name, by_account = _named("AWS", grant.grantee, request.principal)
        yield _Finding(
            f"grant {index + 1}",
            index,
            ("Allow",),
            all_((covered, by_name)),
            all_((covered, by_account)),
        )


# --- statements ----------------------------------------------------------------------------------


def _findings(name: str, policy: Mapping[str, object], request: Request) -> Iterator[_Finding]:
    elements = _KEY_POLICY_ELEMENTS if name == "key policy" else _IDENTITY_POLICY_ELEMENTS
    for index, statement in enumerate(listed(policy.get("Statement", UNKNOWN))):
        if (
            not isinstance(statement, Mapping)
            or statement.get("Effect") not in ("Allow", "Deny")
            or not _is_well_formed(frozenset(statement), elements)
        ):
            # KMS stores no such statement, so its effect is nobody's to tell.
            doubt = Doubt("it is no well-formed statement, or not known before deployment")
            yield _Finding(name, index, ("Deny", "Allow"), doubt)
            continue
        sid = statement.get("Sid")
        yield _Finding(
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
    """Say whether KMS and IAM store a statement with the elements *used*."""
    known = {"Sid", "Effect", "Condition", *elements, *(f"Not{element}" for element in elements)}
    return used <= known and all(
        (element in used) != (f"Not{element}" in used) for element in elements
    )


def _statement_applies(statement: Mapping[str, object], request: Request) -> tuple[Truth, Truth]:
    """Return whether it applies by naming the caller, and whether by naming the account."""
    action = _covers(statement, "Action", request.action, ignore_case=True)
    by_name, by_account = _caller_matches(statement, request.principal)
    if action is False or (by_name is False and by_account is False):
        return False, False  # most statements end here: spare the rest
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
        return True, False  # an identity policy is its caller's own
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
    if kind != "AWS" or not isinstance(name, str) or _is_no_principal(name):
        return Doubt(f"{name!r} is no principal that this evaluation knows"), False
    by_name = any_(matches(name, own) for own in caller.names)
    by_account = any_(matches(name, own) for own in caller.account_names)
    if caller.kind is Kind.ROOT:
        return by_account, False
    return by_name, by_account


def _is_no_principal(name: str) -> bool:
    # KMS shows a deleted user or role by its unique id: that names nobody any more.
    shape = r"\d{12}|A(IDA|ROA)\w+|arn:[^:]+:(iam|sts)::\d{12}:[^*?]+"
    return UNKNOWN not in name and "${" not in name and not re.fullmatch(shape, name)


def _excepted(entries: Sequence[tuple[str, object]], caller: Principal) -> Truth:
    """Return whether NotPrincipal spares the caller.

    It must list the caller's account as well as the caller (and a session's role). What happens
    if it lists only some of these, AWS leaves open: "might".
    """
    if any(name == "*" for _, name in entries):
        return True
    if any(kind not in ("AWS", "Service") for kind, _ in entries):
        return Doubt("NotPrincipal names a kind of principal that this evaluation does not know")
    if caller.account:
        own_names = (name for name in caller.names if caller.kind is not Kind.ROOT)
        identities = [*((name,) for name in own_names), caller.account_names]
    else:
        identities = [caller.names]
    spared = [
        any_(matches(name, own) for _, name in entries for own in names) for names in identities
    ]
    if any_(spared) is True and all_(spared) is False:
        return Doubt("NotPrincipal lists only one of the caller and the caller's account")
    return all_(spared)
