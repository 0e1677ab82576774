"""What CloudTrail's events say about a key: decryptions, attested or not, and changes.

A decryption is attested if KMS recorded the attestation document that it verified, in
``additionalEventData.recipient``. CloudTrail writes registers in base64; older events have
hexadecimal digits.

Sources: https://docs.aws.amazon.com/kms/latest/developerguide/ct-nitro-enclave.html and
ct-nitro-tpm.html in the same guide.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from generator.audit import trail
from generator.nodes import listed, mapping

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from generator.audit.trail import Event

DECRYPTIONS: Final = ("Decrypt", "DeriveSharedSecret", "ReEncrypt")
"""Actions that return plaintext, a shared secret, or ciphertext under another key."""
CHANGES: Final = frozenset(
    {
        "CancelKeyDeletion",
        "CreateAlias",
        "CreateGrant",
        "CreateKey",
        "DeleteAlias",
        "DeleteImportedKeyMaterial",
        "DisableKey",
        "DisableKeyRotation",
        "EnableKey",
        "EnableKeyRotation",
        "ImportKeyMaterial",
        "PutKeyPolicy",
        "ReplicateKey",
        "RetireGrant",
        "RevokeGrant",
        "ScheduleKeyDeletion",
        "TagResource",
        "UntagResource",
        "UpdateAlias",
        "UpdateKeyDescription",
        "UpdatePrimaryRegion",
    }
)
IMAGE: Final = "PCR0"
NAMES: Final = {"EnclaveImageDigest": IMAGE}
"""Names of registers that CloudTrail does not call PCR<n>."""
HEX: Final = re.compile(r"[0-9a-fA-F]{96}")
IMAGE_KEYS: Final = ("kms:recipientattestation:imagesha384", "kms:recipientattestation:pcr0")


class Finding(Enum):
    """The judgement on one decryption, as reports show it."""

    BOUND = "attested, image bound"
    ATTESTED = "attested"  # whether its image was bound at the time cannot be determined
    DENIED = "denied"
    UNBOUND = "attested, image NOT bound"
    DEBUG = "DEBUG MODE attests nothing"
    UNATTESTED = "NOT ATTESTED"


ALARMING: Final = (Finding.UNBOUND, Finding.DEBUG, Finding.UNATTESTED)


@dataclass(frozen=True)
class Decryption:
    """One use of the key to decrypt; ``registers`` are the attested ones, in hexadecimal."""

    time: datetime
    action: str
    who: str
    finding: Finding
    registers: Mapping[str, str]
    module: str | None
    source: str
    error: str | None
    event: str

    @property
    def image(self) -> str | None:
        """PCR0 of the enclave image, None if no enclave attested."""
        return self.registers.get(IMAGE)


@dataclass(frozen=True)
class Change:
    """One change of the key's policy, grants, aliases or state."""

    time: datetime
    action: str
    who: str
    detail: str
    error: str | None
    event: str


@dataclass
class Audit:
    """All decryptions with one key, and all its changes, in one period."""

    key: str
    since: datetime | None
    until: datetime
    decryptions: list[Decryption] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    @property
    def alarming(self) -> list[Decryption]:
        """The decryptions that no bound image attested."""
        return [each for each in self.decryptions if each.finding in ALARMING]

    @property
    def undetermined(self) -> list[Decryption]:
        """The decryptions that were attested, but perhaps by an image that was not bound."""
        return [each for each in self.decryptions if each.finding is Finding.ATTESTED]

    @property
    def released(self) -> list[Decryption]:
        """The decryptions that KMS granted."""
        return [each for each in self.decryptions if each.finding is not Finding.DENIED]

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        count = len(self.released)
        every = f"{count} decryption{'s' if count != 1 else ''}"
        if not count:
            return "Nobody decrypted."
        if self.alarming:
            were = "was" if len(self.alarming) == 1 else "were"
            return f"{len(self.alarming)} of {every} {were} not attested by a bound image."
        if self.undetermined:
            by_image = any(each.image for each in self.undetermined)
            advice = "pass --images" if by_image else "compare the NitroTPM's registers yourself"
            return (
                f"{every}, all attested; whether the image was bound cannot be determined for "
                f"{len(self.undetermined)}: {advice}."
            )
        return f"{every}, all attested by a bound image."


