"""A Nitro security module in software: it signs attestation documents, and a verifier checks them.

The documents have the real wire format; only their root certificate is the rehearsal's own.

Sources:
    AWS Nitro Enclaves NSM API, attestation process ("the specification" below):
    https://github.com/aws/aws-nitro-enclaves-nsm-api/blob/main/docs/attestation_process.md
    RFC 9052 (COSE_Sign1), RFC 9053 (ES384), RFC 8949 (CBOR).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509 import verification

from rehearsal.certificates import issue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rehearsal.certificates import Signer

PCR_LENGTH: Final = 48  # bytes: SHA-384
PCR_COUNT: Final = 16  # the registers that a Nitro hypervisor locks and therefore attests
DOCUMENT_MAX: Final = 16 * 1024  # bytes: the Nitro Enclaves SDK's buffer for one
FRESHNESS: Final = timedelta(minutes=5)  # as for a request's signature; AWS publishes no figure
RECIPIENT_KEY_BITS: Final = frozenset({2048, 3072, 4096})

_PROTECTED: Final = cbor2.dumps({1: -35})  # the algorithm, ES384, and nothing else
_COORDINATE: Final = 48  # bytes of r, and of s, in a signature on P-384
_OPTIONAL: Final = ("public_key", "user_data", "nonce")


class AttestationError(Exception):
    """The document does not prove anything; the message says why."""


@dataclass(frozen=True)
class Attested:
    """What a verified document vouches for; ``pcrs`` maps a register's index to its 48 bytes."""

    module_id: str
    timestamp: datetime
    pcrs: Mapping[int, bytes]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None

    def recipient_key(self) -> rsa.RSAPublicKey:
        """Return the key under which an answer to this enclave is wrapped.

        Raises:
            AttestationError: there is none, or it is not safe with RSAES-OAEP.
        """
        try:
            key = load_der_public_key(self.public_key or b"")
        except (ValueError, UnsupportedAlgorithm) as error:
            raise AttestationError("the document does not contain a readable public key") from error
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size not in RECIPIENT_KEY_BITS:
            raise AttestationError("the public key is not RSA of 2048, 3072 or 4096 bits")
        return key


class Authority:
    """The root of a Nitro attestation PKI, and what it certifies."""

    def __init__(self, now: datetime) -> None:
        """Create a root that is valid from *now* for thirty years, as AWS's is."""
        self._root = issue("aws.nitro-enclaves", now, timedelta(days=365 * 30), ca=True)
        self.root: Final = self._root.certificate

    def module(
        self,
        pcrs: Mapping[int, bytes],
        now: datetime,
        module_id: str = "i-0123456789abcdef0-enc0123456789abcdef",
    ) -> SecurityModule:
        """Certify the security module of one enclave, measured as *pcrs*, for three hours.

        Registers that *pcrs* does not name hold zeros.
        """
        region = issue("region.aws.nitro-enclaves", now, timedelta(days=20), self._root, ca=True)
        host = issue("host.aws.nitro-enclaves", now, timedelta(days=1), region, ca=True)
        leaf = issue(module_id, now, timedelta(hours=3), host, ca=False)
        bundle = tuple(signer.der for signer in (self._root, region, host))
        return SecurityModule(module_id, pcrs, leaf, bundle)


