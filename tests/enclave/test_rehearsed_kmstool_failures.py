"""The rehearsal's kmstool_enclave_cli fails as the real one does: bad responses, crashes, hangs."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import ssl
import subprocess
from typing import TYPE_CHECKING

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from rehearsal import cms
from rehearsal.kms import Kms, KmsError
from rehearsal.service import certificates, serve
from tests.enclave.tool import ENDS, Tool, peer
from tests.support.processes import PATIENCE

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from rehearsal.scenario import Scenario

# --- a KMS that answers nonsense --------------------------------------------------------------

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def envelope(plaintext: bytes, key: rsa.RSAPublicKey, end: slice, more: bytes = b"") -> str:
    return base64.b64encode(cms.wrap(plaintext, key)[end] + more).decode()


class Liar(Kms):
    """A KMS that changes fields of a valid response by *reply*, given the enclave's key."""

    reply: Callable[[rsa.RSAPublicKey], dict[str, object]]

    def answer(self, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
        """Respond with the changed fields."""
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
        pytest.param(lambda _: {"Plaintext": "AAAA"}, 0, id="an-additional-Plaintext"),
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
def test_each_kms_response_ends_as_with_the_real_tool(
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
def test_failure_of_kms_is_reported_by_its_status(
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
    """Read each request in full, send *send*, and hang up; yield the port and the trust file."""
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


def test_request_has_and_signs_the_headers_of_the_real_tool(
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


# --- injected faults --------------------------------------------------------------------------


def test_injected_crash_happens_once(tool: Tool, scenario: Scenario, tmp_path: Path) -> None:
    accidents = tmp_path / "accidents"
    accidents.write_text("crash\nnone\n")
    tool.environment["KMSTOOL_FAULTS"] = str(accidents)
    asked = len(scenario.service.kms.trail)
    crashed = tool("decrypt")
    assert (crashed.returncode, crashed.stdout) == (-signal.SIGSEGV, "")
    assert [event.error for event in scenario.service.kms.trail[asked:]] == [""]  # a good answer
    assert tool("decrypt").returncode == 0
    assert tool("decrypt").returncode == 0


def test_injected_hang_lasts_until_a_signal(tool: Tool, tmp_path: Path) -> None:
    accidents = tmp_path / "accidents"
    accidents.write_text("hang\n")
    with tool.start(KMSTOOL_FAULTS=str(accidents)) as hanging:
        with pytest.raises(subprocess.TimeoutExpired):
            hanging.wait(timeout=2)
        hanging.terminate()
    assert hanging.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("policy", "crashes"),
    [
        pytest.param(os.SCHED_OTHER, range(1, 4), id="99-of-100-times"),
        pytest.param(os.SCHED_BATCH, range(1), id="never"),
    ],
)
def test_on_one_cpu_the_tool_crashes_unless_under_sched_batch(
    policy: int, crashes: range, tool: Tool
) -> None:
    tool.environment["KMSTOOL_MACHINE"] = "one-cpu"
    before = os.sched_getscheduler(0)
    os.sched_setscheduler(0, policy, os.sched_param(0))  # inherited by the tool
    try:
        statuses = [tool.start().wait(PATIENCE) for _ in range(3)]
    finally:
        os.sched_setscheduler(0, before, os.sched_param(0))
    assert set(statuses) <= {0, CRASH}
    assert statuses.count(CRASH) in crashes
