"""Attestation documents: independent tools verify ours, and ours refuses forgeries."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st
from pycose.keys.ec2 import EC2Key
from pycose.messages.sign1message import Sign1Message

from rehearsal.attestation import (
    AttestationError,
    Attested,
    Authority,
    SecurityModule,
    verify,
)
from rehearsal.certificates import Signer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = datetime(2026, 11, 24, 12, 0, 0, 123000, tzinfo=UTC)
IMAGE = bytes(range(48))
AUTHORITY = Authority(NOW - timedelta(days=1))
MODULE = AUTHORITY.module({0: IMAGE, 8: b"\x08" * 48}, NOW - timedelta(hours=1))


def public_key(bits: int = 2048) -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


KEY = public_key()
DOCUMENT = MODULE.attest(NOW, KEY)


def fields(document: bytes = DOCUMENT) -> dict[str, Any]:
    loaded: dict[str, Any] = cbor2.loads(cbor2.loads(document)[2])
    return loaded


def test_genuine_document_is_accepted() -> None:
    document = MODULE.attest(NOW, KEY, b"user data", b"nonce")
    assert verify(document, AUTHORITY.root, NOW + timedelta(minutes=4)) == Attested(
        module_id="i-0123456789abcdef0-enc0123456789abcdef",
        timestamp=NOW,
        pcrs={index: {0: IMAGE, 8: b"\x08" * 48}.get(index, bytes(48)) for index in range(16)},
        public_key=KEY,
        user_data=b"user data",
        nonce=b"nonce",
    )


# --- verified by independent tools ------------------------------------------------------------


def test_an_independent_cose_library_verifies_the_signature() -> None:
    message = Sign1Message.from_cose_obj(cbor2.loads(DOCUMENT), allow_unknown_attributes=False)
    certificate = x509.load_der_x509_certificate(fields()["certificate"])
    public = certificate.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    numbers = public.public_numbers()
    message.key = EC2Key(
        crv="P_384", x=numbers.x.to_bytes(48, "big"), y=numbers.y.to_bytes(48, "big")
    )
    assert [algorithm.identifier for algorithm in message.phdr.values()] == [-35]
    assert message.uhdr == {}
    assert message.verify_signature()
    message.payload = cbor2.loads(DOCUMENT)[2] + b"\0"
    assert not message.verify_signature()


def test_openssl_verifies_the_chain(tmp_path: Path, openssl: str) -> None:
    root, *intermediates = fields()["cabundle"]
    for name, certificates in {
        "root": [root],
        "intermediates": intermediates,
        "leaf": [fields()["certificate"]],
    }.items():
        pem = b"".join(
            x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in certificates
        )
        (tmp_path / name).write_bytes(pem)
    subprocess.run(
        [
            *(openssl, "verify", "-x509_strict", "-attime", str(int(NOW.timestamp()))),
            *("-CAfile", "root", "-untrusted", "intermediates", "leaf"),
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )


def test_document_has_the_layout_of_a_real_one() -> None:
    # array of 4, protected {1: -35}, empty map, payload with a two-byte length: a map of 9
    assert DOCUMENT.startswith(bytes.fromhex("84 44 a1013822 a0 59"))
    assert list(fields()) == [
        *("module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"),
        *("public_key", "user_data", "nonce"),
    ]
    assert fields()["nonce"] is None
    assert len(cbor2.loads(DOCUMENT)[3]) == 96
    assert len(KEY) == 294
    assert len(DOCUMENT) < 16 * 1024
    assert all(len(certificate) <= 1024 for certificate in fields()["cabundle"])


# --- refused ----------------------------------------------------------------------------------

FOREIGN = Authority(NOW - timedelta(days=1)).module({0: IMAGE}, NOW)
Change = dict[str, object]

MALFORMED: dict[str, Change] = {
    "no-module-id": {"module_id": None},
    "empty-module-id": {"module_id": ""},
    "module-id-in-bytes": {"module_id": b"i-0"},
    "no-digest": {"digest": None},
    "another-digest": {"digest": "SHA256"},
    "no-timestamp": {"timestamp": None},
    "timestamp-zero": {"timestamp": 0},
    "timestamp-true": {"timestamp": True},
    "timestamp-negative": {"timestamp": -1},
    "timestamp-with-a-fraction": {"timestamp": 1.5},
    "timestamp-of-nine-bytes": {"timestamp": 2**64},
    "no-pcrs": {"pcrs": None},
    "pcrs-empty": {"pcrs": {}},
    "pcrs-in-an-array": {"pcrs": [IMAGE]},
    "pcr-of-32-bytes": {"pcrs": {0: bytes(32)}},
    "pcr-of-47-bytes": {"pcrs": {0: bytes(47)}},
    "pcr-of-64-bytes": {"pcrs": {0: bytes(64)}},
    "pcr-in-text": {"pcrs": {0: "0" * 48}},
    "pcr-number-32": {"pcrs": {32: IMAGE}},
    "pcr-number-negative": {"pcrs": {-1: IMAGE}},
    "pcr-number-in-text": {"pcrs": {"0": IMAGE}},
    "pcr-number-false": {"pcrs": {False: IMAGE}},
    "no-certificate": {"certificate": None},
    "certificate-empty": {"certificate": b""},
    "certificate-of-1025-bytes": {"certificate": bytes(1025)},
    "no-cabundle": {"cabundle": None},
    "cabundle-empty": {"cabundle": []},
    "cabundle-of-text": {"cabundle": ["root"]},
    "cabundle-not-an-array": {"cabundle": fields()["cabundle"][0]},
    "public-key-empty": {"public_key": b""},
    "public-key-of-1025-bytes": {"public_key": bytes(1025)},
    "user-data-of-513-bytes": {"user_data": bytes(513)},
    "nonce-of-513-bytes": {"nonce": bytes(513)},
    "nonce-in-text": {"nonce": "nonce"},
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED)
def test_malformed_field_is_refused_although_signed(change: Change) -> None:
    document = MODULE.sign(fields() | change)
    name = next(iter(change))
    with pytest.raises(AttestationError, match=f"the document's {name} is missing or malformed"):
        verify(document, AUTHORITY.root, NOW)


def altered(key: str, value: object) -> bytes:
    """Change the payload without signing it again."""
    protected, unprotected, payload, signature = cbor2.loads(DOCUMENT)
    changed = cbor2.dumps(cbor2.loads(payload) | {key: value})
    return cbor2.dumps([protected, unprotected, changed, signature])


def enveloped(**changes: object) -> bytes:
    """Change the COSE envelope."""
    names = ("protected", "unprotected", "payload", "signature")
    parts = dict(zip(names, cbor2.loads(DOCUMENT), strict=True)) | changes
    return cbor2.dumps(list(parts.values()))


FORGED: dict[str, tuple[bytes, str]] = {
    "another-public-key": (altered("public_key", public_key()), "signature is wrong"),
    "another-image": (altered("pcrs", {0: bytes(48)}), "signature is wrong"),
    "a-younger-timestamp": (altered("timestamp", 2**40), "signature is wrong"),
    "a-flipped-bit-of-the-signature": (DOCUMENT[:-1] + bytes([DOCUMENT[-1] ^ 1]), "is wrong"),
    "a-signature-of-zeros": (enveloped(signature=bytes(96)), "signature is wrong"),
    "a-signature-in-der": (enveloped(signature=b"0" * 104), "not 96 bytes"),
    "another-algorithm": (enveloped(protected=cbor2.dumps({1: -7})), "ES384"),
    "a-second-header": (enveloped(protected=cbor2.dumps({1: -35, 4: b"kid"})), "ES384"),
    "an-unprotected-header": (enveloped(unprotected={4: b"kid"}), "ES384"),
    "the-payload-detached": (enveloped(payload=None), "COSE_Sign1"),
    "a-tag": (b"\xd2" + DOCUMENT, "untagged"),
    "a-byte-behind-it": (DOCUMENT + b"\0", "other bytes"),
    "a-byte-behind-the-payload": (enveloped(payload=cbor2.loads(DOCUMENT)[2] + b"\0"), "bytes"),
    "the-end-missing": (DOCUMENT[:-1], "CBOR"),
    "nothing": (b"", "CBOR"),
    "a-field-of-its-own": (MODULE.sign(fields() | {"debug": False}), "fields"),
    "no-map": (enveloped(payload=cbor2.dumps([1])), "fields"),
    "deep-nesting": (b"\x81" * 5000, "CBOR"),
    "more-than-16-KiB": (MODULE.sign(fields() | {"cabundle": [bytes(1024)] * 16}), "16384"),
    "a-foreign-root": (FOREIGN.attest(NOW, KEY), "not the one trusted"),
    "a-foreign-chain-below-our-root": (
        FOREIGN.sign(
            fields(FOREIGN.attest(NOW, KEY))
            | {"cabundle": [fields()["cabundle"][0], *fields(FOREIGN.attest(NOW))["cabundle"][1:]]}
        ),
        "do not lead to the root",
    ),
    "intermediates-missing": (
        MODULE.sign(fields() | {"cabundle": fields()["cabundle"][:1]}),
        "do not lead to the root",
    ),
    "the-bundle-upside-down": (
        MODULE.sign(fields() | {"cabundle": fields()["cabundle"][::-1]}),
        "not the one trusted",
    ),
    "the-intermediates-swapped": (
        MODULE.sign(fields() | {"cabundle": [fields()["cabundle"][i] for i in (0, 2, 1)]}),
        "not the chain from the root down",
    ),
    "not-a-certificate": (
        MODULE.sign(fields() | {"certificate": b"certificate"}),
        "do not lead to the root",
    ),
    "six-minutes-old": (MODULE.attest(NOW - timedelta(minutes=6), KEY), "not fresh"),
    "from-the-future": (MODULE.attest(NOW + timedelta(minutes=6), KEY), "not fresh"),
    "from-the-end-of-time": (MODULE.sign(fields() | {"timestamp": 2**64 - 1}), "not fresh"),
    "certified-three-hours-ago": (
        AUTHORITY.module({0: IMAGE}, NOW - timedelta(hours=3, seconds=1)).attest(NOW, KEY),
        "not valid at validation time",
    ),
    "certified-tomorrow": (
        AUTHORITY.module({0: IMAGE}, NOW + timedelta(days=1)).attest(NOW, KEY),
        "not valid at validation time",
    ),
}


@pytest.mark.parametrize(("document", "reason"), FORGED.values(), ids=FORGED)
def test_forged_document_is_refused(document: bytes, reason: str) -> None:
    with pytest.raises(AttestationError, match=reason):
        verify(document, AUTHORITY.root, NOW)


def test_a_duplicate_field_is_refused() -> None:
    one_more = cbor2.loads(DOCUMENT)[2].replace(b"\xa9imodule_id", b"\xaaenonce\xf6imodule_id", 1)
    assert cbor2.loads(one_more) == fields()  # a lenient decoder does not notice
    with pytest.raises(AttestationError, match="not CBOR"):
        verify(enveloped(payload=one_more), AUTHORITY.root, NOW)


def test_expired_root_certificate_is_refused() -> None:
    with pytest.raises(AttestationError, match="root certificate is not valid now"):
        verify(DOCUMENT, AUTHORITY.root, NOW + timedelta(days=31 * 366))


Rights = dict[str, bool]


def certified(  # noqa: PLR0913
    issuer: Signer | None = None,
    *,
    name: str = "x",
    ca: bool = True,
    path_length: int | None = None,
    signs: bool = True,
    certifies: bool = True,
    curve: ec.EllipticCurve | None = None,
) -> Signer:
    """Issue a certificate, with faults that a real PKI would not have."""
    key = ec.generate_private_key(curve or ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = dict.fromkeys(
        (
            *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(hours=1))
        .not_valid_after(NOW + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=signs, key_cert_sign=certifies, **usage),
            critical=True,
        )
        .sign(issuer.key if issuer else key, hashes.SHA384())
    )
    return Signer(certificate, key)


def attested_by(root: Signer, *chain: Signer) -> None:
    """Verify a document whose certificates are *chain*, below *root*."""
    *authorities, leaf = (root, *chain)
    bundle = tuple(ca.certificate.public_bytes(Encoding.DER) for ca in authorities)
    document = SecurityModule("i-0", {0: IMAGE}, leaf, bundle).attest(NOW, KEY)
    verify(document, root.certificate, NOW)


ROOT = certified(name="root")
REGION = certified(ROOT, name="region")
PKI: dict[str, tuple[Callable[[], Signer], Callable[[Signer], Signer]]] = {
    "an-authority-signs": (lambda: REGION, certified),
    "the-signer-may-not-sign": (
        lambda: REGION,
        lambda ca: certified(ca, ca=False, certifies=False, signs=False),
    ),
    "the-signer-is-on-P-256": (
        lambda: REGION,
        lambda ca: certified(ca, ca=False, certifies=False, curve=ec.SECP256R1()),
    ),
    "a-mere-signer-certifies": (
        lambda: certified(ROOT, name="signer", ca=False, certifies=False),
        lambda ca: certified(ca, ca=False, certifies=False),
    ),
    "an-authority-without-the-right-to-certify": (
        lambda: certified(ROOT, name="no", certifies=False),
        lambda ca: certified(ca, ca=False, certifies=False),
    ),
}


def test_the_smallest_chain_is_accepted() -> None:
    attested_by(ROOT, REGION, certified(REGION, ca=False, certifies=False))


@pytest.mark.parametrize(("authority", "signer"), PKI.values(), ids=PKI)
def test_certificate_used_beyond_its_key_usage_is_refused(
    authority: Callable[[], Signer], signer: Callable[[Signer], Signer]
) -> None:
    issuer = authority()
    with pytest.raises(AttestationError):
        attested_by(ROOT, issuer, signer(issuer))


def test_path_length_constraint_is_enforced() -> None:
    last = certified(ROOT, name="last", path_length=0)
    beyond = certified(last, name="beyond")
    with pytest.raises(AttestationError, match="do not lead to the root"):
        attested_by(ROOT, last, beyond, certified(beyond, ca=False, certifies=False))


def serial_number() -> int:
    """Return the offset of the certificate's serial number, whose first bit is the sign."""
    number = x509.load_der_x509_certificate(fields()["certificate"]).serial_number
    return DOCUMENT.index(number.to_bytes(number.bit_length() // 8 + 1, "big"))


@given(st.integers(0, len(DOCUMENT) - 1), st.integers(1, 255))
@example(serial_number(), 0x80)  # cryptography warns of a negative number
def test_no_byte_of_a_document_can_be_changed(position: int, difference: int) -> None:
    changed = bytearray(DOCUMENT)
    changed[position] ^= difference
    with pytest.raises(AttestationError):
        verify(bytes(changed), AUTHORITY.root, NOW)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(noise: bytes) -> None:
    with pytest.raises(AttestationError):
        verify(noise, AUTHORITY.root, NOW)


# --- the recipient's key ----------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_rsa_recipient_keys_are_accepted(bits: int) -> None:
    attested = verify(MODULE.attest(NOW, public_key(bits)), AUTHORITY.root, NOW)
    assert attested.recipient_key().key_size == bits


ELLIPTIC = ec.generate_private_key(ec.SECP384R1()).public_key()


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(None, id="none"),
        pytest.param(b"key", id="noise"),
        pytest.param(public_key(1024), id="RSA-of-1024-bits"),
        pytest.param(
            ELLIPTIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), id="elliptic"
        ),
    ],
)
def test_other_recipient_keys_are_refused(key: bytes | None) -> None:
    attested = verify(MODULE.attest(NOW, key), AUTHORITY.root, NOW)
    with pytest.raises(AttestationError, match="public key"):
        attested.recipient_key()
