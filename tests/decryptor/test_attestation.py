"""`--attest nsm`: the data key straight from KMS, on the system calls that an enclave makes."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from rehearsal import cms
from rehearsal.attestation import Authority
from rehearsal.aws import Credentials
from rehearsal.nitro import Kernel, kernel
from rehearsal.signature import signer
from tests.decryptor.scripted_kms import Question, ScriptedKms, good, http, released, serving
from tests.support.enclave import (
    CREDENTIALS,
    DATA_KEY,
    ENCRYPTED_KEY,
    KEY_ARN,
    PIN,
    Enclave,
    one_error,
    zipped,
)
from tests.support.machine import enclave_kernel
from tests.support.paths import PROJECT, SERVER
from tests.support.processes import PATIENCE, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HELLO = zipped({"hello": "hello"})
HOST = "kms.eu-central-1.amazonaws.com"
MIB = 1 << 20


@dataclass
class Machine:
    """An enclave's kernel, its way to KMS, and a process that asks for data keys there."""

    kernel: Kernel
    kms: ScriptedKms
    environment: dict[str, str]
    process: subprocess.Popen[str]
    settings: dict[str, Any] = field(default_factory=dict)

    def order(self, **changes: object) -> dict[str, str]:
        """Ask for `DATA_KEY`; return the key in hexadecimal, or the error."""
        order = {
            "region": "eu-central-1",
            "proxy_port": self.kms.port,
            "timeout": PATIENCE,
            "key_id": KEY_ARN,
            "credentials": CREDENTIALS,
            "encrypted_key": ENCRYPTED_KEY.hex(),
        }
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(order | changes) + "\n")
        self.process.stdin.flush()
        outcome: dict[str, str] = json.loads(self.process.stdout.readline())
        return outcome

    def key(self, **changes: object) -> bytes:
        """Ask for a key that must come."""
        return bytes.fromhex(self.order(**changes)["key"])

    def error(self, **changes: object) -> str:
        """Ask for a key that must not come; the line that says why, which holds no secret."""
        error = self.order(**changes)["error"]
        assert error.isprintable()
        for secret in (*CREDENTIALS.values(), DATA_KEY.hex(), base64.b64encode(DATA_KEY).decode()):
            assert secret not in error
        return error