class SecurityModule:
    """What an enclave sees as ``/dev/nsm``; made by `Authority.module`."""

    def __init__(
        self,
        module_id: str,
        pcrs: Mapping[int, bytes],
        signer: Signer,
        cabundle: tuple[bytes, ...],
    ) -> None:
        """Vouch for *pcrs* as *signer*, whom *cabundle* (DER, root first) certifies."""
        self._module_id = module_id
        self._pcrs = {index: pcrs.get(index, bytes(PCR_LENGTH)) for index in range(PCR_COUNT)}
        self._signer = signer
        self._cabundle = cabundle

    def attest(
        self,
        now: datetime,
        public_key: bytes | None = None,
        user_data: bytes | None = None,
        nonce: bytes | None = None,
    ) -> bytes:
        """Return a signed document about this enclave.

        Args:
            now: the document's timestamp, kept to the millisecond.
            public_key: DER SubjectPublicKeyInfo.
            user_data: up to 512 bytes.
            nonce: up to 512 bytes.
        """
        return self.sign(
            {
                "module_id": self._module_id,
                "digest": "SHA384",
                "timestamp": _milliseconds(now),
                "pcrs": self._pcrs,
                "certificate": self._signer.der,
                "cabundle": list(self._cabundle),
                # A real module writes null for a field that was not asked for.
                "public_key": public_key,
                "user_data": user_data,
                "nonce": nonce,
            }
        )

    def sign(self, fields: Mapping[str, object]) -> bytes:
        """Return a document of *fields*, whatever they say: a real module would not."""
        payload = cbor2.dumps(fields)
        der = self._signer.key.sign(_signed_bytes(payload), ec.ECDSA(SHA384()))
        r, s = decode_dss_signature(der)
        signature = r.to_bytes(_COORDINATE, "big") + s.to_bytes(_COORDINATE, "big")
        return cbor2.dumps([_PROTECTED, {}, payload, signature])


def verify(document: bytes, root: x509.Certificate, now: datetime) -> Attested:
    """Return what *document* vouches for, if *root* vouches for it and it is fresh at *now*.

    Raises:
        AttestationError: for every other document.
    """
    payload, signature = _envelope(document)
    fields = _fields(payload)
    leaf = _certified_leaf(fields, root, now)
    _check_signature(leaf, payload, signature)
    # Seconds, and no datetime yet: a module may sign any number.
    age = (_milliseconds(now) - fields["timestamp"]) // 1000
    if abs(age) > FRESHNESS.total_seconds():
        raise AttestationError(f"the document is not fresh: its age is {age} s")
    return Attested(
        module_id=fields["module_id"],
        timestamp=datetime.fromtimestamp(fields["timestamp"] / 1000, UTC),
        pcrs=fields["pcrs"],
        **{name: fields.get(name) for name in _OPTIONAL},
    )


def _envelope(document: bytes) -> tuple[bytes, bytes]:
    """Split the COSE_Sign1 array into payload and signature."""
    if len(document) > DOCUMENT_MAX:
        raise AttestationError(f"the document is longer than {DOCUMENT_MAX} bytes")
    match _decoded(document):
        case [bytes(protected), dict(unprotected), bytes(payload), bytes(signature)]:
            if protected != _PROTECTED or unprotected:
                raise AttestationError("the document's headers do not say ES384")
            if len(signature) != 2 * _COORDINATE:
                raise AttestationError(f"the signature is not {2 * _COORDINATE} bytes long")
            return payload, signature
    raise AttestationError("the document is not an untagged COSE_Sign1 array")


def _decoded(data: bytes) -> Any:  # noqa: ANN401 - it may be of any type until it was looked at
    """Decode exactly one CBOR item."""
    stream = BytesIO(data)
    try:
        item = cbor2.CBORDecoder(stream, allow_duplicate_keys=False).decode()
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as error:
        raise AttestationError("the document is not CBOR") from error
    if stream.read(1):
        raise AttestationError("other bytes follow the document")
    return item


def _fields(payload: bytes) -> dict[str, Any]:
    """Decode *payload* and check each field against the specification, section 3.2.2."""
    document = _decoded(payload)
    if not isinstance(document, dict) or not document.keys() <= _VALID.keys():
        raise AttestationError("the payload's fields are not those of an attestation document")
    # Real documents hold null where an optional field was not asked for.
    fields = {name: value for name, value in document.items() if value is not None}
    for name, valid in _VALID.items():
        if not (valid(fields[name]) if name in fields else name in _OPTIONAL):
            raise AttestationError(f"the document's {name} is missing or malformed")
    return fields


def _bytes_of(shortest: int, longest: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, bytes) and shortest <= len(value) <= longest


def _is_natural(value: object, limit: int) -> bool:
    return type(value) is int and 0 <= value < limit  # a bool is an int to isinstance


_is_certificate: Final = _bytes_of(1, 1024)
_is_pcr: Final = _bytes_of(PCR_LENGTH, PCR_LENGTH)  # the digest is SHA384: nothing shorter

