"""The data key straight from KMS, attested by the Nitro security module: `--attest nsm`.

    nsm ─► attestation: a document ─► kms_client ─► KMS ─► envelope ─► data key

It does in this process what AWS's kmstool_enclave_cli does, and reports KMS's own reason if KMS
refuses. It has not run on Nitro yet: docs/enclave.md says what was tested.
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

from . import attestation, envelope, kms_client, release
from .errors import printable
from .release import DATA_KEY, TRIES, CallError, Trouble

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .kms_client import Answer

ALGORITHM = "SYMMETRIC_DEFAULT"
KIND = re.compile("[A-Za-z][A-Za-z0-9.]{0,79}")  # of an error, as AWS names it
MESSAGE_MAX = 500  # characters of what KMS says, in our message
TEMPORARY = {"ThrottlingException", "LimitExceededException", "RequestLimitExceeded"}
REPORT = "use --attest kmstool, and report this"
CREDENTIALS_ADVICE = (
    "pass the parent role's current credentials to the enclave, and check the enclave's clock"
)
ADVICE = {
    "AccessDeniedException": (
        "the key's policy must name this image's PCR0 (in debug mode it is zeros, which no policy "
        "may name), and the parent's role needs kms:Decrypt"
    ),
    "DisabledException": "the key's owner must enable it",
    "ExpiredTokenException": CREDENTIALS_ADVICE,
    "InvalidSignatureException": CREDENTIALS_ADVICE,
    "KMSInvalidStateException": "the key's owner must check its state",
    "UnrecognizedClientException": CREDENTIALS_ADVICE,
}


class Attester(NamedTuple):
    """How to ask KMS for a data key, attested by the Nitro security module.

    Attributes:
        region: of the KMS key.
        proxy_port: vsock port of the parent's proxy.
        timeout: seconds that a try may take.
        key_id: ARN of the only key that may decrypt the artifact; None allows any.
        credentials: the parent role's, under the names of release.CREDENTIALS; other members are
            not used.
    """

    region: str
    proxy_port: int
    timeout: float
    key_id: str | None
    credentials: Mapping[str, str]

    def unwrap(self, encrypted_key: bytes) -> bytes:
        """Return the 32 plaintext bytes of *encrypted_key*.

        Raises:
            KeyReleaseError: with KMS's own reason, if it was KMS that refused.
        """
        credentials = release.usable(self.credentials)
        return release.tried(partial(self._call, encrypted_key, credentials), self.timeout)

    def _call(
        self, encrypted_key: bytes, credentials: tuple[str, str, str], deadline: float
    ) -> bytes | Trouble:
        """Ask for the data key once, until *deadline*."""
        start = time.monotonic()
        try:
            return self._data_key(encrypted_key, credentials, deadline)
        except CallError as error:
            return error.trouble
        except TimeoutError:
            return Trouble(
                f"no answer in {deadline - start:.3g} s",
                f"check that vsock-proxy on the parent's port {self.proxy_port} leads to "
                f"{release.host(self.region)}:443",
                TRIES - 1,
            )

    def _data_key(
        self, encrypted_key: bytes, credentials: tuple[str, str, str], deadline: float
    ) -> bytes:
        _seed()
        # A new key for each call, so that an earlier answer cannot be replayed.
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        host = release.host(self.region)
        with kms_client.connected(host, self.proxy_port, deadline) as connection:
            body = json.dumps(self._question(encrypted_key, _document(key))).encode()
            answer = connection.ask(kms_client.signed(host, self.region, body, credentials), body)
        if answer.status != HTTPStatus.OK:
            raise self._refusal(answer, credentials)
        return self._opened(_object(answer.body), key)

    def _question(self, encrypted_key: bytes, document: bytes) -> dict[str, object]:
        """Return the request: decrypt with the pinned key, for this enclave only."""
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
        """Return the error for an answer without a data key."""
        kind, reason = _reason(answer.body, credentials)
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or kind in TEMPORARY:
            what = f"KMS failed (status {answer.status}{reason and f', {reason}'})"
            return CallError(what, "try again later", TRIES - 1)
        if answer.status < HTTPStatus.BAD_REQUEST:
            return CallError(
                f"KMS answered with status {answer.status}, which is neither a key nor a refusal",
                f"check that vsock-proxy on the parent leads to {release.host(self.region)}:443",
            )
        advice = ADVICE.get(kind, "CloudTrail in the caller's account has the request")
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
    """Seed the kernel's random numbers from the module, which exists only in an enclave."""
    try:
        attestation.seed_kernel()
    except FileNotFoundError as error:
        raise CallError(
            f"{error.filename} does not exist",
            "this is not an enclave: start the image with nitro-cli run-enclave",
        ) from error
    except OSError as error:
        advice = "check that this runs as root in the enclave"
        raise CallError(f"{error.filename}: {error.strerror}", advice) from error
    except attestation.AttestationError as error:
        raise CallError(f"/dev/nsm gave no random numbers: {error}", REPORT) from error


def _document(key: rsa.RSAPrivateKey) -> bytes:
    """Return an attestation document for the public half of *key*."""
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        return attestation.document(public)
    except (attestation.AttestationError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise CallError(
            f"/dev/nsm gave no attestation document: {why}",
            "KMS was not asked: check that this image runs in an enclave",
        ) from error


def _object(body: bytes) -> Mapping[str, Any]:
    """Read JSON, which must be an object."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CallError("KMS's answer is not JSON", REPORT) from error
    if not isinstance(parsed, dict):
        raise CallError("KMS's answer is not a JSON object", REPORT)
    return parsed


def _reason(body: bytes, credentials: tuple[str, str, str]) -> tuple[str, str]:
    """Return the kind of KMS's error, and the kind with KMS's message, as a line without secrets.

    KMS explains a wrong signature by quoting the request, including the session token, in the lines
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
