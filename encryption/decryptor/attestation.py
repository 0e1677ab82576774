"""Requests to the Nitro security module: a document about this enclave, and random numbers.

Requests and responses are CBOR, as AWS's own library writes and reads them.

Source:
    https://github.com/aws/aws-nitro-enclaves-nsm-api/blob/main/src/api/mod.rs
"""

from __future__ import annotations

import cbor2

from . import nsm


class AttestationError(Exception):
    """The module's answer is not what was asked for."""


def document(public_key: bytes) -> bytes:
    """Return an attestation document for this enclave and *public_key* (DER).

    Raises:
        AttestationError: the module returns none.
        OSError: there is no module, or this process may not use it.
    """
    fields = {"user_data": None, "nonce": None, "public_key": public_key}
    return _asked({"Attestation": fields}, "Attestation", "document")


def seed_kernel() -> None:
    """Give the kernel random bytes from the module, as AWS's tool does before it creates a key.

    An enclave has no devices with random timing, and nitro-cli's kernel does not credit the CPU's
    random numbers.

    Raises:
        AttestationError: the module returns none.
        OSError: there is no module, or this process may not do this.
    """
    nsm.add_entropy(_asked("GetRandom", "GetRandom", "random"))


def _asked(request: object, kind: str, member: str) -> bytes:
    """Send *request* and return that *member* of the answer, which must be of that *kind*."""
    try:
        response = cbor2.loads(nsm.ask(cbor2.dumps(request)))
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as error:
        raise AttestationError("its answer is not CBOR") from error
    match response:
        case {"Error": str(code)}:
            raise AttestationError(f"it answers {code[:40]}")
        case dict() if isinstance(given := response.get(kind), dict):
            if isinstance(found := given.get(member), bytes) and found:
                return found
    raise AttestationError(f"its answer is not of the kind {kind}")