@pytest.fixture(scope="module")
def enclave_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    enclave_kernel()
    now = datetime.now(UTC)
    module = Authority(now).module({0: b"\1" * 48}, now)
    with (
        kernel(lambda key: module.attest(datetime.now(UTC), key)) as started,
        serving(tmp_path_factory.mktemp("kms")) as kms,
    ):
        environment = started.environment | {"SSL_CERT_FILE": str(kms.trust)}
        with subprocess.Popen(
            [sys.executable, "-m", "tests.decryptor.attester_driver"],
            cwd=PROJECT,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": "encryption"} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            yield Machine(started, kms, environment, process)
            assert process.stdin
            process.stdin.close()
            assert process.wait(PATIENCE) == 0


@pytest.fixture
def machine(enclave_machine: Machine) -> Iterator[Machine]:
    """Lend the machine to a test, and take back what it changed."""
    answer = enclave_machine.kernel.answer
    enclave_machine.kms.reset()
    enclave_machine.kernel.requests.clear()
    enclave_machine.kernel.entropy.clear()
    yield enclave_machine
    enclave_machine.kernel.answer = answer


# --- what it asks, and what it takes for an answer --------------------------------------------


def test_the_request_is_that_of_awss_own_tool(machine: Machine) -> None:
    assert machine.key() == DATA_KEY
    (question,) = machine.kms.questions
    assert question.start == "POST / HTTP/1.1"
    assert question.headers["host"] == HOST
    assert question.headers["x-amz-target"] == "TrentService.Decrypt"
    assert question.headers["content-type"] == "application/x-amz-json-1.1"
    assert set(question.headers) == {
        *("host", "content-type", "x-amz-target", "content-length", "user-agent", "x-amz-date"),
        *("x-amz-security-token", "x-amz-content-sha256", "authorization"),
    }
    document = question.body.pop("Recipient")
    assert question.body == {
        "CiphertextBlob": base64.b64encode(ENCRYPTED_KEY).decode(),
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "KeyId": KEY_ARN,
        "Recipient": document,
    }
    assert document["KeyEncryptionAlgorithm"] == "RSAES_OAEP_SHA_256"
    assert (question.fields["nonce"], question.fields["user_data"]) == (None, None)
    assert len(question.fields["public_key"]) == 294  # RSA-2048


def test_the_request_is_signed_whole(machine: Machine) -> None:
    machine.key()
    (question,) = machine.kms.questions
    access_key, secret_key, token = CREDENTIALS.values()
    who = Credentials(access_key, secret_key, token)
    region = ("eu-central-1", "kms")
    known = {access_key: who}
    now = datetime.now(UTC)
    assert signer(question.headers, question.content, known, region, now) == who
    signed = question.headers["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    assert set(signed) == set(question.headers) - {"authorization", "user-agent"}


def test_each_key_is_new_and_made_of_the_modules_random_numbers_too(machine: Machine) -> None:
    machine.key()
    machine.key()
    first, second = machine.kms.questions
    assert first.fields["public_key"] != second.fields["public_key"]
    assert [len(numbers) for numbers in machine.kernel.entropy] == [256, 256]
    assert [type(request) for request in machine.kernel.requests] == [str, dict, str, dict]


def test_without_a_pin_no_key_is_named_and_any_is_taken(machine: Machine) -> None:
    machine.kms.reply = lambda question: http(200, released(question, KeyId="another"))
    assert machine.key(key_id=None) == DATA_KEY
    (question,) = machine.kms.questions
    assert question.body.keys() == {"CiphertextBlob", "Recipient"}


@pytest.mark.parametrize("piece", [None, 1, 16, 20, 1000])
@pytest.mark.parametrize("end", ["whole", "more", "none"])
def test_each_form_of_envelope_that_awss_tool_takes_is_opened(
    piece: int | None, end: str, machine: Machine
) -> None:
    def reply(question: Question) -> bytes:
        envelope = cms.wrap(DATA_KEY, question.key, piece)
        cut = {"whole": envelope, "more": envelope + b"more", "none": envelope[:-8]}[end]
        recipient = base64.b64encode(cut).decode()
        return http(200, released(question, CiphertextForRecipient=recipient))

    machine.kms.reply = reply
    assert machine.key() == DATA_KEY


def test_a_plaintext_besides_is_not_looked_at(machine: Machine) -> None:
    machine.kms.reply = lambda question: http(200, released(question, Plaintext="AAAA"))
    assert machine.key() == DATA_KEY


def test_an_answer_in_chunks_after_a_continue_is_read(machine: Machine) -> None:
    def reply(question: Question) -> bytes:
        body = json.dumps(released(question)).encode()
        chunks = b"".join(b"%x\r\n%s\r\n" % (1, body[i : i + 1]) for i in range(len(body)))
        head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        return head + chunks + b"0\r\n\r\n"

    machine.kms.reply = reply
    assert machine.key() == DATA_KEY


# --- what KMS refuses -------------------------------------------------------------------------

DENIED = (
    "User: arn:aws:sts::222222222222:assumed-role/Parent/i-0 is not authorized to perform: "
    "kms:Decrypt on resource: " + KEY_ARN + " with an explicit deny in a resource-based policy"
)


def refusal(kind: str, message: object = "Said so.", status: int = 400) -> Callable[..., bytes]:
    return lambda _: http(status, {"__type": kind, "message": message})


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        pytest.param(
            refusal("AccessDeniedException", DENIED),
            f"KMS refused: AccessDeniedException: {DENIED}: the key's policy must name this image",
            id="denied",
        ),
        pytest.param(
            refusal("com.amazonaws.kms#IncorrectKeyException"),
            "KMS refused: IncorrectKeyException: Said so.: the artifact was encrypted under "
            f"another key than {KEY_ARN}",
            id="another-key",
        ),
        pytest.param(
            refusal("ExpiredTokenException"),
            "ExpiredTokenException: Said so.: hand the parent role's current credentials",
            id="expired",
        ),
        pytest.param(
            refusal("InvalidSignatureException", "No.\n\nx-amz-security-token:token-example\n"),
            "KMS refused: InvalidSignatureException: No.: hand",
            id="quotes-the-request",
        ),
        pytest.param(
            refusal("OddException", "ASIAEXAMPLE secret-example token-example \x1b[31m\x85"),
            "KMS refused: OddException: … … … \\x1b[31m\\x85: CloudTrail",
            id="secrets-and-escapes",
        ),
        pytest.param(
            refusal("OddException", "long " * 10_000),
            "KMS refused: OddException: " + "long " * 100 + "…: CloudTrail",
            id="a-long-story",
        ),
        pytest.param(refusal("OddException", None), "refused: OddException: Cloud", id="no-words"),
        pytest.param(
            lambda _: http(400, {"__type": "A", "Message": "capital"}), "A: capital", id="Message"
        ),
        pytest.param(refusal("Not a kind\n"), "KMS refused: status 400, no reason", id="no-kind"),
        pytest.param(lambda _: http(403, b"<html>"), "refused: status 403, no", id="no-JSON"),
        pytest.param(lambda _: http(400, []), "refused: status 400, no reason", id="a-list"),
        pytest.param(
            lambda _: http(302, b"", Location="https://example.com/"),
            "KMS answered with status 302, which is neither a key nor a refusal",
            id="redirect",
        ),
        pytest.param(lambda _: http(204, b""), "KMS answered with status 204", id="no-content"),
    ],
)
def test_kmss_own_reason_is_one_line_without_secrets_and_asked_for_once(
    reply: Callable[[Question], bytes], message: str, machine: Machine
) -> None:
    machine.kms.reply = reply
    error = machine.error()
    assert error.startswith("KMS released no data key: ")
    assert message in error
    assert len(error) < 1200
    assert len(machine.kms.questions) == 1


