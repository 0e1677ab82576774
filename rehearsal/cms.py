"""The envelope in which KMS hands a plaintext to an enclave: CMS EnvelopedData for one RSA key.

KMS writes the outer levels in BER with indefinite lengths and everything inside in DER. The Nitro
Enclaves SDK's parser requires exactly that up to the ciphertext, and ignores what follows it, be it
end-of-contents octets or anything else. `unwrap` does the same.

Sources: RFC 5652, section 6 (EnvelopedData); RFC 4055, section 4.1 (RSAES-OAEP); X.690, section 8;
https://github.com/aws/aws-nitro-enclaves-sdk-c/blob/main/source/cms.c
"""

import os
from hashlib import sha256
from typing import Annotated, Final

from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ObjectIdentifier

_ENVELOPED_DATA: Final = ObjectIdentifier("1.2.840.113549.1.7.3")
_DATA: Final = ObjectIdentifier("1.2.840.113549.1.7.1")
_RSAES_OAEP: Final = ObjectIdentifier("1.2.840.113549.1.1.7")
_MGF1: Final = ObjectIdentifier("1.2.840.113549.1.1.8")
_SHA256: Final = ObjectIdentifier("2.16.840.1.101.3.4.2.1")
_AES_256_CBC: Final = ObjectIdentifier("2.16.840.1.101.3.4.1.42")

_VERSION: Final = 2  # of EnvelopedData, and of a recipient named by its key's identifier
_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_OCTET_STRING: Final = 0x04
_EXPLICIT_0: Final = 0xA0  # [0], constructed
_IMPLICIT_0: Final = 0x80  # [0], primitive
_INDEFINITE: Final = 0x80  # in place of a length: up to the end-of-contents octets
_END: Final = b"\0\0"

_OAEP: Final = padding.OAEP(padding.MGF1(SHA256()), SHA256(), label=None)


class EnvelopeError(Exception):
    """The bytes are not such an envelope."""


class WrongKeyError(EnvelopeError):
    """An envelope for another key, or a damaged one: nobody may learn which (RFC 3218)."""


@asn1.sequence
class _Digest:
    algorithm: ObjectIdentifier
    parameters: asn1.Null | None  # either means the same: RFC 4055, section 2.1


@asn1.sequence
class _MaskGeneration:
    algorithm: ObjectIdentifier
    digest: _Digest


@asn1.sequence
class _OaepParameters:
    digest: Annotated[_Digest, asn1.Explicit(0)]
    mask: Annotated[_MaskGeneration, asn1.Explicit(1)]


@asn1.sequence
class _KeyEncryption:
    algorithm: ObjectIdentifier
    parameters: _OaepParameters


@asn1.sequence
class _Recipient:
    """KeyTransRecipientInfo."""

    version: int
    key_identifier: Annotated[bytes, asn1.Implicit(0)]
    algorithm: _KeyEncryption
    encrypted_key: bytes


@asn1.sequence
class _ContentEncryption:
    algorithm: ObjectIdentifier
    iv: bytes


def _oaep_with_sha256() -> _KeyEncryption:
    digest = _Digest(algorithm=_SHA256, parameters=asn1.Null())
    mask = _MaskGeneration(algorithm=_MGF1, digest=digest)
    return _KeyEncryption(
        algorithm=_RSAES_OAEP, parameters=_OaepParameters(digest=digest, mask=mask)
    )


def wrap(plaintext: bytes, recipient: rsa.RSAPublicKey, piece: int | None = None) -> bytes:
    """Return an envelope around *plaintext* that only *recipient*'s holder can decrypt.

    Args:
        plaintext: what KMS would answer.
        recipient: the key that an attestation document vouches for.
        piece: cut the ciphertext into strings of so many bytes; None writes one primitive field.
    """
    key, iv = os.urandom(32), os.urandom(16)
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(iv)).encryptor()
    content = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
    recipient_info = _Recipient(
        version=_VERSION,
        key_identifier=_identifier(recipient),
        algorithm=_oaep_with_sha256(),
        encrypted_key=recipient.encrypt(key, _OAEP),
    )
    encrypted_content_info = _indefinite(
        _SEQUENCE,
        asn1.encode_der(_DATA),
        asn1.encode_der(_ContentEncryption(algorithm=_AES_256_CBC, iv=iv)),
        _definite(_IMPLICIT_0, content) if piece is None else _pieces(content, piece),
    )
    enveloped_data = _indefinite(
        _SEQUENCE,
        asn1.encode_der(_VERSION),
        _definite(_SET, asn1.encode_der(recipient_info)),
        encrypted_content_info,
    )
    return _indefinite(
        _SEQUENCE, asn1.encode_der(_ENVELOPED_DATA), _indefinite(_EXPLICIT_0, enveloped_data)
    )


