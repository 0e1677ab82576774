"""The rehearsal's kmstool_enclave_cli: what the real one prints, and how the real one ends."""

from __future__ import annotations

import base64
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric import rsa

from rehearsal import cms, enclave
from rehearsal.kms import Kms
from rehearsal.service import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

ALGORITHM = ("--encryption-algorithm", "SYMMETRIC_DEFAULT")
CONTRACTS = pytest.mark.parametrize(
    ("contract", "subcommand", "refused"), [("0.3.0", (), 1), ("0.4.0", ("decrypt",), 255)]
)
REFUSAL = [
    "Got non-200 answer from KMS: 400",
    "Could not read response from KMS",
    "Could not decrypt ciphertext",
    "Could not decrypt",
]


class Tool:
    """The tool in an enclave on *stage*, whose *environment* a test may change."""

    def __init__(self, stage: enclave.Stage, module: Path) -> None:
        """Give it the parent's credentials, the artifact's data key and *module*."""
        header = stage.artifact.read_bytes()[: 4 + 6144]
        self.ciphertext = base64.b64encode(header[4 : 4 + int.from_bytes(header[:4], "big")])
        self.environment = {
            "KMSTOOL_MODULE": str(module),
            "KMSTOOL_PYTHON": sys.executable,
            "SSL_CERT_FILE": str(stage.service.trust),
        }
        parent = stage.parent
        self.credentials = {
            "--aws-access-key-id": parent.access_key_id,
            "--aws-secret-access-key": parent.secret_access_key,
            "--aws-session-token": parent.session_token,
        }
        self.options = self.credentials | {
            "--region": "eu-central-1",
            "--proxy-port": str(stage.service.port),
            "--ciphertext": self.ciphertext.decode(),
        }

    def __call__(
        self, *words: str, contract: str = "0.4.0", **changes: str | None
    ) -> subprocess.CompletedProcess[str]:
        """Run it; *changes* to the options are spelt like ``proxy_port``, None leaves one out."""
        options: Mapping[str, str | None] = self.options | {
            f"--{name.replace('_', '-')}": value for name, value in changes.items()
        }
        given = [word for pair in options.items() if pair[1] is not None for word in pair]
        return subprocess.run(
            [enclave.KMSTOOL, *words, *map(str, given)],
            env=self.environment | {"KMSTOOL_CONTRACT": contract, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def tool(stage: enclave.Stage) -> Iterator[Tool]:
    with enclave.device(enclave.enclave(stage)) as module:
        yield Tool(stage, module)


def opens(artifact: Path, data_key: str) -> bool:
    content = artifact.read_bytes()
    token = content[4 + int.from_bytes(content[:4], "big") :]
    return bool(Fernet(base64.urlsafe_b64encode(base64.b64decode(data_key))).decrypt(token))


# --- what it prints ---------------------------------------------------------------------------


@CONTRACTS
def test_it_prints_the_data_key_in_its_versions_form(
    contract: str, subcommand: tuple[str, ...], refused: int, tool: Tool, stage: enclave.Stage
) -> None:
    del refused
    result = tool(*subcommand, *ALGORITHM, contract=contract, key_id=stage.key)
    assert result.returncode == 0
    key = result.stdout
    if contract == "0.4.0":
        assert key.startswith("PLAINTEXT: ")
        assert key.endswith("\n")
        key = key.removeprefix("PLAINTEXT: ").removesuffix("\n")
    assert opens(stage.artifact, key)


def test_its_log_gives_the_credentials_away_as_the_real_one_does(tool: Tool) -> None:
    log = tool("decrypt").stderr
    assert tool.credentials["--aws-access-key-id"] in log
    assert tool.credentials["--aws-session-token"] in log
    assert "Signature=" in log
    assert tool.credentials["--aws-secret-access-key"] not in log


@CONTRACTS
def test_it_never_says_why_kms_refused(
    contract: str, subcommand: tuple[str, ...], refused: int, tool: Tool, stage: enclave.Stage
) -> None:
    with enclave.device(enclave.enclave(stage, enclave.DEBUG)) as module:
        tool.environment["KMSTOOL_MODULE"] = str(module)
        result = tool(*subcommand, contract=contract)
    assert (result.returncode, result.stdout) == (refused, "")
    assert [line for line in result.stderr.splitlines() if line][-4:] == REFUSAL
    assert "Deny" not in result.stderr


# --- what it rejects before it connects -------------------------------------------------------


@pytest.mark.parametrize("contract", ["0.3.0", "0.4.0"])
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
        pytest.param("0.3.0", ("decrypt",), "Unknown option", id="a-subcommand-too-early"),
        pytest.param("0.4.0", (), "usage: ", id="no-subcommand"),
        pytest.param("0.4.0", ("encrypt",), "usage: ", id="another-subcommand"),
        pytest.param("0.3.0", ("--pin", "x"), "Unknown option", id="unknown-flag-in-0.3.0"),
        pytest.param("0.4.0", ("decrypt", "--pin", "x"), "Unknown option", id="unknown-flag"),
    ],
)
def test_it_answers_the_wrong_command_line_with_its_usage(
    contract: str, words: tuple[str, ...], complaint: str, tool: Tool
) -> None:
    result = tool(*words, contract=contract)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(complaint)
    assert "usage: kmstool_enclave_cli" in result.stderr