def in_turn(*replies: Callable[[Question], bytes]) -> Callable[[Question], bytes]:
    left = list(replies)

    def reply(question: Question) -> bytes:
        return left.pop(0)(question)

    return reply


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(refusal("KMSInternalException", status=500), id="500"),
        pytest.param(refusal("ThrottlingException"), id="throttled"),
        pytest.param(lambda _: b"", id="dropped"),
        pytest.param(lambda question: good(question)[:-20], id="cut-off"),
    ],
)
def test_what_may_pass_is_tried_again(first: Callable[[Question], bytes], machine: Machine) -> None:
    machine.kms.reply = in_turn(first, good)
    assert machine.key() == DATA_KEY
    assert len(machine.kms.questions) == 2


def test_what_does_not_pass_is_told_after_three_tries(machine: Machine) -> None:
    machine.kms.reply = in_turn(refusal("KMSInternalException", status=500), *2 * [lambda _: b""])
    assert machine.error() == (
        "KMS released no data key: KMS failed (status 500, KMSInternalException: Said so.); "
        "the connection to KMS was lost, 2 times: does vsock-proxy on the parent lead to "
        f"{HOST}:443?"
    )


# --- hostile answers --------------------------------------------------------------------------

FOREIGN = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()


def envelope(make: Callable[[bytes, rsa.RSAPublicKey], bytes]) -> Callable[[Question], bytes]:
    def reply(question: Question) -> bytes:
        recipient = base64.b64encode(make(DATA_KEY, question.key)).decode()
        return http(200, released(question, CiphertextForRecipient=recipient))

    return reply


