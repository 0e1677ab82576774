"""`--attest nsm`: the data key directly from KMS, with an enclave's system calls."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from rehearsal import cms
from rehearsal.aws import Credentials
from rehearsal.signature import signer
from tests.decryptor.machine import HOST, Machine
from tests.decryptor.scripted_kms import Request, good, http, released
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
from tests.support.paths import SERVER
from tests.support.processes import PATIENCE, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HELLO = zipped({"hello": "hello"})


# --- request and response ---------------------------------------------------------------------


def test_request_matches_that_of_kmstool(machine: Machine) -> None:
    assert machine.key() == DATA_KEY
    (request,) = machine.kms.requests
    assert request.start == "POST / HTTP/1.1"
    assert request.headers["host"] == HOST
    assert request.headers["x-amz-target"] == "TrentService.Decrypt"
    assert request.headers["content-type"] == "application/x-amz-json-1.1"
    assert set(request.headers) == {
        *("host", "content-type", "x-amz-target", "content-length", "user-agent", "x-amz-date"),
        *("x-amz-security-token", "x-amz-content-sha256", "authorization"),
    }
    document = request.body.pop("Recipient")
    assert request.body == {
        "CiphertextBlob": base64.b64encode(ENCRYPTED_KEY).decode(),
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "KeyId": KEY_ARN,
        "Recipient": document,
    }
    assert document["KeyEncryptionAlgorithm"] == "RSAES_OAEP_SHA_256"
    assert (request.fields["nonce"], request.fields["user_data"]) == (None, None)
    assert len(request.fields["public_key"]) == 294  # RSA-2048


def test_signature_covers_headers_and_body(machine: Machine) -> None:
    machine.key()
    (request,) = machine.kms.requests
    access_key, secret_key, token = CREDENTIALS.values()
    who = Credentials(access_key, secret_key, token)
    region = ("eu-central-1", "kms")
    known = {access_key: who}
    now = datetime.now(UTC)
    assert signer(request.headers, request.content, known, region, now) == who
    signed = request.headers["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    assert set(signed) == set(request.headers) - {"authorization", "user-agent"}


def test_each_request_has_a_new_key_seeded_by_the_security_module(machine: Machine) -> None:
    machine.key()
    machine.key()
    first, second = machine.kms.requests
    assert first.fields["public_key"] != second.fields["public_key"]
    assert [len(numbers) for numbers in machine.kernel.entropy] == [256, 256]
    assert [type(request) for request in machine.kernel.requests] == [str, dict, str, dict]


def test_without_key_id_any_key_is_accepted(machine: Machine) -> None:
    machine.kms.reply = lambda request: http(200, released(request, KeyId="another"))
    assert machine.key(key_id=None) == DATA_KEY
    (request,) = machine.kms.requests
    assert request.body.keys() == {"CiphertextBlob", "Recipient"}


@pytest.mark.parametrize("piece", [None, 1, 16, 20, 1000])
@pytest.mark.parametrize("end", ["whole", "more", "none"])
def test_every_envelope_form_that_kmstool_accepts_is_decrypted(
    piece: int | None, end: str, machine: Machine
) -> None:
    def reply(request: Request) -> bytes:
        envelope = cms.wrap(DATA_KEY, request.key, piece)
        cut = {"whole": envelope, "more": envelope + b"more", "none": envelope[:-8]}[end]
        recipient = base64.b64encode(cut).decode()
        return http(200, released(request, CiphertextForRecipient=recipient))

    machine.kms.reply = reply
    assert machine.key() == DATA_KEY


def test_additional_plaintext_in_the_response_is_ignored(machine: Machine) -> None:
    machine.kms.reply = lambda request: http(200, released(request, Plaintext="AAAA"))
    assert machine.key() == DATA_KEY


def test_chunked_response_after_100_continue_is_read(machine: Machine) -> None:
    def reply(request: Request) -> bytes:
        body = json.dumps(released(request)).encode()
        chunks = b"".join(b"%x\r\n%s\r\n" % (1, body[i : i + 1]) for i in range(len(body)))
        head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        return head + chunks + b"0\r\n\r\n"

    machine.kms.reply = reply
    assert machine.key() == DATA_KEY


# --- refusals by KMS --------------------------------------------------------------------------

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
            "ExpiredTokenException: Said so.: pass the parent role's current credentials",
            id="expired",
        ),
        pytest.param(
            refusal("InvalidSignatureException", "No.\n\nx-amz-security-token:token-example\n"),
            "KMS refused: InvalidSignatureException: No.: pass",
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
def test_kms_refusal_is_one_line_without_secrets_and_not_retried(
    reply: Callable[[Request], bytes], message: str, machine: Machine
) -> None:
    machine.kms.reply = reply
    error = machine.error()
    assert error.startswith("KMS released no data key: ")
    assert message in error
    assert len(error) < 1200
    assert len(machine.kms.requests) == 1


def in_turn(*replies: Callable[[Request], bytes]) -> Callable[[Request], bytes]:
    left = list(replies)

    def reply(request: Request) -> bytes:
        return left.pop(0)(request)

    return reply


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(refusal("KMSInternalException", status=500), id="500"),
        pytest.param(refusal("ThrottlingException"), id="throttled"),
        pytest.param(lambda _: b"", id="dropped"),
        pytest.param(lambda request: good(request)[:-20], id="cut-off"),
    ],
)
def test_transient_failures_are_retried(
    first: Callable[[Request], bytes], machine: Machine
) -> None:
    machine.kms.reply = in_turn(first, good)
    assert machine.key() == DATA_KEY
    assert len(machine.kms.requests) == 2


def test_persistent_failure_is_reported_after_three_attempts(machine: Machine) -> None:
    machine.kms.reply = in_turn(refusal("KMSInternalException", status=500), *2 * [lambda _: b""])
    assert machine.error() == (
        "KMS released no data key: KMS failed (status 500, KMSInternalException: Said so.); "
        "the connection to KMS was lost, 2 times: check that vsock-proxy on the parent leads to "
        f"{HOST}:443"
    )


# --- credentials ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param("", "AWS_SESSION_TOKEN is not in the environment", id="none"),
        pytest.param("a\r\nHost: b", "AWS_SESSION_TOKEN has a space", id="another-header"),
        pytest.param("é", "AWS_SESSION_TOKEN has a space, a line break or another", id="no-ASCII"),
    ],
)
def test_malformed_credentials_are_never_sent(value: str, message: str, machine: Machine) -> None:
    error = machine.order(credentials=CREDENTIALS | {"AWS_SESSION_TOKEN": value})["error"]
    assert message in error
    assert machine.kms.connections == 0


# --- the command line -------------------------------------------------------------------------


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
    assert len(machine.kms.requests) == 2


def test_a_refusal_is_one_line_and_leaves_nothing(machine: Machine, enclave: Enclave) -> None:
    machine.kms.reply = refusal("AccessDeniedException", DENIED)
    artifact = enclave.artifact(HELLO)
    error = one_error(enclave.decrypt(artifact, *options(machine), **machine.environment))
    assert f"KMS released no data key: KMS refused: AccessDeniedException: {DENIED}: the" in error
    assert enclave.left_behind() == set()


def test_outside_an_enclave_the_error_says_so(enclave: Enclave) -> None:
    artifact = enclave.artifact(HELLO)
    error = one_error(enclave.decrypt(artifact, *PIN, "--attest", "nsm"))
    assert error.endswith(
        "/dev/nsm does not exist: this is not an enclave: "
        "start the image with nitro-cli run-enclave"
    )


def test_signal_ends_the_decryptor_while_kms_does_not_respond(
    machine: Machine, enclave: Enclave
) -> None:
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
    assert (process.returncode, errors) == (
        143,
        "error: terminated by SIGTERM, nothing is left behind\n",
    )
    assert enclave.left_behind() == set()


def without(package: str, folder: Path) -> dict[str, str]:
    """Return an environment in which *package* is not installed."""
    text = f"raise ModuleNotFoundError('No module named {package}', name='{package}')\n"
    (folder / f"{package}.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("package", ["cbor2", "asn1crypto", "botocore"])
def test_missing_package_is_named_and_needed_for_nsm_only(
    package: str, enclave: Enclave, tmp_path_factory: pytest.TempPathFactory
) -> None:
    environment = without(package, tmp_path_factory.mktemp("absent"))
    artifact = enclave.artifact(HELLO)
    found = enclave.decrypt(artifact, *PIN, "--attest", "nsm", **environment)
    assert f"--attest nsm needs {package}, which is not installed here: in" in one_error(found)
    assert enclave.decrypt(artifact, **environment).returncode == 0


def test_server_reports_a_missing_package_before_it_listens(tmp_path: Path) -> None:
    words = ("--listen", f"unix:{tmp_path}/socket", *PIN, "--attest", "nsm")
    found = subprocess.run(
        [sys.executable, SERVER, *words],
        env=without("asn1crypto", tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert one_error(found).startswith("error: --attest nsm needs asn1crypto, which is not")