_VALID: Final[Mapping[str, Callable[[Any], bool]]] = {
    "module_id": lambda value: isinstance(value, str) and value != "",
    "digest": lambda value: value == "SHA384",
    "timestamp": lambda value: _is_natural(value, 2**64) and value > 0,
    "pcrs": lambda value: (
        isinstance(value, dict)
        and len(value) > 0
        and all(_is_natural(index, 32) and _is_pcr(pcr) for index, pcr in value.items())
    ),
    "certificate": _is_certificate,
    "cabundle": lambda value: (
        isinstance(value, list) and len(value) > 0 and all(map(_is_certificate, value))
    ),
    "public_key": _bytes_of(1, 1024),
    "user_data": _bytes_of(0, 512),
    "nonce": _bytes_of(0, 512),
}


def _certified_leaf(
    fields: Mapping[str, Any], root: x509.Certificate, now: datetime
) -> x509.Certificate:
    """Return the signer's certificate once the chain in *fields* leads to *root*."""
    if fields["cabundle"][0] != root.public_bytes(Encoding.DER):
        raise AttestationError("the document's root certificate is not the one trusted here")
    if not root.not_valid_before_utc <= now <= root.not_valid_after_utc:
        raise AttestationError("the root certificate is not valid now")
    try:
        bundle = [x509.load_der_x509_certificate(der) for der in fields["cabundle"]]
        leaf = x509.load_der_x509_certificate(fields["certificate"])
        chain = _path_validator(root, now).verify(leaf, bundle[1:]).chain
    except (ValueError, CryptographyDeprecationWarning, verification.VerificationError) as error:
        raise AttestationError(f"the certificates do not lead to the root: {error}") from error
    if chain != [leaf, *reversed(bundle)]:
        raise AttestationError("the cabundle is not the chain from the root down")
    return leaf


def _path_validator(root: x509.Certificate, now: datetime) -> verification.ClientVerifier:
    """Validate paths as section 3.2.3 asks; these certificates have no names to check."""
    agnostic, critical = verification.Criticality.AGNOSTIC, verification.Criticality.CRITICAL
    authority = (
        verification.ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, critical, None)
        .require_present(x509.KeyUsage, agnostic, _may_certify)
    )
    signer = (
        verification.ExtensionPolicy.permit_all()
        .may_be_present(x509.BasicConstraints, agnostic, _is_no_authority)
        .require_present(x509.KeyUsage, agnostic, _may_sign)
    )
    return (
        verification.PolicyBuilder()
        .store(verification.Store([root]))
        .time(now)
        .extension_policies(ca_policy=authority, ee_policy=signer)
        .build_client_verifier()
    )


def _may_certify(_: verification.Policy, __: x509.Certificate, usage: x509.KeyUsage) -> None:
    if not usage.key_cert_sign:
        raise ValueError("a CA certificate lacks the key usage keyCertSign")


def _may_sign(_: verification.Policy, __: x509.Certificate, usage: x509.KeyUsage) -> None:
    if not usage.digital_signature:
        raise ValueError("the signer's key is not for signatures")


def _is_no_authority(
    _: verification.Policy, __: x509.Certificate, constraints: x509.BasicConstraints | None
) -> None:
    if constraints is not None and constraints.ca:
        raise ValueError("the signer is a certificate authority")


def _check_signature(leaf: x509.Certificate, payload: bytes, signature: bytes) -> None:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise AttestationError("the signer's key is not on P-384")
    r, s = (
        int.from_bytes(half, "big") for half in (signature[:_COORDINATE], signature[_COORDINATE:])
    )
    try:
        key.verify(encode_dss_signature(r, s), _signed_bytes(payload), ec.ECDSA(SHA384()))
    except InvalidSignature as error:
        raise AttestationError("the document's signature is wrong") from error


def _signed_bytes(payload: bytes) -> bytes:
    """Build the Sig_structure of RFC 9052, section 4.4."""
    return cbor2.dumps(["Signature1", _PROTECTED, b"", payload])


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