def test_a_pinned_key_needs_its_algorithm(tool: Tool, stage: enclave.Stage) -> None:
    result = tool(contract="0.3.0", key_id=stage.key)
    assert result.returncode == 1
    assert "--encryption-algorithm must be set" in result.stderr


# --- how it fails -----------------------------------------------------------------------------


def test_a_ciphertext_that_is_no_base64_is_never_sent(tool: Tool, stage: enclave.Stage) -> None:
    asked = len(stage.service.kms.trail)
    result = tool("decrypt", ciphertext="!")
    assert result.returncode == 255
    assert "Ciphertext not a base64 string" in result.stderr
    assert len(stage.service.kms.trail) == asked


@pytest.mark.parametrize(
    "document",
    [pytest.param(b"", id="none"), pytest.param(bytes(16 * 1024 + 1), id="longer-than-16-KiB")],
)
def test_without_a_document_it_asks_nobody(
    document: bytes, tool: Tool, stage: enclave.Stage
) -> None:
    asked = len(stage.service.kms.trail)
    with enclave.device(lambda _: document) as module:
        tool.environment["KMSTOOL_MODULE"] = str(module)
        result = tool("decrypt")
    assert (result.returncode, result.stdout) == (255, "")
    assert result.stderr.endswith("Could not decrypt ciphertext\nCould not decrypt\n\n")
    assert len(stage.service.kms.trail) == asked


def test_without_a_security_module_it_fails_like_outside_an_enclave(tool: Tool) -> None:
    tool.environment["KMSTOOL_MODULE"] = "/nonexistent"
    result = tool("decrypt")
    assert result.returncode == 255
    assert result.stderr.endswith("Could not decrypt ciphertext\nCould not decrypt\n\n")


def test_with_nobody_at_the_proxy_port_it_aborts(tool: Tool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    result = tool("decrypt", proxy_port=str(port))
    assert (result.returncode, result.stdout) == (-signal.SIGABRT, "")
    assert "AWS_IO_SOCKET_NOT_CONNECTED" in result.stderr


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


# --- a KMS that answers nonsense --------------------------------------------------------------

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def answer(**fields: object) -> Callable[[], dict[str, object]]:
    envelope = base64.b64encode(cms.wrap(bytes(32), RSA_KEY.public_key())).decode()
    return lambda: {"KeyId": "key", "CiphertextForRecipient": envelope} | fields


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param(answer(), 255, id="wrapped-to-another-key"),
        pytest.param(answer(Plaintext=None), 255, id="Plaintext-is-null"),
        pytest.param(answer(KeyId=None), 255, id="KeyId-is-null"),
        pytest.param(answer(CiphertextForRecipient="AAAA"), -signal.SIGSEGV, id="no-CMS"),
        pytest.param(answer(CiphertextForRecipient=None), -signal.SIGSEGV, id="no-envelope"),
    ],
)
def test_nonsense_from_kms_yields_no_key(
    answer: Callable[[], dict[str, object]],
    status: int,
    tool: Tool,
    stage: enclave.Stage,
    tmp_path: Path,
) -> None:
    class Liar(Kms):
        def answer(self, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
            del headers, body
            return answer()  # type: ignore[return-value]  # that is the lie

    kms = Liar(stage.service.kms.stand_in, stage.authority.root, [])
    with serve(kms, tmp_path) as liar:
        tool.environment["SSL_CERT_FILE"] = str(liar.trust)
        result = tool("decrypt", proxy_port=str(liar.port))
    assert (result.returncode, result.stdout) == (status, "")


# --- accidents --------------------------------------------------------------------------------


def test_it_crashes_when_told_to_and_recovers(
    tool: Tool, stage: enclave.Stage, tmp_path: Path
) -> None:
    accidents = tmp_path / "accidents"
    accidents.write_text("crash\nnone\n")
    tool.environment["KMSTOOL_FAULTS"] = str(accidents)
    asked = len(stage.service.kms.trail)
    crashed = tool("decrypt")
    assert (crashed.returncode, crashed.stdout) == (-signal.SIGSEGV, "")
    assert [event.error for event in stage.service.kms.trail[asked:]] == [""]  # a good answer
    assert tool("decrypt").returncode == 0
    assert tool("decrypt").returncode == 0


def test_it_hangs_when_told_to(tool: Tool, tmp_path: Path) -> None:
    accidents = tmp_path / "accidents"
    accidents.write_text("hang\n")
    command: list[str | Path] = [enclave.KMSTOOL, "decrypt"]
    command += [word for pair in tool.options.items() for word in pair]
    environment = tool.environment | {"KMSTOOL_FAULTS": str(accidents), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(command, env=environment) as hanging:
        with pytest.raises(subprocess.TimeoutExpired):
            hanging.wait(timeout=2)
        hanging.terminate()
    assert hanging.returncode == -signal.SIGTERM
