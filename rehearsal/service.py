"""The service's front door: HTTPS on 127.0.0.1 under KMS's own host names.

Its certificate comes from an authority of the rehearsal's own. Who trusts that authority, be it
a compiled client of AWS's, meets what it would meet on AWS: TLS 1.2 or 1.3, JSON over ``POST /``.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
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

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from rehearsal.kms import Kms, KmsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from rehearsal.aws import Aws

_PATIENCE: Final = 30  # seconds for a silent client


@dataclass(frozen=True)
class Service:
    """A running service: its port on 127.0.0.1, and whom (PEM) its clients should trust."""

    kms: Kms
    port: int
    trust: Path

    @property
    def aws(self) -> Aws:
        """The stand-in with this service in its place: for calls to KMS, and none else."""
        endpoint = f"https://127.0.0.1:{self.port}"
        return replace(self.kms.stand_in, endpoint=endpoint, certificate=self.trust)


@contextlib.contextmanager
def serve(kms: Kms, folder: Path) -> Iterator[Service]:
    """Answer for *kms* until the end of the block; *folder* receives what clients should trust."""
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
        """Let a client go that breaks off, or that does not trust us: it knows why."""
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
        """Keep quiet: the trail says more."""


def certificates(region: str) -> tuple[bytes, bytes]:
    """Certify KMS's host names for a day: (key and certificate, authority's certificate), PEM."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    hosts = [f"kms.{region}.amazonaws.com", f"kms.{region}.amazonaws.com.cn", "localhost"]
    names = [
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        *(x509.DNSName(host) for host in hosts),
    ]
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rehearsal")])
    now = datetime.now(UTC)

    def builder(
        subject: x509.Name, public_key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder(issuer, subject, public_key, x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
                critical=False,
            )
        )

    authority = (
        builder(issuer, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, SHA256())
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    certificate = (
        builder(subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority_key, SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(pem), authority.public_bytes(pem)