def judge(
    events: Iterable[Event], audit: Audit, bound: Collection[str] | None, policy: str | None
) -> Audit:
    """Add to *audit* what *events* say, each event once, in the order of their times.

    Args:
        events: of any service and key; those that do not concern the audit's key are ignored.
        audit: has a key and a period.
        bound: PCR0s, in lower case, that may decrypt; None takes them from the key's policies.
        policy: the key's present policy, None if it is not known.
    """
    about = {
        # An event may be in two files or two pages; one without an id is always kept.
        str(event.get("eventID") or f"without id, {number}"): event
        for number, event in enumerate(events)
        if (trail.concerns(event, audit.key) or _may_decrypt_with(event, audit.key))
        and (audit.since is None or trail.when(event) >= audit.since)
    }
    ordered = sorted(about.values(), key=trail.when)
    if bound is None:
        history = _Policies(ordered, policy)
    else:
        condition = {"StringEquals": {IMAGE_KEYS[0]: sorted(bound)}}
        statement = {"Effect": "Allow", "Condition": condition}
        history = _Policies([], json.dumps({"Statement": statement}))
    for event in ordered:
        name = event.get("eventName")
        if name in DECRYPTIONS and _decrypts_with(event, audit.key):
            audit.decryptions.append(_decryption(event, history.images_at(trail.when(event))))
        elif name in CHANGES:
            audit.changes.append(_change(event))
    return audit


class _Policies:
    """The key's policies in the order in which CreateKey and PutKeyPolicy set them."""

    def __init__(self, events: Sequence[Event], now: str | None) -> None:
        self._put = [
            (trail.when(event), event["requestParameters"]["policy"])
            for event in events
            if event.get("eventName") in ("PutKeyPolicy", "CreateKey")
            and not event.get("errorCode")
            and isinstance(event["requestParameters"].get("policy"), str)
        ]
        self._now = now

    def images_at(self, time: datetime) -> frozenset[str] | None:
        """Return the PCR0s that the policy in force at *time* names, None if it is not known."""
        before = [policy for put, policy in self._put if put <= time]
        if before:
            return images_in(before[-1])
        # The policy before the first known change is not known.
        return images_in(self._now) if self._now and not self._put else None


def images_in(policy: str) -> frozenset[str]:
    """Return the PCR0s, in lower case, that a *policy* (JSON) binds.

    An image is bound if a Deny exempts it or an Allow requires it, unless a Deny refuses it.
    """
    try:
        statements = listed(mapping(json.loads(policy)).get("Statement"))
    except (ValueError, RecursionError):
        return frozenset()
    bound: set[str] = set()
    refused: set[str] = set()
    for statement in map(mapping, statements):
        for operator, condition in mapping(statement.get("Condition")).items():
            excepts = "not" in str(operator).lower()
            named = {
                str(digits).lower()
                for key, value in mapping(condition).items()
                if key.lower() in IMAGE_KEYS
                for digits in listed(value)
            }
            if statement.get("Effect") == "Deny":
                (bound if excepts else refused).update(named)
            elif not excepts:
                bound.update(named)
    return frozenset(each for each in bound - refused if HEX.fullmatch(each) and each.strip("0"))


def _may_decrypt_with(event: Event, key: str) -> bool:
    """Return whether KMS granted a decryption that names no key, so perhaps used *key*."""
    granted = event.get("eventName") in DECRYPTIONS and not event.get("errorCode")
    return granted and trail.may_decrypt_with(event, key)


