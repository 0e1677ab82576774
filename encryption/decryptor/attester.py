"""The data key straight from KMS, attested by the Nitro security module: `--attest nsm`.

    nsm ─► attestation document ─► kms_client ─► KMS ─► envelope ─► data key

It does what AWS's kmstool_enclave_cli does, in this process, and tells KMS's own reason where KMS
refuses. Nothing has run it on Nitro yet: docs/enclave.md says what was tried.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from . import envelope, kms_client, nsm, release
from .errors import printable
from .release import DATA_KEY, TRIES, CallError, Trouble

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .kms_client import Answer

ALGORITHM = "SYMMETRIC_DEFAULT"
KIND = re.compile("[A-Za-z][A-Za-z0-9.]{0,79}")  # of an error, as AWS names it
MESSAGE_MAX = 500  # characters of what KMS says, in our message
PASSING = {"ThrottlingException", "LimitExceededException", "RequestLimitExceeded"}
REPORT = "use --attest kmstool, and report this"
CREDENTIALS_ADVICE = (
    "hand the parent role's current credentials to the enclave, whose clock must be right"
)
ADVICE = {
    "AccessDeniedException": (
        "the key's policy must name this image's PCR0 (in debug mode it is zeros, which no policy "
        "may name), and the parent's role needs kms:Decrypt"
    ),
    "DisabledException": "the key's owner has to enable it",
    "ExpiredTokenException": CREDENTIALS_ADVICE,
    "InvalidSignatureException": CREDENTIALS_ADVICE,
    "KMSInvalidStateException": "the key's owner has to look at its state",
    "UnrecognizedClientException": CREDENTIALS_ADVICE,
}


class Attester(NamedTuple):
    """How to ask KMS for a data key, attested by the Nitro security module.

    Attributes:
        region: of the KMS key.
        proxy_port: vsock port of the parent's proxy.
        timeout: seconds a try may take.
        key_id: ARN of the only key that may open the artifact; None pins none.
        credentials: the parent role's, under the names of release.CREDENTIALS; what else is there
            is not used.
    """

    region: str
    proxy_port: int
    timeout: float
    key_id: str | None
    credentials: Mapping[str, str]

    def unwrap(self, encrypted_key: bytes) -> bytes:
        """Return the 32 plaintext bytes of *encrypted_key*.

        Raises:
            KeyReleaseError: with KMS's own reason, where it was KMS that refused.
        """
        credentials = release.usable(self.credentials)
        return release.tried(partial(self._call, encrypted_key, credentials), self.timeout)

    def _call(
        self, encrypted_key: bytes, credentials: tuple[str, str, str], deadline: float
    ) -> bytes | Trouble:
        """Go the whole way once, until *deadline*."""
        start = time.monotonic()
        try:
            return self._data_key(encrypted_key, credentials, deadline)
        except CallError as error:
            return error.trouble
        except TimeoutError:
            return Trouble(
                f"no answer in {deadline - start:.3g} s",
                f"does vsock-proxy on the parent's port {self.proxy_port} lead to "
                f"{release.host(self.region)}:443?",
                TRIES - 1,
            )

    def _data_key(
        self, encrypted_key: bytes, credentials: tuple[str, str, str], deadline: float
    ) -> bytes:
        _seed()
        # For this call alone: what was wrapped for an earlier one opens nothing.
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        host = release.host(self.region)
        with kms_client.connected(host, self.proxy_port, deadline) as connection:
            body = json.dumps(self._question(encrypted_key, _document(key))).encode()
            answer = connection.ask(kms_client.signed(host, self.region, body, credentials), body)
        if answer.status != HTTPStatus.OK:
            raise self._refusal(answer, credentials)
        return self._opened(_object(answer.body), key)

    def _question(self, encrypted_key: bytes, document: bytes) -> dict[str, object]:
        """Return what KMS is asked: to decrypt, with the pinned key, for this enclave alone."""
        question: dict[str, object] = {
            "CiphertextBlob": base64.b64encode(encrypted_key).decode(),
            "Recipient": {
                "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
                "AttestationDocument": base64.b64encode(document).decode(),
            },
        }
        if self.key_id:
            question |= {"EncryptionAlgorithm": ALGORITHM, "KeyId": self.key_id}
        return question

    def _refusal(self, answer: Answer, credentials: tuple[str, str, str]) -> CallError:
        """Return what an answer without a data key means."""
        kind, reason = _reason(answer.body, credentials)
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or kind in PASSING:
            what = f"KMS failed (status {answer.status}{reason and f', {reason}'})"
            return CallError(what, "try again later", TRIES - 1)
        if answer.status < HTTPStatus.BAD_REQUEST:
            return CallError(
                f"KMS answered with status {answer.status}, which is neither a key nor a refusal",
                f"does vsock-proxy on the parent lead to {release.host(self.region)}:443?",
            )
        advice = ADVICE.get(kind, "CloudTrail of the key's account has the request")
        if kind == "IncorrectKeyException" and self.key_id:
            advice = f"the artifact was encrypted under another key than {self.key_id}"
        return CallError(f"KMS refused: {reason or f'status {answer.status}, no reason'}", advice)

    def _opened(self, answer: Mapping[str, Any], key: rsa.RSAPrivateKey) -> bytes:
        """Return the data key in KMS's *answer*."""
        if self.key_id and answer.get("KeyId") != self.key_id:
            raise CallError(f"KMS did not decrypt with {self.key_id}", REPORT)
        if answer.get("EncryptionAlgorithm", ALGORITHM) != ALGORITHM:
            raise CallError(f"KMS did not decrypt with {ALGORITHM}", REPORT)
        try:
            enveloped = base64.b64decode(answer.get("CiphertextForRecipient", ""), validate=True)
            data_key = envelope.opened(enveloped, key)
        except (binascii.Error, TypeError, ValueError) as error:
            raise CallError("KMS's CiphertextForRecipient is not base64", REPORT) from error
        except envelope.EnvelopeError as error:
            raise CallError(f"KMS's CiphertextForRecipient {error}", REPORT) from error
        if len(data_key) != DATA_KEY:
            raise CallError(f"KMS's answer is not a data key of {DATA_KEY} bytes", REPORT)
        return data_key