def changed(**changes: object) -> Callable[[Question], bytes]:
    return lambda question: http(200, released(question, **changes))


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        pytest.param(changed(KeyId="arn:of:another"), "KMS did not decrypt with arn", id="KeyId"),
        pytest.param(changed(KeyId=None), "KMS did not decrypt with arn:", id="no-KeyId"),
        pytest.param(changed(KeyId=[KEY_ARN]), "KMS did not decrypt with", id="KeyId-in-a-list"),
        pytest.param(changed(EncryptionAlgorithm="ROT13"), "with SYMMETRIC_DEFAULT", id="ROT13"),
        pytest.param(changed(CiphertextForRecipient=None), "has no whole|is not CMS", id="none"),
        pytest.param(changed(CiphertextForRecipient=7), "is not base64", id="a-number"),
        pytest.param(changed(CiphertextForRecipient="!"), "is not base64", id="no-base64"),
        pytest.param(changed(CiphertextForRecipient="é"), "is not base64", id="no-ASCII"),
        pytest.param(changed(CiphertextForRecipient="AAAA"), "is not CMS", id="no-CMS"),
        pytest.param(
            envelope(lambda secret, _: cms.wrap(secret, FOREIGN)), "does not open", id="foreign-key"
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
        pytest.param(lambda _: http(200, [1]), "is not an object of JSON", id="a-list"),
        pytest.param(lambda _: b"SSH-2.0-OpenSSH\r\n\r\n", "not an answer in HTTP", id="SSH"),
        pytest.param(lambda _: b"\xff" * 999, "not an answer in HTTP", id="bytes"),
        pytest.param(
            lambda _: b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n{}",
            "not an answer in HTTP",
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
def test_a_hostile_answer_is_refused_in_one_line(
    reply: Callable[[Question], bytes], message: str, machine: Machine
) -> None:
    machine.kms.reply = reply
    error = machine.error()
    assert any(words in error for words in message.split("|")), error
    assert len(machine.kms.questions) == 1


# --- hostile ways to KMS ----------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port: int = closed.getsockname()[1]
    return port


def test_nobody_at_the_proxys_port(machine: Machine) -> None:
    port = free_port()
    error = machine.error(proxy_port=port)
    assert f"nobody answers on the parent's vsock port {port} (Connection refused), 3 t" in error
    assert error.endswith(f"on the parent, start vsock-proxy {port} {HOST} 443")


@pytest.mark.parametrize(
    ("behave", "message"),
    [
        pytest.param(lambda it: it.recv(1) and it.close(), "ended before TLS began", id="closes"),
        pytest.param(
            lambda it: it.sendall(b"HTTP/1.1 200 OK\r\n\r\n") or it.recv(9999),
            "speaks no TLS 1.2 or 1.3",
            id="HTTP-in-the-clear",
        ),
    ],
)
def test_a_proxy_that_leads_nowhere(
    behave: Callable[[socket.socket], None], message: str, machine: Machine
) -> None:
    machine.kms.behave = behave
    assert message in machine.error()


def test_another_host_name_is_not_trusted_and_learns_nothing(machine: Machine) -> None:
    error = machine.error(region="us-east-1", key_id=None)
    assert "who answers is not trusted as kms.us-east-1.amazonaws.com (Hostname mismatch" in error
    assert (machine.kms.questions, machine.kms.connections) == ([], 1)


def test_another_authority_is_not_trusted_and_learns_nothing(
    machine: Machine, tmp_path: Path
) -> None:
    with serving(tmp_path) as stranger:
        error = machine.error(proxy_port=stranger.port)
        assert f"who answers is not trusted as {HOST} (" in error
        assert "certificates (package ca-certificates)" in error
        assert (stranger.questions, stranger.connections) == ([], 1)


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(lambda it: it.recv(9999) and it.recv(9999), id="silent-before-TLS"),
        pytest.param(None, id="a-byte-at-a-time"),
    ],
)
def test_silence_and_slowness_end_at_the_time_limit(
    behave: Callable[[socket.socket], None] | None, machine: Machine
) -> None:
    machine.kms.behave = behave

    ended = threading.Event()

    def reply(_: Question) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nA: "
        while not ended.wait(0.05):  # never silent for as long as the limit
            yield b"b"

    machine.kms.reply = reply
    began = time.monotonic()
    error = machine.error(timeout=0.6)
    ended.set()
    assert "no answer in 0.6 s, 3 times: does vsock-proxy on the parent's port" in error
    assert time.monotonic() - began < PATIENCE


def test_the_name_in_china_ends_in_cn(machine: Machine) -> None:
    error = machine.error(region="cn-north-1", key_id=None)
    assert "not trusted as kms.cn-north-1.amazonaws.com.cn (Hostname mismatch" in error


# --- the security module ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param({"Error": "InvalidArgument"}, "it answers InvalidArgument", id="an-error"),
        pytest.param({"Attestation": {"document": "text"}}, "it answers something else", id="text"),
        pytest.param(
            {"Attestation": []}, "it answers something else than Attestation", id="a-list"
        ),
        pytest.param(
            {"GetRandom": {"random": b""}}, "it answers something else", id="another-answer"
        ),
        pytest.param(b"\xff\xff", "its answer is not CBOR", id="no-CBOR"),
        pytest.param(bytes(0x3001), "Message too long", id="more-than-the-header-allows"),
    ],
)
def test_without_a_document_kms_is_not_asked(
    answer: object, message: str, machine: Machine
) -> None:
    usual = machine.kernel.answer
    machine.kernel.answer = lambda it: answer if isinstance(it, dict) else usual(it)
    error = machine.error()
    assert f"/dev/nsm gave no attestation document: {message}" in error
    assert machine.kms.questions == []


