"""The rehearsal's kmstool_enclave_cli: what the real one prints, and how the real one ends."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from rehearsal import cms
from rehearsal.enclave import KMSTOOL, device, security_module
from rehearsal.kms import Kms, KmsError
from rehearsal.scenario import DEBUG, Scenario
from rehearsal.service import certificates, serve
from tests.support import artifacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

ALGORITHM = ("--encryption-algorithm", "SYMMETRIC_DEFAULT")
CONTRACTS = pytest.mark.parametrize(
    ("contract", "subcommand", "refused"),
    [
        ("0.3.0", (), 1),
        ("0.3.2", ("decrypt",), 255),
        ("0.4.0", ("decrypt",), 255),
        ("0.4.4", ("decrypt",), 255),
    ],
)
ENDS = "Could not decrypt ciphertext\nCould not decrypt\n\n"
REFUSAL = [
    "Got non-200 answer from KMS: 400",
    "Could not read response from KMS",
    "Could not decrypt ciphertext",
    "Could not decrypt",
]


class Tool:
    """The tool in an enclave on *scenario*, whose *environment* a test may change."""

    def __init__(self, scenario: Scenario, module: Path) -> None:
        """Give it the parent's credentials, the artifact's data key and *module*."""
        encrypted_key, _ = artifacts.parts(scenario.artifact.read_bytes())
        self.ciphertext = base64.b64encode(encrypted_key)
        self.environment = {
            "KMSTOOL_MODULE": str(module),
            "KMSTOOL_PACE": "0.01",
            "KMSTOOL_PYTHON": sys.executable,
            "SSL_CERT_FILE": str(scenario.service.trust),
        }
        parent = scenario.parent
        self.credentials = {
            "--aws-access-key-id": parent.access_key_id,
            "--aws-secret-access-key": parent.secret_access_key,
            "--aws-session-token": parent.session_token,
        }
        self.options = self.credentials | {
            "--region": "eu-central-1",
            "--proxy-port": str(scenario.service.port),
            "--ciphertext": self.ciphertext.decode(),
        }

    def __call__(
        self, *words: str, contract: str = "0.4.4", **changes: str | None
    ) -> subprocess.CompletedProcess[str]:
        """Run it; *changes* to the options are spelt like ``proxy_port``, None leaves one out."""
        options: Mapping[str, str | None] = self.options | {
            f"--{name.replace('_', '-')}": value for name, value in changes.items()
        }
        given = [word for pair in options.items() if pair[1] is not None for word in pair]
        return subprocess.run(
            [KMSTOOL, *words, *map(str, given)],
            env=self.environment | {"KMSTOOL_CONTRACT": contract, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def tool(scenario: Scenario) -> Iterator[Tool]:
    with device(security_module(scenario)) as module:
        yield Tool(scenario, module)


def opens(artifact: Path, data_key: str) -> bool:
    return bool(artifacts.decrypted(artifact.read_bytes(), base64.b64decode(data_key)))


# --- what it prints ---------------------------------------------------------------------------


@CONTRACTS
def test_it_prints_the_data_key_in_its_versions_form(
    contract: str, subcommand: tuple[str, ...], refused: int, tool: Tool, scenario: Scenario
) -> None:
    del refused
    result = tool(*subcommand, *ALGORITHM, contract=contract, key_id=scenario.key)
    assert result.returncode == 0
    key = result.stdout
    if subcommand:
        assert key.startswith("PLAINTEXT: ")
        assert key.endswith("\n")
        key = key.removeprefix("PLAINTEXT: ").removesuffix("\n")
    assert opens(scenario.artifact, key)


def test_its_log_gives_the_credentials_away_as_the_real_one_does(tool: Tool) -> None:
    log = tool("decrypt").stderr
    assert tool.credentials["--aws-access-key-id"] in log
    assert tool.credentials["--aws-session-token"] in log
    assert "Signature=" in log
    assert tool.credentials["--aws-secret-access-key"] not in log


@CONTRACTS
def test_it_never_says_why_kms_refused(
    contract: str, subcommand: tuple[str, ...], refused: int, tool: Tool, scenario: Scenario
) -> None:
    with device(security_module(scenario, DEBUG)) as module:
        tool.environment["KMSTOOL_MODULE"] = str(module)
        result = tool(*subcommand, contract=contract)
    assert (result.returncode, result.stdout) == (refused, "")
    assert [line for line in result.stderr.splitlines() if line][-4:] == REFUSAL
    assert "Deny" not in result.stderr


# --- what it rejects before it connects -------------------------------------------------------


@pytest.mark.parametrize("contract", ["0.3.0", "0.4.4"])
@pytest.mark.parametrize(
    "name", ["aws-access-key-id", "aws-secret-access-key", "aws-session-token", "ciphertext"]
)
def test_it_insists_on_what_it_needs(contract: str, name: str, tool: Tool) -> None:
    words = () if contract == "0.3.0" else ("decrypt",)
    result = tool(*words, contract=contract, **{name.replace("-", "_"): None})
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"--{name} must be set\n"


@pytest.mark.parametrize(
    ("contract", "words", "complaint"),
    [
        pytest.param("0.2.1", ("--key-id", "x"), "Unknown option\n", id="a-pin-too-early"),
        pytest.param("0.3.0", ("decrypt",), "Unknown option\n", id="a-subcommand-too-early"),
        pytest.param("0.4.4", (), "usage: ", id="no-subcommand"),
        pytest.param("0.4.4", ("encrypt",), "usage: ", id="another-subcommand"),
        pytest.param("0.3.0", ("--pin", "x"), "Unknown option\n", id="unknown-flag-in-0.3.0"),
        pytest.param(
            "0.4.4", ("decrypt", "--pin", "x"), "Unknown option: (null)\n", id="unknown-flag"
        ),
        pytest.param(
            "0.4.4", ("decrypt", "--reg", "x"), "Unknown option: (null)\n", id="abbreviated"
        ),
        pytest.param(
            "0.4.4", ("decrypt", "--region=x"), "Unknown option: (null)\n", id="equals-sign"
        ),
    ],
)
def test_it_answers_the_wrong_command_line_with_its_usage(
    contract: str, words: tuple[str, ...], complaint: str, tool: Tool
) -> None:
    result = tool(*words, contract=contract)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(complaint)
    assert "usage: kmstool_enclave_cli" in result.stderr


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_0_3_0_helps_whoever_asks(word: str, tool: Tool) -> None:
    result = tool(word, contract="0.3.0")
    assert result.returncode == 0
    assert "usage: kmstool_enclave_cli [options]" in result.stderr


def test_a_newer_one_asked_for_help_complains_of_what_is_missing(tool: Tool) -> None:
    result = tool("--help")
    assert (result.returncode, result.stderr) == (1, "--aws-access-key-id must be set\n")


def test_0_3_1_lists_key_id_and_refuses_it(tool: Tool, scenario: Scenario) -> None:
    result = tool("decrypt", *ALGORITHM, contract="0.3.1", key_id=scenario.key)
    assert result.returncode == 1
    assert "    --key-id\n" in result.stderr


@pytest.mark.parametrize(
    ("contract", "words", "status", "complaint"),
    [
        pytest.param("0.3.0", (), 1, "--encryption-algorithm must be set", id="0.3.0"),
        pytest.param("0.4.4", ("decrypt",), 255, "Invalid encryption algorithm\n", id="0.4.4"),
    ],
)
def test_a_pinned_key_needs_its_algorithm(
    contract: str, words: tuple[str, ...], status: int, complaint: str, tool: Tool
) -> None:
    result = tool(*words, contract=contract, key_id="x")
    assert result.returncode == status
    assert complaint in result.stderr


# --- how it fails -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "status", "complaint"),
    [
        pytest.param({"ciphertext": "!"}, 255, "Ciphertext not a base64 string", id="no-base64"),
        pytest.param({"ciphertext": ""}, 255, ENDS, id="no-ciphertext"),
        pytest.param(
            {"key_id": "x", "encryption_algorithm": "ROT13"},
            255,
            "Invalid encryption algorithm",
            id="unknown-algorithm",
        ),
        pytest.param({"aws_secret_access_key": ""}, -signal.SIGABRT, "Stack", id="empty-secret"),
        pytest.param({"region": ""}, -signal.SIGABRT, "Stack", id="empty-region"),
    ],
)
def test_what_is_wrong_with_the_values_is_never_sent(
    changes: dict[str, str], status: int, complaint: str, tool: Tool, scenario: Scenario
) -> None:
    asked = len(scenario.service.kms.trail)
    result = tool("decrypt", **changes)
    assert (result.returncode, result.stdout) == (status, "")
    assert complaint in result.stderr
    assert "Connected." not in result.stderr
    assert len(scenario.service.kms.trail) == asked


@pytest.mark.parametrize(
    "document",
    [pytest.param(b"", id="none"), pytest.param(bytes(16 * 1024 + 1), id="longer-than-16-KiB")],
)
def test_without_a_document_it_asks_nobody(
    document: bytes, tool: Tool, scenario: Scenario
) -> None:
    asked = len(scenario.service.kms.trail)
    with device(lambda _: document) as module:
        tool.environment["KMSTOOL_MODULE"] = str(module)
        result = tool("decrypt")
    assert (result.returncode, result.stdout) == (255, "")
    assert result.stderr.endswith(ENDS)
    assert len(scenario.service.kms.trail) == asked


def test_outside_an_enclave_it_aborts_at_once(tool: Tool) -> None:
    tool.environment["KMSTOOL_MODULE"] = "/nonexistent"
    result = tool("decrypt")
    assert (result.returncode, result.stdout) == (-signal.SIGABRT, "")
    assert "seed_entropy(1024)" in result.stderr
    assert "Connected." not in result.stderr


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port: int = closed.getsockname()[1]
    return port


def test_with_nobody_at_the_proxy_port_it_aborts(tool: Tool) -> None:
    result = tool("decrypt", proxy_port=str(free_port()))
    assert (result.returncode, result.stdout) == (-signal.SIGABRT, "")
    assert "AWS_IO_SOCKET_NOT_CONNECTED" in result.stderr


def test_a_port_is_cut_to_16_bits(tool: Tool, scenario: Scenario) -> None:
    assert tool("decrypt", proxy_port=str(scenario.service.port + 65_536)).returncode == 0


@pytest.mark.parametrize(
    ("changes", "environment"),
    [
        pytest.param({}, {"SSL_CERT_FILE": "/dev/null"}, id="untrusted"),
        pytest.param({"region": "us-east-1"}, {}, id="another-host-name"),
    ],
)
def test_with_a_stranger_behind_the_proxy_it_aborts(
    changes: dict[str, str], environment: dict[str, str], tool: Tool
) -> None:
    tool.environment |= environment
    result = tool("decrypt", **changes)
    assert (result.returncode, result.stdout) == (-signal.SIGABRT, "")
    assert "AWS_IO_TLS_ERROR_NEGOTIATION_FAILURE" in result.stderr


@contextlib.contextmanager
def peer(behave: Callable[[socket.socket], object]) -> Iterator[str]:
    """Have *behave* take every connection to a port; the port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                behave(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield str(server.server_address[1])
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("behave", "complaint"),
    [
        pytest.param(lambda it: it.recv(1) and it.close(), "AWS_IO_SOCKET_CLOSED", id="closes"),
        pytest.param(lambda it: it.recv(1 << 16) and it.recv(1), "TIMEOUT", id="stays-silent"),
    ],
)
def test_a_proxy_that_speaks_no_tls_makes_it_abort(
    behave: Callable[[socket.socket], object], complaint: str, tool: Tool
) -> None:
    with peer(behave) as port:
        result = tool("decrypt", proxy_port=port)
    assert (result.returncode, result.stdout) == (-signal.SIGABRT, "")
    assert complaint in result.stderr


