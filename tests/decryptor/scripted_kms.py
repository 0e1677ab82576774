"""A KMS on this machine that answers as a test scripts it, valid or hostile."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from rehearsal import cms
from rehearsal.service import certificates
from tests.support.enclave import DATA_KEY, KEY_ARN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

REGION = "eu-central-1"
PATIENCE = 30  # seconds


@dataclass(frozen=True)
class Request:
    """A request, as it arrived; names of headers in lower case."""

    start: str
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> dict[str, Any]:
        """The request's JSON."""
        parsed: dict[str, Any] = json.loads(self.content)
        return parsed

    @property
    def fields(self) -> dict[str, Any]:
        """The attestation document's fields, which are not verified here."""
        document = base64.b64decode(self.body["Recipient"]["AttestationDocument"])
        payload: dict[str, Any] = cbor2.loads(cbor2.loads(document)[2])
        return payload

    @property
    def key(self) -> rsa.RSAPublicKey:
        """The key for which a response is wrapped."""
        key = load_der_public_key(self.fields["public_key"])
        assert isinstance(key, rsa.RSAPublicKey)
        return key


def http(status: int, answer: object, **headers: str) -> bytes:
    """Return an HTTP response, with *answer* as JSON."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    lines = {"Content-Length": str(len(body))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode() + body


def released(request: Request, **changes: object) -> dict[str, object]:
    """Return a valid response's JSON, with *changes*; None omits a member."""
    envelope = cms.wrap(DATA_KEY, request.key)
    good = {
        "KeyId": KEY_ARN,
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "CiphertextForRecipient": base64.b64encode(envelope).decode(),
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def good(request: Request) -> bytes:
    """Answer as KMS does."""
    return http(200, released(request))


@dataclass
class ScriptedKms:
    """The server behind the parent's proxy.

    Attributes:
        port: of 127.0.0.1.
        trust: the file with its authority's certificate.
        reply: returns the response's bytes, whole or in parts; then the connection is closed.
        behave: handles a connection instead of all that, TLS included.
        requests: the requests received.
        connections: the number of connections.
    """

    port: int
    trust: Path
    reply: Callable[[Request], bytes | Iterable[bytes]] = good
    behave: Callable[[socket.socket], None] | None = None
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    def reset(self) -> None:
        """Restore the default behaviour and forget requests."""
        self.reply, self.behave, self.connections = good, None, 0
        self.requests.clear()

    def serve(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        """Answer one connection, and close it."""
        connection.settimeout(PATIENCE)
        with connection, contextlib.suppress(OSError):
            if self.behave:
                self.behave(connection)
                return
            with context.wrap_socket(connection, server_side=True) as tls:
                request = _received(tls)
                self.requests.append(request)
                reply = self.reply(request)
                for part in (reply,) if isinstance(reply, bytes) else reply:
                    tls.sendall(part)


def _received(tls: ssl.SSLSocket) -> Request:
    with tls.makefile("rb") as stream:
        start = stream.readline().decode().rstrip("\r\n")
        if not start:
            raise ConnectionError("nothing was asked")
        headers = {}
        while line := stream.readline().decode().rstrip("\r\n"):
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return Request(start, headers, stream.read(int(headers["content-length"])))


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[ScriptedKms]:
    """Serve until the end of the block, as KMS in `REGION`."""
    served, authority = certificates(REGION)
    pem, trust = folder / "kms.pem", folder / "kms-trust.pem"
    pem.write_bytes(served)
    trust.write_bytes(authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kms = ScriptedKms(listener.getsockname()[1], trust)

        def accept() -> None:
            with contextlib.suppress(OSError):  # the end of the block
                while True:
                    connection, _ = listener.accept()
                    kms.connections += 1
                    arguments = (connection, context)
                    threading.Thread(target=kms.serve, args=arguments, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield kms
        finally:
            listener.shutdown(socket.SHUT_RDWR)