def _decrypts_with(event: Event, key: str) -> bool:
    """Return whether an event decrypts with *key*: ReEncrypt also names its destination key."""
    if event["eventName"] != "ReEncrypt":
        return True
    source, destination = (
        None if name is None else trail.names(name, key)
        for name in map(event["requestParameters"].get, ("sourceKeyId", "destinationKeyId"))
    )
    if source is not None:
        return source
    # The caller named the source by an alias, or not at all.
    keys = [each for each in trail.resources(event) if ":key/" in each]
    if destination is False or not keys or set(keys) == {key}:
        return True
    # "The resources field specifies two KMS keys, the source and the destination, in that order."
    return keys[0] == key


def _decryption(event: Event, bound: frozenset[str] | None) -> Decryption:
    noted = event["additionalEventData"].get("recipient")
    recipient = noted if isinstance(noted, dict) else {}
    registers = _registers(recipient)
    return Decryption(
        time=trail.when(event),
        action=event["eventName"],
        who=who(event),
        finding=_finding(event, recipient, registers, bound),
        registers=registers,
        module=_text(recipient.get("attestationDocumentModuleId")),
        source=str(event.get("sourceIPAddress") or ""),
        error=_text(event.get("errorCode")),
        event=str(event.get("eventID")),
    )


def _finding(
    event: Event,
    recipient: Mapping[str, Any],
    registers: Mapping[str, str],
    bound: frozenset[str] | None,
) -> Finding:
    if event.get("errorCode"):  # a dry run has one, too
        return Finding.DENIED
    if not recipient:
        return Finding.UNATTESTED
    image = registers.get(IMAGE)
    if image is not None and not image.strip("0"):
        return Finding.DEBUG
    if image is None or bound is None:  # a NitroTPM has no register for an image
        return Finding.ATTESTED
    return Finding.BOUND if image in bound else Finding.UNBOUND


def _registers(recipient: Mapping[str, Any]) -> dict[str, str]:
    """Return the attested registers by name, like PCR0 and NitroTPMPCR4, in lower-case digits."""
    found = {}
    for name, value in recipient.items():
        part = re.fullmatch(r"attestationDocument(?:Enclave(?=PCR))?(.+)", name)
        if part and part[1] != "ModuleId" and isinstance(value, str):
            found[NAMES.get(part[1], part[1])] = _digits(value)
    return found


def _digits(value: str) -> str:
    if HEX.fullmatch(value):
        return value.lower()
    try:
        return base64.b64decode(value, validate=True).hex()
    except (binascii.Error, ValueError):  # ValueError: letters that are not ASCII
        return value


def _text(value: object) -> str | None:
    return str(value) if value else None


def who(event: Event) -> str:
    """Return the caller: its ARN, or what CloudTrail records of a caller in another account."""
    identity = event["userIdentity"]
    if identity.get("arn"):
        return str(identity["arn"])
    if identity.get("accountId"):
        principal = f" ({identity['principalId']})" if identity.get("principalId") else ""
        return f"account {identity['accountId']}{principal}"
    return str(identity.get("invokedBy") or identity.get("type") or "unknown")


def _change(event: Event) -> Change:
    return Change(
        time=trail.when(event),
        action=event["eventName"],
        who=who(event),
        detail=_detail(event["eventName"], event["requestParameters"]),
        error=_text(event.get("errorCode")),
        event=str(event.get("eventID")),
    )


def _detail(action: str, asked: Mapping[str, Any]) -> str:
    """Return the parameters of a change that matter to an auditor."""
    if action in ("PutKeyPolicy", "CreateKey") and isinstance(asked.get("policy"), str):
        images = sorted(images_in(asked["policy"]))
        unchecked = asked.get("bypassPolicyLockoutSafetyCheck") is True
        note = ", bypassing KMS's lockout safety check" if unchecked else ""
        return f"binds {', '.join(images) or 'no image'}{note}"
    if action == "CreateGrant":
        operations = ", ".join(map(str, listed(asked.get("operations") or [])))
        return f"for {asked.get('granteePrincipal')}: {operations}"
    shown = ("aliasName", "grantId", "pendingWindowInDays", "replicaRegion", "primaryRegion")
    return ", ".join(str(asked[name]) for name in shown if name in asked)
