"""Classifies a concrete attestation under a concrete policy: the counterpart of Key.attests."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from generator.access.answers import Attests
from generator.access.requests import ZEROS
from generator.nodes import mapping
from generator.policy.operators import listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from generator.policy.request import Attestation

ADMITTING = {"Allow": ("StringEquals", "StringLike"), "Deny": ("StringNotEquals", "StringNotLike")}
"""Prefixes of the operators with which a statement of that effect admits the values that it names.

A Deny with StringEquals refuses them: its values are not images that the policy binds.
"""


def admits(effect: str, operator: str) -> bool:
    """Return whether a statement admits the values of *operator*; any other effect may."""
    base = operator.rpartition(":")[2].removesuffix("IfExists")
    known = ADMITTING.get(effect, (*ADMITTING["Allow"], *ADMITTING["Deny"]))
    return base.startswith(known)


def worth(policy: Mapping[str, object], attestation: Attestation | None) -> Attests:
    """Return what *attestation* is: none, all zeros, an image that *policy* admits, or another."""
    if attestation is None:
        return Attests.NOTHING
    if attestation.pcrs and set(attestation.pcrs.values()) == {ZEROS}:
        return Attests.DEBUG
    return Attests.BOUND if _is_bound(policy, attestation) else Attests.OTHER


def _is_bound(policy: Mapping[str, object], attestation: Attestation) -> bool:
    image = attestation.pcrs.get(0, ZEROS).lower()
    if image != ZEROS and image in {*_named(policy, "pcr0"), *_named(policy, "imagesha384")}:
        return True
    registers = attestation.nitrotpm
    booted = any(
        registers.get(number, ZEROS) != ZEROS
        and registers[number].lower() in _named(policy, f"nitrotpmpcr{number}")
        for number in (4, 7)
    )
    return booted and registers.get(12, "").lower() in _named(policy, "nitrotpmpcr12")


def _named(policy: Mapping[str, object], register: str) -> set[str]:
    return {value.lower() for value in _values(policy, register) if not re.search(r"[*?$]", value)}


def _values(policy: Mapping[str, object], register: str) -> Iterator[str]:
    for statement in listed(policy.get("Statement")):
        effect = str(mapping(statement).get("Effect"))
        for name, keys in mapping(mapping(statement).get("Condition")).items():
            for key, values in mapping(keys).items() if admits(effect, str(name)) else ():
                if str(key).lower() == f"kms:recipientattestation:{register}":
                    yield from map(str, listed(values))