# --- a KMS that answers nonsense --------------------------------------------------------------

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def envelope(plaintext: bytes, key: rsa.RSAPublicKey, end: slice, more: bytes = b"") -> str:
    return base64.b64encode(cms.wrap(plaintext, key)[end] + more).decode()


class Liar(Kms):
    """A KMS that answers whatever *reply* makes of the enclave's public key and a good answer."""

    reply: Callable[[rsa.RSAPublicKey], dict[str, object]]

    def answer(self, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
        """Lie."""
        del headers
        document = base64.b64decode(json.loads(body)["Recipient"]["AttestationDocument"])
        payload = cbor2.loads(cbor2.loads(document)[2])
        key = load_der_public_key(payload["public_key"])
        assert isinstance(key, rsa.RSAPublicKey)
        whole = {"KeyId": "key", "CiphertextForRecipient": envelope(bytes(32), key, slice(None))}
        replied = type(self).reply(key)
        fields = whole | replied
        return {k: v for k, v in fields.items() if v != "absent"}  # type: ignore[misc]


CRASH, ABORT = -signal.SIGSEGV, -signal.SIGABRT


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        pytest.param(lambda _: {}, 0, id="nothing-wrong"),
        pytest.param(lambda _: {"Plaintext": "AAAA"}, 0, id="a-Plaintext-besides"),
        pytest.param(lambda _: {"Plaintext": None}, 255, id="Plaintext-is-null"),
        pytest.param(lambda _: {"KeyId": None}, 255, id="KeyId-is-null"),
        pytest.param(lambda _: {"KeyId": "absent"}, 255, id="no-KeyId"),
        pytest.param(
            lambda _: {"KeyId": "absent", "CiphertextForRecipient": "absent"}, 255, id="empty"
        ),
        pytest.param(lambda _: {"CiphertextForRecipient": None}, 255, id="envelope-is-null"),
        pytest.param(lambda _: {"CiphertextForRecipient": "!"}, 255, id="envelope-no-base64"),
        pytest.param(lambda _: {"CiphertextForRecipient": "AAAA"}, CRASH, id="no-CMS"),
        pytest.param(lambda _: {"EncryptionAlgorithm": "ROT13"}, 255, id="unknown-algorithm"),
        pytest.param(
            lambda _: {
                "CiphertextForRecipient": envelope(bytes(32), RSA_KEY.public_key(), slice(None))
            },
            255,
            id="wrapped-to-another-key",
        ),
        pytest.param(
            lambda key: {"CiphertextForRecipient": envelope(b"", key, slice(None))},
            ABORT,
            id="empty-plaintext",
        ),
        pytest.param(
            lambda key: {"CiphertextForRecipient": envelope(bytes(32), key, slice(None), b"x")},
            0,
            id="trailing-bytes",
        ),
        pytest.param(
            lambda key: {"CiphertextForRecipient": envelope(bytes(32), key, slice(0, -8))},
            0,
            id="no-end-octets",
        ),
        pytest.param(
            lambda key: {"CiphertextForRecipient": envelope(bytes(32), key, slice(0, -30))},
            CRASH,
            id="cut-off",
        ),
    ],
)
def test_each_answer_of_kms_ends_as_with_the_real_tool(
    reply: Callable[[rsa.RSAPublicKey], dict[str, object]],
    status: int,
    tool: Tool,
    scenario: Scenario,
    tmp_path: Path,
) -> None:
    kms = type("OneLiar", (Liar,), {"reply": staticmethod(reply)})(
        scenario.service.kms.emulator, scenario.authority.root, []
    )
    with serve(kms, tmp_path) as liar:
        tool.environment["SSL_CERT_FILE"] = str(liar.trust)
        result = tool("decrypt", proxy_port=str(liar.port))
    assert result.returncode == status, result.stderr
    assert result.stdout == (
        "" if status else f"PLAINTEXT: {base64.b64encode(bytes(32)).decode()}\n"
    )


