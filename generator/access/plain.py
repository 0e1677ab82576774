"""Counterexamples as JSON values, for ``explain``, its pages, and code scanning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from generator.policy.operators import UNKNOWN

if TYPE_CHECKING:
    from generator.access.answers import Counterexample
    from generator.policy.request import Attestation


def plain(example: Counterexample) -> dict[str, Any]:
    """Return a counterexample as a JSON value; an absent condition key is null."""
    return {
        "parameters": dict(example.parameters),
        "principal": example.principal,
        "action": example.action,
        "key": example.key_arn,
        "attestation": _registers(example.attestation),
        "context": {
            name: None if values == () else values for name, values in example.context.items()
        },
        "grants": [
            {"grantee": grant.grantee, "operations": list(grant.operations)}
            for grant in example.grants
        ],
    }


def _registers(attestation: Attestation | None) -> dict[str, str] | None:
    """Return the known registers of an attestation, None without one."""
    if attestation is None:
        return None
    found = {f"PCR{number}": value for number, value in attestation.pcrs.items()}
    found |= {f"NitroTPMPCR{number}": value for number, value in attestation.nitrotpm.items()}
    return {name: value for name, value in found.items() if UNKNOWN not in value}
