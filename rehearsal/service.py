"""The service's front door: HTTPS on 127.0.0.1 under KMS's own host names.

Its certificate comes from an authority of the rehearsal's own. A client that trusts that authority,
even a compiled one of AWS's, finds what it would find on AWS: TLS 1.2 or 1.3, JSON over ``POST /``.
"""

from __future__ import annotations

import contextlib
import functools
import json
import ssl
import sys
import threading
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, Final

from rehearsal.certificates import issue
from rehearsal.kms import Kms, KmsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from rehearsal.aws import Aws

_PATIENCE: Final = 30  # seconds for a silent client


@dataclass(frozen=True)
class Service:
    """A running service: its port on 127.0.0.1, and the CA (PEM) that its clients should trust."""

    kms: Kms
    port: int
    trust: Path

    @property
    def aws(self) -> Aws:
        """Return the emulator's address with this service's port: for calls to KMS only."""
        endpoint = f"https://127.0.0.1:{self.port}"
        return replace(self.kms.emulator, endpoint=endpoint, certificate=self.trust)


@contextlib.contextmanager
def serve(kms: Kms, folder: Path) -> Iterator[Service]:
    """Answer for *kms* until the end of the block; *folder* gets the CA for its clients."""
    served, authority = certificates(kms.region)
    trust = folder / "kms-trust.pem"
    trust.write_bytes(authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with NamedTemporaryFile(dir=folder) as pem:  # the only way in which ssl takes a key
        pem.write(served)
        pem.flush()
        context.load_cert_chain(pem.name)
    with _Server(("127.0.0.1", 0), functools.partial(_Handler, kms)) as server:
        # The handshake waits for the connection's own thread: a silent client blocks nobody.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Service(kms, server.server_port, trust)
        finally:
            server.shutdown()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Ignore a client that breaks off, or that does not trust us: it knows why."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _PATIENCE

    def __init__(self, kms: Kms, *connection: Any) -> None:  # noqa: ANN401 - socketserver's own
        self._kms = kms
        super().__init__(*connection)

    def do_POST(self) -> None:
        """Answer one call."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            self._send(200, self._kms.answer(headers, self._body(headers)))
        except KmsError as error:
            self._send(400, {"__type": error.code, "message": str(error)})

    def _body(self, headers: Mapping[str, str]) -> bytes:
        length = headers.get("content-length", "")
        body = self.rfile.read(int(length)) if length.isdecimal() else b""
        if self.path != "/":
            raise KmsError("SerializationException", "the path is not /")
        return body

    def _send(self, status: int, answer: dict[str, str]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-amzn-RequestId", str(uuid.uuid4()))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing: the trail says more."""


def certificates(region: str) -> tuple[bytes, bytes]:
    """Certify KMS's host names for a day: (key and certificate, authority's certificate), PEM."""
    begins, lifetime = datetime.now(UTC) - timedelta(hours=1), timedelta(days=1)
    hosts = [f"kms.{region}.amazonaws.com", f"kms.{region}.amazonaws.com.cn"]
    authority = issue("rehearsal", begins, lifetime, ca=True)
    server = issue(
        *(hosts[0], begins, lifetime, authority), ca=False, hosts=(*hosts, "localhost", "127.0.0.1")
    )
    return server.key_pem + server.pem, authority.pem