@pytest.mark.parametrize(
    ("send", "complaint"),
    [
        pytest.param(b"", "Got non-200 answer from KMS: -1\n", id="dropped-after-the-request"),
        pytest.param(
            b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}",
            "Got non-200 answer from KMS: 500\n",
            id="500",
        ),
    ],
)
def test_kms_failing_is_said_by_its_status(
    send: bytes, complaint: str, tool: Tool, tmp_path: Path
) -> None:
    with failing_kms(tmp_path, send) as (port, trust):
        tool.environment["SSL_CERT_FILE"] = str(trust)
        result = tool("decrypt", proxy_port=port)
    assert (result.returncode, result.stdout) == (255, "")
    assert complaint in result.stderr
    assert result.stderr.endswith(ENDS)


@contextlib.contextmanager
def failing_kms(folder: Path, send: bytes) -> Iterator[tuple[str, Path]]:
    """Take each request in full, send something, and hang up; port and whom to trust."""
    served, authority = certificates("eu-central-1")
    pem, trust = folder / "kms.pem", folder / "trust.pem"
    pem.write_bytes(served)
    trust.write_bytes(authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    def behave(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            read = b""
            while b"}}" not in read:
                read += tls.recv(1 << 16)
            tls.sendall(send)

    with peer(behave) as port:
        yield port, trust


def test_its_request_carries_and_signs_what_the_real_one_does(
    tool: Tool, scenario: Scenario, tmp_path: Path
) -> None:
    seen: list[dict[str, str]] = []

    class Listener(Kms):
        def answer(self, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
            del body
            seen.append(dict(headers))
            raise KmsError("ValidationException", "heard enough")

    kms = Listener(scenario.service.kms.emulator, scenario.authority.root, [])
    with serve(kms, tmp_path) as listener:
        tool.environment["SSL_CERT_FILE"] = str(listener.trust)
        log = tool("decrypt", proxy_port=str(listener.port)).stderr
    (headers,) = seen
    sent = {
        *("host", "content-type", "x-amz-target", "content-length", "user-agent", "x-amz-date"),
        *("x-amz-security-token", "x-amz-content-sha256", "authorization"),
    }
    assert headers.keys() == sent
    signed = sorted(sent - {"user-agent", "authorization"})
    assert f"SignedHeaders={';'.join(signed)}," in headers["authorization"]
    canonical = log.partition("canonical request")[2].partition("string-to-sign")[0]
    assert "authorization:" not in canonical
    assert ["Connected." in log, "Disconnected." in log, "event-loop" in log] == [True] * 3


# --- accidents --------------------------------------------------------------------------------


def test_it_crashes_when_told_to_and_recovers(
    tool: Tool, scenario: Scenario, tmp_path: Path
) -> None:
    accidents = tmp_path / "accidents"
    accidents.write_text("crash\nnone\n")
    tool.environment["KMSTOOL_FAULTS"] = str(accidents)
    asked = len(scenario.service.kms.trail)
    crashed = tool("decrypt")
    assert (crashed.returncode, crashed.stdout) == (-signal.SIGSEGV, "")
    assert [event.error for event in scenario.service.kms.trail[asked:]] == [""]  # a good answer
    assert tool("decrypt").returncode == 0
    assert tool("decrypt").returncode == 0


def test_it_hangs_when_told_to(tool: Tool, tmp_path: Path) -> None:
    accidents = tmp_path / "accidents"
    accidents.write_text("hang\n")
    command: list[str | Path] = [KMSTOOL, "decrypt"]
    command += [word for pair in tool.options.items() for word in pair]
    environment = tool.environment | {"KMSTOOL_FAULTS": str(accidents), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(command, env=environment) as hanging:
        with pytest.raises(subprocess.TimeoutExpired):
            hanging.wait(timeout=2)
        hanging.terminate()
    assert hanging.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("policy", "crashes"),
    [
        pytest.param(os.SCHED_OTHER, range(7, 11), id="99-of-100"),
        pytest.param(os.SCHED_BATCH, range(1), id="never-under-SCHED_BATCH"),
    ],
)
def test_on_one_cpu_it_crashes_as_often_as_the_real_one(
    policy: int, crashes: range, tool: Tool
) -> None:
    tool.environment["KMSTOOL_MACHINE"] = "one-cpu"
    before = os.sched_getscheduler(0)
    os.sched_setscheduler(0, policy, os.sched_param(0))  # which the tool inherits
    try:
        statuses = [tool("decrypt").returncode for _ in range(10)]
    finally:
        os.sched_setscheduler(0, before, os.sched_param(0))
    assert set(statuses) <= {0, CRASH}
    assert statuses.count(CRASH) in crashes
