"""The rehearsal's kmstool_enclave_cli accepts, prints and rejects what the real one does."""

from __future__ import annotations

import base64
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from rehearsal.enclave import device, security_module
from rehearsal.scenario import DEBUG, Scenario
from tests.enclave.tool import ENDS, Tool, peer
from tests.support import artifacts

if TYPE_CHECKING:
    from collections.abc import Callable
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
REFUSAL = [
    "Got non-200 answer from KMS: 400",
    "Could not read response from KMS",
    "Could not decrypt ciphertext",
    "Could not decrypt",
]


def decrypts(artifact: Path, data_key: str) -> bool:
    return bool(artifacts.decrypted(artifact.read_bytes(), base64.b64decode(data_key)))


# --- what it prints ---------------------------------------------------------------------------


@CONTRACTS
def test_data_key_is_printed_in_the_form_of_each_version(
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
    assert decrypts(scenario.artifact, key)


def test_log_reveals_credentials_as_the_real_tool_does(tool: Tool) -> None:
    log = tool("decrypt").stderr
    assert tool.credentials["--aws-access-key-id"] in log
    assert tool.credentials["--aws-session-token"] in log
    assert "Signature=" in log
    assert tool.credentials["--aws-secret-access-key"] not in log


@CONTRACTS
def test_reason_of_a_kms_refusal_is_never_printed(
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
def test_missing_required_option_is_an_error(contract: str, name: str, tool: Tool) -> None:
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
def test_invalid_command_line_prints_the_usage(
    contract: str, words: tuple[str, ...], complaint: str, tool: Tool
) -> None:
    result = tool(*words, contract=contract)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(complaint)
    assert "usage: kmstool_enclave_cli" in result.stderr


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_0_3_0_prints_help(word: str, tool: Tool) -> None:
    result = tool(word, contract="0.3.0")
    assert result.returncode == 0
    assert "usage: kmstool_enclave_cli [options]" in result.stderr


def test_newer_versions_answer_help_with_a_missing_option(tool: Tool) -> None:
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
def test_invalid_values_are_never_sent(
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
def test_without_attestation_document_kms_is_not_called(
    document: bytes, tool: Tool, scenario: Scenario
) -> None:
    asked = len(scenario.service.kms.trail)
    with device(lambda _: document) as module:
        tool.environment["KMSTOOL_MODULE"] = str(module)
        result = tool("decrypt")
    assert (result.returncode, result.stdout) == (255, "")
    assert result.stderr.endswith(ENDS)
    assert len(scenario.service.kms.trail) == asked


def test_outside_an_enclave_the_tool_aborts(tool: Tool) -> None:
    tool.environment["KMSTOOL_MODULE"] = "/nonexistent"
    result = tool("decrypt")
    assert (result.returncode, result.stdout) == (-signal.SIGABRT, "")
    assert "seed_entropy(1024)" in result.stderr
    assert "Connected." not in result.stderr


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port: int = closed.getsockname()[1]
    return port


def test_closed_proxy_port_aborts_the_tool(tool: Tool) -> None:
    result = tool("decrypt", proxy_port=str(free_port()))
    assert (result.returncode, result.stdout) == (-signal.SIGABRT, "")
    assert "AWS_IO_SOCKET_NOT_CONNECTED" in result.stderr


def test_port_is_truncated_to_16_bits(tool: Tool, scenario: Scenario) -> None:
    assert tool("decrypt", proxy_port=str(scenario.service.port + 65_536)).returncode == 0


@pytest.mark.parametrize(
    ("changes", "environment"),
    [
        pytest.param({}, {"SSL_CERT_FILE": "/dev/null"}, id="untrusted"),
        pytest.param({"region": "us-east-1"}, {}, id="another-host-name"),
    ],
)
def test_untrusted_server_aborts_the_tool(
    changes: dict[str, str], environment: dict[str, str], tool: Tool
) -> None:
    tool.environment |= environment
    result = tool("decrypt", **changes)
    assert (result.returncode, result.stdout) == (-signal.SIGABRT, "")
    assert "AWS_IO_TLS_ERROR_NEGOTIATION_FAILURE" in result.stderr


@pytest.mark.parametrize(
    ("behave", "complaint"),
    [
        pytest.param(lambda it: it.recv(1) and it.close(), "AWS_IO_SOCKET_CLOSED", id="closes"),
        pytest.param(lambda it: it.recv(1 << 16) and it.recv(1), "TIMEOUT", id="stays-silent"),
    ],
)
def test_proxy_without_tls_aborts_the_tool(
    behave: Callable[[socket.socket], object], complaint: str, tool: Tool
) -> None:
    with peer(behave) as port:
        result = tool("decrypt", proxy_port=port)
    assert (result.returncode, result.stdout) == (-signal.SIGABRT, "")
    assert complaint in result.stderr
