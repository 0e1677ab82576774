"""KMS's envelope, as `--attest nsm` decrypts it: what AWS's own parser accepts, nothing hostile."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from decryptor.envelope import EnvelopeError, opened
from rehearsal.cms import wrap

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SECRET = bytes(range(32))
# Its ciphertext does not end like end octets.
ENVELOPE = next(it for it in iter(lambda: wrap(SECRET, KEY.public_key()), None) if all(it[-10:-8]))
IN_PIECES = wrap(SECRET, KEY.public_key(), piece=20)
CONTENT = len(ENVELOPE) - 8 - 48 - 2  # offset of the ciphertext's tag and length
OTHER_KEY = "cannot be decrypted with this enclave's key"


@pytest.mark.parametrize("piece", [None, 1, 16, 20, 1000])
@pytest.mark.parametrize("size", [0, 15, 16, 32, 5000])
def test_trailing_bytes_and_missing_end_octets_are_accepted(piece: int | None, size: int) -> None:
    secret = bytes(number % 251 for number in range(size))
    envelope = wrap(secret, KEY.public_key(), piece)
    ends = 2 * (4 if piece is None else 5)
    for taken in (envelope, envelope + b"\0", envelope + b"more", envelope[:-1], envelope[:-ends]):
        assert opened(taken, KEY) == secret


@pytest.mark.parametrize(
    ("envelope", "ends"), [(ENVELOPE, 8), (IN_PIECES, 10)], ids=["primitive", "in-pieces"]
)
def test_any_other_truncation_is_refused(envelope: bytes, ends: int) -> None:
    for end in range(len(envelope) - ends):
        with pytest.raises(EnvelopeError) as error:
            opened(envelope[:end], KEY)
        assert str(error.value) != OTHER_KEY  # before anything is decrypted


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
        pytest.param("04012a 0410", "04012a 040f", id="IV-of-15-bytes"),
    ],
)
def test_another_form_or_algorithm_is_refused(written: str, instead: str) -> None:
    before, after = bytes.fromhex(written), bytes.fromhex(instead)
    assert before in ENVELOPE
    with pytest.raises(EnvelopeError) as error:
        opened(ENVELOPE.replace(before, after, 1), KEY)
    assert str(error.value) != OTHER_KEY  # for its form, not for a wrong key


def indefinite(tag: int, content: bytes) -> bytes:
    return bytes((tag, 0x80)) + content + b"\0\0"


@pytest.mark.parametrize(
    "envelope",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0" * 64, id="zeros"),
        pytest.param(b"\x30\x80" * 30_000, id="nested-30000-deep"),
        pytest.param(b"\x30\x80" * 30_000 + b"\0\0" * 30_000, id="nested-and-closed"),
        pytest.param(b"\x30\x84\xff\xff\xff\xff", id="4-GiB"),
        pytest.param(b"\x30\xff" + b"\xff" * 127, id="a-length-of-127-bytes"),
        pytest.param(b"\x1f" + b"\xff" * 30_000, id="a-tag-without-end"),
        pytest.param(
            ENVELOPE[:CONTENT] + b"\x24\x82\xff\xff" * 10_000,
            id="constructed-in-constructed",
        ),
        pytest.param(
            ENVELOPE[:CONTENT] + b"\xa0\x80" + b"\x24\x80" * 20_000,
            id="pieces-of-pieces",
        ),
        pytest.param(indefinite(0x30, b"\x06\x01\x00"), id="an-OID-of-one-byte"),
        pytest.param(ENVELOPE[:CONTENT] + b"\x80\x31" + ENVELOPE[CONTENT + 2 :], id="49-bytes"),
        pytest.param(ENVELOPE[:CONTENT] + b"\x80\x00" + bytes(8), id="no-ciphertext"),
        pytest.param(
            ENVELOPE[:CONTENT] + b"\x80\x84\x7f\xff\xff\xff" + ENVELOPE[CONTENT + 2 :], id="2-GiB"
        ),
    ],
)
def test_malformed_envelope_is_refused_before_decryption(envelope: bytes) -> None:
    with pytest.raises(EnvelopeError) as error:
        opened(envelope, KEY)
    assert str(error.value) != OTHER_KEY


def test_wrong_key_and_wrong_padding_give_the_same_error() -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    damaged = bytearray(ENVELOPE)
    damaged[CONTENT + 2 + 16] ^= 1  # turns a byte of the last block's padding
    for envelope, key in ((ENVELOPE, other), (bytes(damaged), KEY)):
        with pytest.raises(EnvelopeError) as error:
            opened(envelope, key)
        assert str(error.value) == OTHER_KEY


def test_two_recipients_are_refused() -> None:
    start, end = ENVELOPE.index(b"\x31\x82\x01\x6b"), 4 + 0x16B
    recipients = ENVELOPE[start : start + end]
    twice = b"\x31\x82" + (2 * 0x16B).to_bytes(2, "big") + recipients[4:] * 2
    with pytest.raises(EnvelopeError, match="has 2 where KMS writes 1"):
        opened(ENVELOPE.replace(recipients, twice), KEY)


@given(st.sampled_from([ENVELOPE, IN_PIECES]), st.data())
def test_a_changed_byte_gives_an_error_or_garbage_but_never_a_crash(
    envelope: bytes, data: st.DataObject
) -> None:
    changed = bytearray(envelope)
    position = data.draw(st.integers(0, len(envelope) - 1))
    changed[position] ^= data.draw(st.integers(1, 255))
    try:
        opened(bytes(changed), KEY)
    except EnvelopeError:
        return