def _identifier(key: rsa.RSAPublicKey) -> bytes:
    """Name *key* in 32 bytes, as KMS does; what it hashes is its own affair (RFC 5652, 6.2.1)."""
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _pieces(content: bytes, piece: int) -> bytes:
    strings = (content[start : start + piece] for start in range(0, len(content), piece))
    return _indefinite(_EXPLICIT_0, *(_definite(_OCTET_STRING, string) for string in strings))


def _indefinite(tag: int, *contents: bytes) -> bytes:
    return bytes((tag, _INDEFINITE)) + b"".join(contents) + _END


def _definite(tag: int, content: bytes) -> bytes:
    # An OCTET STRING has the length octets that any other tag has.
    return bytes((tag,)) + asn1.encode_der(content)[1:]


def unwrap(envelope: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """Return the plaintext in an *envelope* of the form that `wrap` and KMS write.

    Raises:
        EnvelopeError: it has another form.
        WrongKeyError: *key* does not decrypt it.
    """
    recipient, iv, content = _parsed(envelope)
    try:
        content_key = key.decrypt(recipient.encrypted_key, _OAEP)
        decryptor = Cipher(algorithms.AES256(content_key), modes.CBC(iv)).decryptor()
        padded = decryptor.update(content) + decryptor.finalize()
        unpadder = PKCS7(128).unpadder()
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError as error:
        raise WrongKeyError("the envelope is not encrypted for this key") from error


def _parsed(envelope: bytes) -> tuple[_Recipient, bytes, bytes]:
    """Split an envelope into recipient, IV and ciphertext."""
    reader = _Reader(envelope)
    try:
        reader.enter(_SEQUENCE)
        reader.expect(_ENVELOPED_DATA)
        reader.enter(_EXPLICIT_0)
        reader.enter(_SEQUENCE)
        reader.expect(_VERSION)
        # Exactly one recipient: anything after it would be trailing data.
        recipient = asn1.decode_der(_Recipient, reader.content(_SET))
        reader.enter(_SEQUENCE)
        reader.expect(_DATA)
        encryption = asn1.decode_der(_ContentEncryption, reader.element())
        content = reader.encrypted_content()
    except ValueError as error:
        raise EnvelopeError(f"not an envelope as KMS writes it: {error}") from error
    oaep = recipient.algorithm
    digests = (oaep.parameters.digest, oaep.parameters.mask.digest)
    if (
        recipient.version != _VERSION
        or (oaep.algorithm, oaep.parameters.mask.algorithm) != (_RSAES_OAEP, _MGF1)
        or any(digest.algorithm != _SHA256 for digest in digests)
        or encryption.algorithm != _AES_256_CBC
    ):
        raise EnvelopeError("the envelope is not RSAES-OAEP with SHA-256 around AES-256-CBC")
    return recipient, encryption.iv, content


class _Reader:
    """Walks the outer levels; every method raises ValueError for what does not fit."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def enter(self, tag: int) -> None:
        """Step into a level of indefinite length."""
        self._take(bytes((tag, _INDEFINITE)))

    def expect(self, value: object) -> None:
        """Step over *value*, encoded."""
        self._take(asn1.encode_der(value))

    def element(self) -> bytes:
        """Take one whole element of definite length."""
        first, size = self._rest[1:2], 0
        if first > b"\x80":
            size = first[0] - 0x80
        length = int.from_bytes(self._rest[2 : 2 + size] if size else first, "big")
        end = 2 + size + length
        if first in (b"", b"\x80") or len(self._rest) < end:
            raise ValueError("it ends too early")
        element, self._rest = self._rest[:end], self._rest[end:]
        return element

    def content(self, tag: int) -> bytes:
        """Take one element of definite length and return what is in it."""
        element = self.element()
        if element[0] != tag:
            raise ValueError(f"a tag is {element[0]:#04x}, not {tag:#04x}")
        return asn1.decode_der(bytes, bytes((_OCTET_STRING,)) + element[1:])

    def encrypted_content(self) -> bytes:
        """Take the ciphertext, which is either primitive or in pieces."""
        if self._rest.startswith(bytes((_IMPLICIT_0,))):
            return self.content(_IMPLICIT_0)
        self.enter(_EXPLICIT_0)
        pieces = []
        while self._rest and not self._rest.startswith(_END):
            pieces.append(self.content(_OCTET_STRING))
        return b"".join(pieces)

    def _take(self, expected: bytes) -> None:
        if not self._rest.startswith(expected):
            raise ValueError(f"{self._rest[: len(expected)].hex()} is not {expected.hex()}")
        self._rest = self._rest[len(expected) :]
