"""An HTTP endpoint in front of the emulator: it adds what the emulator lacks, and failures.

Everything else is forwarded to the emulator. Responses and errors have AWS's documented formats:
JSON 1.1, Smithy's RPC v2 CBOR, the XML of the query protocol and of S3.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import ssl
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import cbor2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rehearsal.aws import Aws, Credentials

QUERY_ERROR = (
    "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message>"
    "</Error><RequestId>0</RequestId></ErrorResponse>"
)
S3_ERROR = "<Error><Code>{code}</Code><Message>{message}</Message></Error>"
SUBRESOURCES = ("encryption", "lifecycle", "uploads", "partNumber", "uploadId")
S3_STATUS = {"AccessDenied": 403, "ExpiredToken": 400, "SlowDown": 503}
MESSAGES = {
    "AccessDenied": "User: arn:aws:iam::1:user/me is not authorized to perform this",
    "AccessDeniedException": "User: arn:aws:iam::1:user/me is not authorized to perform this",
    "ExpiredToken": "The security token included in the request is expired",
    "ExpiredTokenException": "The security token included in the request is expired",
    "Throttling": "Rate exceeded",
    "ThrottlingException": "Rate exceeded",
}


class Refused(Exception):  # noqa: N818 - a response, not a failure of this program
    """An error with which a played operation responds."""

    def __init__(self, code: str, message: str = "") -> None:
        """Take the error's code."""
        super().__init__(code, message or MESSAGES.get(code, "refused"))


@dataclass
class Exchange:
    """A forwarded request, and the emulator's response."""

    path: str
    headers: dict[str, str]
    """The request's headers, names in lower case."""
    body: bytes
    status: int
    answered: dict[str, str]
    """The response's headers, names in lower case."""
    content: bytes


class Endpoint:
    """Which operations are played or refused, and which were called."""

    def __init__(self, aws: Aws | None) -> None:
        """Forward to *aws*; without it, only played operations work."""
        self.aws = aws
        self.played: dict[str, Callable[[dict[str, Any]], Any]] = {}
        self.refusals: dict[str, str] = {}
        self.answers: dict[str, str] = {}
        """XML responses of operations of S3."""
        self.signed: dict[str, Callable[[dict[str, str], bytes], Any]] = {}
        """Played as well, but given the headers, names in lower case, and the body."""
        self.rewritten: dict[str, Callable[[bytes], bytes]] = {}
        """Changes a request's body before it is forwarded."""
        self.altered: dict[str, Callable[[Exchange], None]] = {}
        """Changes the emulator's response before it is returned."""
        self.before: dict[str, list[Callable[[], object]]] = {}
        """Called before the first, second, … response to an operation."""
        self.calls: list[str] = []
        self.url = ""

    def environment(self, principal: Credentials, **more: str) -> dict[str, str]:
        """Return a verb's environment, as *principal*."""
        assert self.aws
        environment = self.aws.environment(principal)
        del environment["AWS_CA_BUNDLE"]
        return environment | {"AWS_ENDPOINT_URL": self.url, "AWS_MAX_ATTEMPTS": "1"} | more


@contextlib.contextmanager
def serve(aws: Aws | None = None) -> Iterator[Endpoint]:
    """Serve until the end of the block."""
    endpoint = Endpoint(aws)

    class Handler(_Handler):
        at = endpoint

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        endpoint.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield endpoint
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    at: Endpoint

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        operation, protocol = self._operation(body)
        self.at.calls.append(operation)
        if self.at.before.get(operation):
            self.at.before[operation].pop(0)()
        if operation in self.at.refusals:
            self._refuse(protocol, *Refused(self.at.refusals[operation]).args)
        elif operation in self.at.answers:
            self._send(200, "application/xml", self.at.answers[operation].encode())
        elif operation in self.at.played or operation in self.at.signed:
            try:
                found = self._play(operation, protocol, body)
            except Refused as refused:
                self._refuse(protocol, *refused.args)
            else:
                self._send(200, *self._encoded(protocol, found))
        else:
            self._forward(operation, self.at.rewritten.get(operation, bytes)(body))

    def _play(self, operation: str, protocol: str, body: bytes) -> Any:  # noqa: ANN401
        if operation in self.at.signed:
            return self.at.signed[operation](self._lower(self.headers.items()), body)
        return self.at.played[operation](self._decoded(protocol, body))

    def _lower(self, headers: Iterable[tuple[str, str]]) -> dict[str, str]:
        return {name.lower(): value for name, value in headers}

    # The names are http.server's.
    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815

    def _decoded(self, protocol: str, body: bytes) -> Any:  # noqa: ANN401 - whatever was sent
        return cbor2.loads(body) if protocol == "cbor" else json.loads(body or b"{}")

    def _encoded(self, protocol: str, found: object) -> tuple[str, bytes]:
        if protocol == "cbor":
            return "application/cbor", cbor2.dumps(found, datetime_as_timestamp=True)
        # A time is a number of seconds.
        text = json.dumps(found, default=lambda time: time.timestamp())
        return "application/x-amz-json-1.1", text.encode()

    def _operation(self, body: bytes) -> tuple[str, str]:
        target = self.headers.get("X-Amz-Target")
        if target:
            return target.rpartition(".")[2], "json"
        rpc = re.fullmatch(r"/service/\w+/operation/(\w+)", self.path)
        if rpc:
            return rpc[1], "cbor"
        if "x-www-form-urlencoded" in self.headers.get("Content-Type", ""):
            return parse_qs(body.decode())["Action"][0], "query"
        split = urlsplit(self.path)
        bucket, _, name = split.path.lstrip("/").partition("/")
        # A subresource: a setting of the bucket, or a multipart upload (?encryption, ?uploads).
        query = parse_qs(split.query, keep_blank_values=True)
        part = "".join([f" {part}" for part in SUBRESOURCES if part in query][:1])
        return f"{self.command} {'object' if name else 'bucket' if bucket else '/'}{part}", "s3"

    def _refuse(self, protocol: str, code: str, message: str) -> None:
        if protocol in ("json", "cbor"):
            self._send(400, *self._encoded(protocol, {"__type": code, "message": message}))
        elif protocol == "query":
            body = QUERY_ERROR.format(code=code, message=message)
            self._send(400, "text/xml", body.encode())
        else:
            body = S3_ERROR.format(code=code, message=message)
            self._send(S3_STATUS.get(code, 400), "application/xml", body.encode())

    def _forward(self, operation: str, body: bytes) -> None:
        assert self.at.aws, f"{self.command} {self.path}: neither played nor forwarded"
        trust = ssl.create_default_context(cafile=str(self.at.aws.certificate))
        address = self.at.aws.endpoint.removeprefix("https://")
        headers = dict(self.headers) | ({"Content-Length": str(len(body))} if body else {})
        with contextlib.closing(http.client.HTTPSConnection(address, context=trust)) as there:
            there.request(self.command, self.path, body, headers)
            answer = there.getresponse()
            length = answer.getheader("Content-Length")
            found = Exchange(
                *(self.path, self._lower(headers.items()), body),
                *(answer.status, self._lower(answer.getheaders()), answer.read()),
            )
        if operation in self.at.altered:
            self.at.altered[operation](found)
        self.send_response(found.status)
        for name, value in found.answered.items():
            if name not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        size = length if self.command == "HEAD" else len(found.content)
        self.send_header("Content-Length", str(size or 0))
        self.end_headers()
        self.wfile.write(found.content)

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        if kind == "application/cbor":
            self.send_header("smithy-protocol", "rpc-v2-cbor")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""
