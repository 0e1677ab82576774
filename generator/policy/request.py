"""One call to KMS: the caller, the action, and the request context.

Sources, below https://docs.aws.amazon.com/:
    kms/latest/developerguide/conditions-kms.html
    kms/latest/developerguide/conditions-attestation.html
    IAM/latest/UserGuide/reference_policies_condition-keys.html
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from generator.policy.operators import UNKNOWN, Unknown, Values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Leads(Enum):
    """What a caller gains by an action."""

    TO_PLAINTEXT = "plaintext"  # what the key protects
    TO_CONTROL = "control"  # over who may call the other actions, or whether anybody may
    TO_FORGERY = "forgery"  # a data key that the caller knows, encrypted under this key


class Action(NamedTuple):
    """What KMS documents about one of its operations."""

    leads: Leads
    attestable: bool  # takes a Recipient; without that parameter KMS sees no attestation


ACTIONS: Mapping[str, Action] = {
    "kms:Decrypt": Action(Leads.TO_PLAINTEXT, attestable=True),
    "kms:ReEncryptFrom": Action(Leads.TO_PLAINTEXT, attestable=False),
    "kms:DeriveSharedSecret": Action(Leads.TO_PLAINTEXT, attestable=True),
    "kms:CreateGrant": Action(Leads.TO_CONTROL, attestable=False),
    "kms:PutKeyPolicy": Action(Leads.TO_CONTROL, attestable=False),
    "kms:ReplicateKey": Action(Leads.TO_CONTROL, attestable=False),
    "kms:CreateAlias": Action(Leads.TO_CONTROL, attestable=False),
    "kms:UpdateAlias": Action(Leads.TO_CONTROL, attestable=False),
    "kms:ScheduleKeyDeletion": Action(Leads.TO_CONTROL, attestable=False),
    "kms:DisableKey": Action(Leads.TO_CONTROL, attestable=False),
    "kms:EnableKey": Action(Leads.TO_CONTROL, attestable=False),
    "kms:CancelKeyDeletion": Action(Leads.TO_CONTROL, attestable=False),
    "kms:ImportKeyMaterial": Action(Leads.TO_CONTROL, attestable=False),
    "kms:DeleteImportedKeyMaterial": Action(Leads.TO_CONTROL, attestable=False),
    "kms:UpdatePrimaryRegion": Action(Leads.TO_CONTROL, attestable=False),
    "kms:RevokeGrant": Action(Leads.TO_CONTROL, attestable=False),
    "kms:GenerateDataKey": Action(Leads.TO_FORGERY, attestable=True),
    "kms:GenerateDataKeyPair": Action(Leads.TO_FORGERY, attestable=True),
    "kms:Encrypt": Action(Leads.TO_FORGERY, attestable=False),
    "kms:ReEncryptTo": Action(Leads.TO_FORGERY, attestable=False),
}
"""Every action that leads to plaintext, to control, or to an artifact of the caller's own.

``GenerateRandom`` takes a Recipient as well, but uses no key and therefore no key policy.
"""
REGISTER = re.compile(r"kms:recipientattestation:((?:nitrotpm)?pcr\d{1,2}|imagesha384)")
"""A condition key about an attestation document, in lower case."""
_ATTESTABLE = {name.lower() for name, facts in ACTIONS.items() if facts.attestable}


SERVICE = re.compile(r"[a-z0-9.-]+\.amazonaws\.com(\.cn)?")
"""The name of an AWS service as a principal."""


class Kind(Enum):
    """Kinds of caller; the value is that of ``aws:PrincipalType``, except for a service.

    Every request has that key, "including anonymous requests"; what it is for a service is not
    documented.
    """

    ROOT = "Account"
    USER = "User"
    ROLE = "AssumedRole"
    FEDERATED = "FederatedUser"
    SERVICE = "Service"
    ANONYMOUS = "Anonymous"


@dataclass(frozen=True)
class Principal:
    """The caller.

    ``names`` are the identifiers by which a policy can name exactly this caller, beginning with
    that of ``aws:PrincipalArn``; ``account`` is empty for services and anonymous callers.
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
        if SERVICE.fullmatch(name):
            return cls(Kind.SERVICE, "", (name,))
        arn = re.fullmatch(r"arn:([^:]+):(iam|sts)::(\d{12}):(root|[a-z-]+/.+)", name)
        kind, _, rest = arn[4].partition("/") if arn else ("", "", "")
        if arn and kind == "assumed-role" and rest.count("/") == 1:
            role, session = rest.split("/")
            return cls.session(f"arn:{arn[1]}:iam::{arn[3]}:role/{role}", session)
        if arn and kind == "federated-user":
            return cls(Kind.FEDERATED, arn[3], (name,))
        if not arn or kind not in ("root", "user", "role"):
            raise ValueError(f"{name!r} is not a principal: give the ARN of a root, user or role")
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
        """The names by which a policy can name the caller's whole account."""
        if not self.account:
            return ()
        return (f"arn:{self.names[0].split(':')[1]}:iam::{self.account}:root", self.account)


@dataclass(frozen=True)
class Attestation:
    """A verified attestation document: hexadecimal digests by the number of a register.

    ``pcrs`` are those of a Nitro enclave, ``nitrotpm`` those of an instance with NitroTPM; a
    document has only one kind. The value of a register that is missing here is not known.
    """

    pcrs: Mapping[int, str] = field(default_factory=dict)
    nitrotpm: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def debug(cls) -> Attestation:
        """Return what an enclave in debug mode attests: zeros."""
        return cls(dict.fromkeys(range(16), "0" * 96))

    def value(self, key: str) -> Values:
        """Return the value of a condition key below ``kms:RecipientAttestation:``, lower case."""
        registers = self.nitrotpm if key.startswith("nitrotpm") else self.pcrs
        if not registers and (self.pcrs or self.nitrotpm):
            return ()
        number = "0" if key == "imagesha384" else key.rpartition("pcr")[2]
        return registers.get(int(number), UNKNOWN)


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
        context: further condition keys: a text, a list for a multivalued key, ``()`` for an absent
            one. Keys that follow from the other arguments are not needed.
        context_is_complete: no other condition key is present. Otherwise other keys are unknown.
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
        if caller.kind is not Kind.SERVICE:
            known["aws:principaltype"] = caller.kind.value
        if caller.account:
            known["aws:principalarn"] = caller.names[0]
            known["aws:principalaccount"] = known["kms:calleraccount"] = caller.account
        elif caller.kind is Kind.SERVICE:
            known["aws:principalservicename"] = caller.names[0]
        else:
            known["aws:principalaccount"] = "anonymous"
        return known | {key.lower(): values for key, values in self.context.items()}

    def values(self, key: str) -> Values | Unknown:
        """Return the value or values of a condition key, ``()`` if the request lacks it."""
        key = key.lower()
        if key in self._known:
            return self._known[key]
        if register := REGISTER.fullmatch(key):
            if self.attestation is None or self.action.lower() not in _ATTESTABLE:
                return ()
            return self.attestation.value(register[1])
        if self.context_is_complete:
            return ()
        return Unknown(f"it is not known whether the request has {key}, and with which value")


@dataclass(frozen=True)
class Grant:
    """A grant as ``ListGrants`` shows it; *operations* without prefix, e.g. ``Decrypt``."""

    grantee: str
    operations: Sequence[str]
    constraints: Mapping[str, object] = field(default_factory=dict)