def _seed() -> None:
    """Have the kernel's random numbers rest on the module's, too; there is no module elsewhere."""
    try:
        nsm.seed_kernel()
    except FileNotFoundError as error:
        raise CallError(
            f"there is no {error.filename}",
            "this is not an enclave: start the image with nitro-cli run-enclave",
        ) from error
    except OSError as error:
        advice = "does this run as root in the enclave?"
        raise CallError(f"{error.filename}: {error.strerror}", advice) from error
    except nsm.NsmError as error:
        raise CallError(f"{nsm.DEVICE} gave no random numbers: {error}", REPORT) from error


def _document(key: rsa.RSAPrivateKey) -> bytes:
    """Have the module vouch for the public half of *key*."""
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        return nsm.attestation_document(public)
    except (nsm.NsmError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise CallError(
            f"{nsm.DEVICE} gave no attestation document: {why}",
            "KMS was not asked: does this image run in an enclave?",
        ) from error


def _object(body: bytes) -> Mapping[str, Any]:
    """Read JSON, which must be an object."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CallError("KMS's answer is not JSON", REPORT) from error
    if not isinstance(parsed, dict):
        raise CallError("KMS's answer is not an object of JSON", REPORT)
    return parsed


def _reason(body: bytes, credentials: tuple[str, str, str]) -> tuple[str, str]:
    """Return the kind of KMS's error, and with it what KMS says, in a line that holds no secret.

    KMS explains a wrong signature by quoting the request, session token included, in the lines
    after the first.
    """
    try:
        answer = _object(body)
    except CallError:
        return "", ""
    kind = str(answer.get("__type", "")).rpartition("#")[2]
    if not KIND.fullmatch(kind):
        return "", ""
    said = str(answer.get("message") or answer.get("Message") or "").partition("\n")[0]
    for secret in credentials:
        said = said.replace(secret, "…")
    said = printable(said)
    shown = said if len(said) <= MESSAGE_MAX else f"{said[:MESSAGE_MAX]}…"
    return kind, f"{kind}: {shown}" if shown else kind
