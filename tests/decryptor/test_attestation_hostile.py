"""`--attest nsm` against hostile responses, proxies and security modules."""

from __future__ import annotations

import base64
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from rehearsal import cms
from tests.decryptor.machine import HOST, Machine
from tests.decryptor.scripted_kms import Request, http, released, serving
from tests.support.enclave import DATA_KEY, KEY_ARN
from tests.support.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20

# --- hostile responses ------------------------------------------------------------------------

FOREIGN = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()


def envelope(make: Callable[[bytes, rsa.RSAPublicKey], bytes]) -> Callable[[Request], bytes]:
    def reply(request: Request) -> bytes:
        recipient = base64.b64encode(make(DATA_KEY, request.key)).decode()
        return http(200, released(request, CiphertextForRecipient=recipient))

    return reply


def changed(**changes: object) -> Callable[[Request], bytes]:
    return lambda request: http(200, released(request, **changes))


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        pytest.param(changed(KeyId="arn:of:another"), "KMS did not decrypt with arn", id="KeyId"),
        pytest.param(changed(KeyId=None), "KMS did not decrypt with arn:", id="no-KeyId"),
        pytest.param(changed(KeyId=[KEY_ARN]), "KMS did not decrypt with", id="KeyId-in-a-list"),
        pytest.param(changed(EncryptionAlgorithm="ROT13"), "with SYMMETRIC_DEFAULT", id="ROT13"),
        pytest.param(
            changed(CiphertextForRecipient=None), "does not have whole|is not CMS", id="none"
        ),
        pytest.param(changed(CiphertextForRecipient=7), "is not base64", id="a-number"),
        pytest.param(changed(CiphertextForRecipient="!"), "is not base64", id="no-base64"),
        pytest.param(changed(CiphertextForRecipient="é"), "is not base64", id="no-ASCII"),
        pytest.param(changed(CiphertextForRecipient="AAAA"), "is not CMS", id="no-CMS"),
        pytest.param(
            envelope(lambda secret, _: cms.wrap(secret, FOREIGN)),
            "cannot be decrypted",
            id="foreign-key",
        ),
        pytest.param(
            envelope(lambda secret, key: cms.wrap(secret[:31], key)), "a data key of 32", id="short"
        ),
        pytest.param(
            envelope(lambda _, key: cms.wrap(b"", key)), "a data key of 32 bytes", id="empty"
        ),
        pytest.param(envelope(lambda *_: b"\x30\x80" * 9_000), "is not CMS", id="nested"),
        pytest.param(lambda _: http(200, b"[" * 30_000), "answer is not JSON", id="deep-JSON"),
        pytest.param(lambda _: http(200, b"\xff\xfe{"), "answer is not JSON", id="no-UTF-8"),
        pytest.param(lambda _: http(200, [1]), "is not a JSON object", id="a-list"),
        pytest.param(lambda _: b"SSH-2.0-OpenSSH\r\n\r\n", "not valid HTTP", id="SSH"),
        pytest.param(lambda _: b"\xff" * 999, "not valid HTTP", id="bytes"),
        pytest.param(
            lambda _: b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n{}",
            "not valid HTTP",
            id="101-headers",
        ),
        pytest.param(lambda _: http(200, b" " * MIB), "more than 65,536 bytes", id="1-MiB"),
        pytest.param(
            lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n" + b" " * MIB,
            "more than 65,536 bytes",
            id="a-length-of-a-terabyte",
        ),
        pytest.param(
            lambda _: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n" * 9999,
            "more than 65,536 bytes",
            id="a-chunk-of-256-MiB",
        ),
        pytest.param(
            lambda _: b"HTTP/1.1 100 Continue\r\n\r\n" * 9999, "more than 65,536", id="for-ever-100"
        ),
    ],
)
def test_hostile_response_is_one_line_error(
    reply: Callable[[Request], bytes], message: str, machine: Machine
) -> None:
    machine.kms.reply = reply
    error = machine.error()
    assert any(words in error for words in message.split("|")), error
    assert len(machine.kms.requests) == 1


