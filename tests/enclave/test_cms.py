"""KMS's envelope: OpenSSL decrypts ours, we decrypt OpenSSL's, and other forms are refused."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from rehearsal.cms import EnvelopeError, WrongKeyError, unwrap, wrap

if TYPE_CHECKING:
    from pathlib import Path

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SECRET = bytes(range(32))
ENVELOPE = wrap(SECRET, KEY.public_key())
IN_PIECES = wrap(SECRET, KEY.public_key(), piece=20)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


@pytest.mark.parametrize("piece", [None, 1, 16, 20, 48, 1000])
@pytest.mark.parametrize("size", [0, 15, 16, 32, 5000])
def test_openssl_decrypts_our_envelope(
    piece: int | None, size: int, key_file: Path, openssl: str
) -> None:
    envelope = wrap(bytes(size), KEY.public_key(), piece)
    decrypted = subprocess.run(
        [openssl, "cms", "-decrypt", "-binary", "-inform", "DER", "-inkey", key_file],
        input=envelope,
        capture_output=True,
        check=True,
    )
    assert decrypted.stdout == bytes(size)
    assert unwrap(envelope, KEY) == bytes(size)


def openssl_envelope(openssl: str, folder: Path, key_file: Path, *options: str) -> bytes:
    """Have OpenSSL make an envelope; *options* come last and take precedence."""
    certificate = folder / "certificate.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-key", key_file, "-subj", "/CN=x", "-out", certificate],
        check=True,
        capture_output=True,
    )
    command: list[str | Path] = [
        *(openssl, "cms", "-encrypt", "-binary", "-stream", "-outform", "DER", "-keyid"),
        *("-recip", certificate, "-keyopt", "rsa_padding_mode:oaep"),
        *("-keyopt", "rsa_oaep_md:sha256", "-keyopt", "rsa_mgf1_md:sha256"),
        *(options or ("-aes-256-cbc",)),
    ]
    return subprocess.run(command, input=SECRET, check=True, capture_output=True).stdout


def test_envelope_by_openssl_is_decrypted(tmp_path: Path, key_file: Path, openssl: str) -> None:
    assert unwrap(openssl_envelope(openssl, tmp_path, key_file), KEY) == SECRET


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("-aes-128-cbc",), id="AES-128"),
        pytest.param(("-aes-256-cbc", "-keyopt", "rsa_oaep_md:sha512"), id="OAEP-with-SHA-512"),
        pytest.param(("-aes-256-cbc", "-keyopt", "rsa_mgf1_md:sha512"), id="MGF1-with-SHA-512"),
        pytest.param(("-aes-256-cbc", "-keyopt", "rsa_padding_mode:pkcs1"), id="PKCS1-v1.5"),
    ],
)
def test_envelope_by_openssl_with_other_algorithms_is_refused(
    options: tuple[str, ...], tmp_path: Path, key_file: Path, openssl: str
) -> None:
    with pytest.raises(EnvelopeError) as error:
        unwrap(openssl_envelope(openssl, tmp_path, key_file, *options), KEY)
    assert error.type is EnvelopeError  # for its form, not for a wrong key


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        pytest.param("020102 3182", "020103 3182", id="EnvelopedData-version-3"),
        pytest.param("020102 8020", "020100 8020", id="recipient-version-0"),
        pytest.param("2a864886f70d010703", "2a864886f70d010702", id="SignedData"),
        pytest.param("2a864886f70d010701", "2a864886f70d010702", id="content-not-Data"),
        pytest.param("2a864886f70d010107", "2a864886f70d010101", id="not-OAEP"),
        pytest.param("2a864886f70d010108", "2a864886f70d010109", id="not-MGF1"),
        pytest.param("608648016503040201", "608648016503040202", id="not-SHA-256"),
        pytest.param("60864801650304012a", "608648016503040116", id="not-AES-256-CBC"),
    ],
)
def test_only_the_form_that_kms_writes_is_accepted(written: str, instead: str) -> None:
    before, after = bytes.fromhex(written), bytes.fromhex(instead)
    assert before in ENVELOPE
    with pytest.raises(EnvelopeError) as error:
        unwrap(ENVELOPE.replace(before, after, 1), KEY)
    assert error.type is EnvelopeError


def test_outer_levels_have_indefinite_lengths_as_from_kms() -> None:
    # ContentInfo, its type; [0]; EnvelopedData, version 2; one recipient, version 2, by key id
    beginning = "3080 06092a864886f70d010703 a080 3080 020102 3182016b 30820167 020102 8020"
    assert ENVELOPE.startswith(bytes.fromhex(beginning))
    assert ENVELOPE.endswith(bytes(4 * 2))
    assert IN_PIECES.endswith(bytes(5 * 2))


def test_another_key_decrypts_nothing() -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with pytest.raises(WrongKeyError):
        unwrap(ENVELOPE, other)


@pytest.mark.parametrize(
    ("envelope", "ends"), [(ENVELOPE, 4), (IN_PIECES, 5)], ids=["primitive", "in-pieces"]
)
def test_only_the_end_octets_may_be_missing_as_in_the_sdk(envelope: bytes, ends: int) -> None:
    needed = len(envelope) - 2 * ends
    for end in range(needed):
        with pytest.raises(EnvelopeError):
            unwrap(envelope[:end], KEY)
    for whole in (envelope[:needed], envelope[:-1], envelope + b"\0", envelope + b"more"):
        assert unwrap(whole, KEY) == unwrap(envelope, KEY)


@given(st.sampled_from([ENVELOPE, IN_PIECES]), st.data())
def test_a_changed_byte_gives_an_error_or_garbage_but_never_a_crash(
    envelope: bytes, data: st.DataObject
) -> None:
    changed = bytearray(envelope)
    position = data.draw(st.integers(0, len(envelope) - 1))
    changed[position] ^= data.draw(st.integers(1, 255))
    try:
        # CBC authenticates nothing: the token's HMAC does, later.
        unwrap(bytes(changed), KEY)
    except EnvelopeError:
        return


def test_two_recipients_are_refused() -> None:
    start, end = ENVELOPE.index(b"\x31\x82\x01\x6b"), 4 + 0x16B
    recipients = ENVELOPE[start : start + end]
    twice = b"\x31\x82" + (2 * 0x16B).to_bytes(2, "big") + recipients[4:] * 2
    with pytest.raises(EnvelopeError):
        unwrap(ENVELOPE.replace(recipients, twice), KEY)


def test_definite_outer_length_is_refused_as_by_the_sdk() -> None:
    inner = ENVELOPE[2:-2]
    with pytest.raises(EnvelopeError):
        unwrap(b"\x30\x82" + len(inner).to_bytes(2, "big") + inner, KEY)
