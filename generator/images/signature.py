"""The signature of an enclave image: a certificate, and its COSE_Sign1 over PCR0.

Source: https://github.com/aws/aws-nitro-enclaves-image-format (README, "EifSectionSignature");
RFC 9052 (COSE_Sign1), RFC 9053 (ECDSA).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

ALGORITHM = 1
"""The label of the algorithm in a COSE header."""
TAG_SIGN1 = 18


@dataclass(frozen=True)
class ImageSignature:
    """The first signature of the section, the only one that the hypervisor checks.

    ``certificate`` is DER, which PCR8 measures; ``signed`` the serialized COSE_Sign1.
    """

    certificate: bytes
    signed: bytes

    def holds_for(self, pcr0: bytes) -> bool:
        """Return whether the certificate's key signed *pcr0*, 48 bytes."""
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

        try:
            protected, payload, raw = _sign1(self.signed)
            digest = _digest(protected)
            key = x509.load_der_x509_certificate(self.certificate).public_key()
            half = len(raw) // 2
            r, s = int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
            if digest is None or not isinstance(key, ec.EllipticCurvePublicKey):
                return False
            covered = _serialized(["Signature1", protected, b"", payload])
            key.verify(encode_dss_signature(r, s), covered, ec.ECDSA(digest))
        except (ValueError, InvalidSignature):
            return False
        return _signed_register(payload) == (0, pcr0)


def read(section: bytes) -> ImageSignature:
    """Return the first signature of a signature *section*.

    Raises:
        ValueError: there is none; the message continues a sentence.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    found = _decoded(section)
    match found:
        case [{"signing_certificate": pem, "signature": signed}, *_]:
            try:
                certificate = x509.load_pem_x509_certificate(_octets(pem))
            except ValueError as error:
                raise ValueError("holds no readable certificate") from error
            return ImageSignature(certificate.public_bytes(Encoding.DER), _octets(signed))
    raise ValueError("holds no signature")


def _octets(value: object) -> bytes:
    """Return bytes, which nitro-cli writes as an array of numbers."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, list) and all(isinstance(each, int) for each in value):
        return bytes(value)
    raise ValueError("holds a value that is not bytes")


def _sign1(serialized: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the protected header, the payload and the signature of a COSE_Sign1."""
    import cbor2

    found = _decoded(serialized)
    if isinstance(found, cbor2.CBORTag) and found.tag == TAG_SIGN1:
        found = found.value
    match found:
        case [bytes() as protected, _, bytes() as payload, bytes() as raw]:
            return protected, payload, raw
    raise ValueError("holds no COSE_Sign1")


def _digest(protected: bytes) -> "HashAlgorithm | None":
    """Return the digest of ES256, ES384 or ES512, as the protected header names it."""
    from cryptography.hazmat.primitives import hashes

    header = _decoded(protected)
    named = header.get(ALGORITHM) if isinstance(header, Mapping) else None
    known = {-7: hashes.SHA256(), -35: hashes.SHA384(), -36: hashes.SHA512()}
    return known.get(named) if isinstance(named, int) else None


def _signed_register(payload: bytes) -> tuple[object, bytes]:
    found = _decoded(payload)
    if not isinstance(found, Mapping):
        return None, b""
    return found.get("register_index"), _octets(found.get("register_value"))


def _decoded(data: bytes) -> object:
    import cbor2

    try:
        return cbor2.loads(data)
    except (
        cbor2.CBORDecodeError,
        ArithmeticError,
        LookupError,
        TypeError,
        RecursionError,
    ) as error:
        raise ValueError("is not readable CBOR") from error


def _serialized(value: object) -> bytes:
    import cbor2

    return cbor2.dumps(value)