# --- hostile proxies and servers --------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port: int = closed.getsockname()[1]
    return port


def test_closed_proxy_port_is_one_line_error(machine: Machine) -> None:
    port = free_port()
    error = machine.error(proxy_port=port)
    assert f"no server answers on the parent's vsock port {port} (Connection refused), 3 t" in error
    assert error.endswith(f"on the parent, start vsock-proxy {port} {HOST} 443")


@pytest.mark.parametrize(
    ("behave", "message"),
    [
        pytest.param(lambda it: it.recv(1) and it.close(), "ended before TLS began", id="closes"),
        pytest.param(
            lambda it: it.sendall(b"HTTP/1.1 200 OK\r\n\r\n") or it.recv(9999),
            "does not speak TLS 1.2 or 1.3",
            id="HTTP-in-the-clear",
        ),
    ],
)
def test_proxy_that_does_not_reach_kms_is_one_line_error(
    behave: Callable[[socket.socket], None], message: str, machine: Machine
) -> None:
    machine.kms.behave = behave
    assert message in machine.error()


def test_server_with_another_host_name_receives_no_request(machine: Machine) -> None:
    error = machine.error(region="us-east-1", key_id=None)
    assert "the server is not trusted as kms.us-east-1.amazonaws.com (Hostname mismatch" in error
    assert (machine.kms.requests, machine.kms.connections) == ([], 1)


def test_server_of_an_untrusted_authority_receives_no_request(
    machine: Machine, tmp_path: Path
) -> None:
    with serving(tmp_path) as stranger:
        error = machine.error(proxy_port=stranger.port)
        assert f"the server is not trusted as {HOST} (" in error
        assert "package ca-certificates" in error
        assert (stranger.requests, stranger.connections) == ([], 1)


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(lambda it: it.recv(9999) and it.recv(9999), id="silent-before-TLS"),
        pytest.param(None, id="a-byte-at-a-time"),
    ],
)
def test_silent_or_slow_server_times_out(
    behave: Callable[[socket.socket], None] | None, machine: Machine
) -> None:
    machine.kms.behave = behave

    ended = threading.Event()

    def reply(_: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nA: "
        for _step in range(500):  # never silent for as long as the limit
            if ended.wait(0.02):
                break
            yield b"b"

    machine.kms.reply = reply
    began = time.monotonic()
    error = machine.error(timeout=1)
    ended.set()
    assert "no answer in 1 s, 3 times: check that vsock-proxy on the parent's" in error
    assert time.monotonic() - began < PATIENCE


def test_kms_host_name_in_china_ends_in_cn(machine: Machine) -> None:
    error = machine.error(region="cn-north-1", key_id=None)
    assert "not trusted as kms.cn-north-1.amazonaws.com.cn (Hostname mismatch" in error


# --- the security module ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param({"Error": "InvalidArgument"}, "it answers InvalidArgument", id="an-error"),
        pytest.param(
            {"Attestation": {"document": "text"}}, "its answer is not of the kind", id="text"
        ),
        pytest.param({"Attestation": []}, "its answer is not of the kind Attestation", id="a-list"),
        pytest.param(
            {"GetRandom": {"random": b""}}, "its answer is not of the kind", id="another-answer"
        ),
        pytest.param(b"\xff\xff", "its answer is not CBOR", id="no-CBOR"),
        pytest.param(bytes(0x3001), "Message too long", id="more-than-the-header-allows"),
    ],
)
def test_without_attestation_document_kms_is_not_called(
    answer: object, message: str, machine: Machine
) -> None:
    usual = machine.kernel.answer
    machine.kernel.answer = lambda it: answer if isinstance(it, dict) else usual(it)
    error = machine.error()
    assert f"/dev/nsm gave no attestation document: {message}" in error
    assert machine.kms.requests == []


def test_without_random_numbers_no_key_is_generated(machine: Machine) -> None:
    machine.kernel.answer = lambda _: {"Error": "InternalError"}
    assert "/dev/nsm gave no random numbers: it answers InternalError" in machine.error()
    assert machine.kms.connections == 0
