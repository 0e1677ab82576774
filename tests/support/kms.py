"""A key service on this machine that answers boto3's KMS client on loopback.

It speaks the JSON protocol of https://docs.aws.amazon.com/kms/latest/APIReference/ for the two
operations on data keys, and can be made to refuse or to stay silent. It does not check signatures
or permissions.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

ACCOUNT = "111122223333"
REGION = "eu-central-1"
KEY_ARN = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
}
WRAPPED_SIZE = 184  # bytes of a real CiphertextBlob around a 256 bit key


class KmsServer:
    """The service, running in a thread while its ``with`` block lasts.

    Attributes:
        keys: plaintext by encrypted data key, to decrypt an artifact with.
        requests: target and body of each request, oldest first.
        regions: the region that each request was signed for.
        refusal: error code and message with which every request is refused, or None.
        answer: fields that replace those of a valid response; None removes one.
        asked: set as soon as a request has arrived.
        speaking: while cleared, responses are withheld.
    """

    def __init__(self) -> None:
        """Bind a free port of 127.0.0.1."""
        self.keys: dict[bytes, bytes] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.regions: list[str] = []
        self.refusal: tuple[str, str] | None = None
        self.answer: dict[str, str | None] = {}
        self.asked = threading.Event()
        self.speaking = threading.Event()
        self.speaking.set()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                _key, _date, signed_region, *_ = self.headers["Authorization"].split("/")
                service.regions.append(signed_region)
                status, answer = service.reply(self.headers["X-Amz-Target"], body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """Where the service listens."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which a process uses this service, and no other."""
        path = {"PATH": os.environ["PATH"]}
        return CREDENTIALS | path | {"AWS_ENDPOINT_URL": self.url, "HOME": "/nonexistent"}

    def reply(self, target: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the HTTP status and the response to a request."""
        self.requests.append((target, body))
        self.asked.set()
        self.speaking.wait()
        if self.refusal:
            code, message = self.refusal
            return 400, {"__type": code, "message": message}
        if target == "TrentService.GenerateDataKey":
            plaintext, wrapped = os.urandom(32), os.urandom(WRAPPED_SIZE)
            self.keys[wrapped] = plaintext
            good = {
                "CiphertextBlob": base64.b64encode(wrapped).decode(),
                "Plaintext": base64.b64encode(plaintext).decode(),
                "KeyId": KEY_ARN,
            }
            return 200, good | self.answer
        if target == "TrentService.Decrypt":
            plaintext = self.keys[base64.b64decode(body["CiphertextBlob"])]
            return 200, {"Plaintext": base64.b64encode(plaintext).decode(), "KeyId": KEY_ARN}
        return 400, {"__type": "UnknownOperationException", "message": target}

    def __enter__(self) -> Self:
        """Start listening."""
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Respond to all waiting requests and stop."""
        self.speaking.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