def test_without_random_numbers_no_key_is_made(machine: Machine) -> None:
    machine.kernel.answer = lambda _: {"Error": "InternalError"}
    assert "/dev/nsm gave no random numbers: it answers InternalError" in machine.error()
    assert machine.kms.connections == 0


# --- credentials ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param("", "AWS_SESSION_TOKEN is not in the environment", id="none"),
        pytest.param("a\r\nHost: b", "AWS_SESSION_TOKEN has a space", id="another-header"),
        pytest.param("é", "AWS_SESSION_TOKEN has a space, a line break or another", id="no-ASCII"),
    ],
)
def test_credentials_that_cannot_be_are_never_sent(
    value: str, message: str, machine: Machine
) -> None:
    error = machine.order(credentials=CREDENTIALS | {"AWS_SESSION_TOKEN": value})["error"]
    assert message in error
    assert machine.kms.connections == 0


# --- the front door ---------------------------------------------------------------------------


def options(machine: Machine) -> tuple[str, ...]:
    return (*PIN, "--attest", "nsm", "--proxy-port", str(machine.kms.port))


def test_decrypt_and_run_need_no_kmstool(machine: Machine, enclave: Enclave) -> None:
    artifact = enclave.artifact(zipped({"hello.py": "import os; print(sorted(os.environ))"}))
    enclave.tool.unlink()
    result = enclave.decrypt(artifact, *options(machine), **machine.environment)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (enclave.home / "tree/hello.py").exists()
    command = enclave.command("run", artifact, *options(machine), "--", "hello.py")
    ran = subprocess.run(
        command,
        env=enclave.environment(**machine.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "PATH" in ran.stdout
    assert not [name for name in ("AWS_", "LD_PRELOAD", "NITRO_") if name in ran.stdout]
    assert len(machine.kms.questions) == 2


def test_a_refusal_is_one_line_and_leaves_nothing(machine: Machine, enclave: Enclave) -> None:
    machine.kms.reply = refusal("AccessDeniedException", DENIED)
    artifact = enclave.artifact(HELLO)
    error = one_error(enclave.decrypt(artifact, *options(machine), **machine.environment))
    assert f"KMS released no data key: KMS refused: AccessDeniedException: {DENIED}: the" in error
    assert enclave.left_behind() == set()


def test_outside_an_enclave_it_says_so(enclave: Enclave) -> None:
    artifact = enclave.artifact(HELLO)
    error = one_error(enclave.decrypt(artifact, *PIN, "--attest", "nsm"))
    assert error.endswith(
        "there is no /dev/nsm: this is not an enclave: start the image with nitro-cli run-enclave"
    )


def test_a_signal_ends_it_while_kms_is_silent(machine: Machine, enclave: Enclave) -> None:
    machine.kms.behave = lambda connection: bool(connection.recv(9999) and connection.recv(9999))  # type: ignore[assignment]
    artifact = enclave.artifact(HELLO)
    command = enclave.command("decrypt", artifact, "-d", str(enclave.home / "tree"))
    process = subprocess.Popen(
        [*command, *options(machine)],
        env=enclave.environment(**machine.environment),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: machine.kms.connections)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (143, "error: ended by SIGTERM, nothing is left\n")
    assert enclave.left_behind() == set()


def without(package: str, folder: Path) -> dict[str, str]:
    """Return an environment in which *package* is not installed."""
    text = f"raise ModuleNotFoundError('No module named {package}', name='{package}')\n"
    (folder / f"{package}.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("package", ["cbor2", "asn1crypto", "botocore"])
def test_only_nsm_needs_its_packages_and_says_which(
    package: str, enclave: Enclave, tmp_path_factory: pytest.TempPathFactory
) -> None:
    environment = without(package, tmp_path_factory.mktemp("absent"))
    artifact = enclave.artifact(HELLO)
    found = enclave.decrypt(artifact, *PIN, "--attest", "nsm", **environment)
    assert f"--attest nsm needs {package}, which is not installed here: in" in one_error(found)
    assert enclave.decrypt(artifact, **environment).returncode == 0


def test_the_server_says_so_before_it_listens(tmp_path: Path) -> None:
    words = ("--listen", f"unix:{tmp_path}/socket", *PIN, "--attest", "nsm")
    found = subprocess.run(
        [sys.executable, SERVER, *words],
        env=without("asn1crypto", tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert one_error(found).startswith("error: --attest nsm needs asn1crypto, which is not")
