"""The envelope in which KMS returns a data key to an enclave: CMS EnvelopedData for one RSA key.

KMS writes the outer levels in BER with indefinite lengths. AWS's own parser reads up to the last
byte of the ciphertext, which is primitive or in pieces, and nothing after it; so does this one.

Sources:
    RFC 5652, section 6; RFC 4055, section 4.1 (RSAES-OAEP); X.690, section 8.1.3.6
    https://github.com/aws/aws-nitro-enclaves-sdk-c/blob/main/source/cms.c
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from asn1crypto import cms
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.padding import PKCS7

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

LEVELS = 5  # of indefinite length: ContentInfo, [0], EnvelopedData, EncryptedContentInfo, pieces
END_OCTETS = b"\0\0"  # each of them ends with these
BLOCK = 16  # bytes
OAEP = padding.OAEP(padding.MGF1(SHA256()), SHA256(), label=None)
# Which of these asn1crypto raises depends on where the error is.
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


class EnvelopeError(Exception):
    """It is not such an envelope, or it cannot be decrypted with this key."""


class _Parts(NamedTuple):
    encrypted_key: bytes
    iv: bytes
    ciphertext: bytes


def opened(envelope: bytes, key: RSAPrivateKey) -> bytes:
    """Return the plaintext in *envelope*, which is for *key*.

    Raises:
        EnvelopeError: it has another form, other algorithms, or is for another key.
    """
    try:
        parts = _parts(envelope)
    except UNREADABLE as error:
        raise EnvelopeError("is not CMS EnvelopedData as KMS writes it") from error
    try:
        content_key = key.decrypt(parts.encrypted_key, OAEP)
        decryptor = Cipher(algorithms.AES256(content_key), modes.CBC(parts.iv)).decryptor()
        padded = decryptor.update(parts.ciphertext) + decryptor.finalize()
        unpadder = PKCS7(algorithms.AES256.block_size).unpadder()
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError as error:
        # An attacker must not learn which of these steps failed (RFC 3218).
        raise EnvelopeError("cannot be decrypted with this enclave's key") from error


def _parts(envelope: bytes) -> _Parts:
    """Return the parts of *envelope*.

    Raises:
        one of UNREADABLE: it cannot be parsed.
        EnvelopeError: it has another form or other algorithms.
    """
    # asn1crypto requires the end octets; after an envelope that has them, these are ignored.
    info = cms.ContentInfo.load(envelope + LEVELS * END_OCTETS)
    _expect(info["content_type"].native, "enveloped_data")
    data = info["content"]
    _expect(data["version"].native, "v2")
    recipients = data["recipient_infos"]
    _expect(len(recipients), 1)
    _expect(recipients[0].name, "ktri")
    recipient = recipients[0].chosen
    _expect(recipient["version"].native, "v2")
    _expect(recipient["rid"].name, "subject_key_identifier")
    _expect_oaep(recipient["key_encryption_algorithm"])
    content = data["encrypted_content_info"]
    _expect(content["content_type"].native, "data")
    encryption = content["content_encryption_algorithm"]
    _expect(encryption["algorithm"].native, "aes256_cbc")
    iv = encryption["parameters"].native
    _expect(len(iv), BLOCK)
    encrypted = content["encrypted_content"]
    ciphertext = encrypted.native
    # Otherwise the end octets that were added could replace what was cut off.
    if encrypted.contents not in envelope:
        raise EnvelopeError("is cut off")
    if not ciphertext or len(ciphertext) % BLOCK:
        raise EnvelopeError("does not have whole blocks of ciphertext")
    return _Parts(recipient["encrypted_key"].native, iv, ciphertext)


def _expect_oaep(algorithm: cms.KeyEncryptionAlgorithm) -> None:
    """Make sure that *algorithm* is RSAES-OAEP with SHA-256 in both places, and no label."""
    _expect(algorithm["algorithm"].native, "rsaes_oaep")
    parameters = algorithm["parameters"]
    _expect(parameters["hash_algorithm"]["algorithm"].native, "sha256")
    mask = parameters["mask_gen_algorithm"]
    _expect(mask["algorithm"].native, "mgf1")
    _expect(mask["parameters"]["algorithm"].native, "sha256")
    label = parameters["p_source_algorithm"]
    _expect((label["algorithm"].native, label["parameters"].native), ("p_specified", b""))


def _expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise EnvelopeError(f"has {found!r:.40} where KMS writes {wanted!r:.40}")
