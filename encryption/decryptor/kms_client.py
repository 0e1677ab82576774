"""One request to KMS, over TLS that is terminated here: the parent only relays bytes.

The server must prove to the image's trust store that it is KMS under its own host name. Even then
its answer is read only until a deadline and up to a size.

Sources:
    https://docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html
    https://docs.aws.amazon.com/enclaves/latest/user/nitro-enclave-concepts.html (the parent's CID)
"""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import time
from hashlib import sha256
from http.client import HTTPConnection, HTTPException, IncompleteRead
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from . import VERSION
from .release import TRIES, CallError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PARENT = 3  # the parent's CID in every enclave
ANSWER_MAX = 1 << 16  # bytes with all headers; a good one has less than 2,000
LOST = "the connection to KMS was lost"


class Answer(NamedTuple):
    """An answer of KMS."""

    status: int
    body: bytes


def signed(
    host: str, region: str, body: bytes, credentials: tuple[str, str, str]
) -> Mapping[str, str]:
    """Return the headers of a Decrypt request with *body*, signed with *credentials*.

    They are those of AWS's own tool; all except User-Agent are signed.
    """
    headers = {
        "Host": host,
        "Content-Type": "application/x-amz-json-1.1",
        "Content-Length": str(len(body)),
        "X-Amz-Target": "TrentService.Decrypt",
        "X-Amz-Content-SHA256": sha256(body).hexdigest(),
        "User-Agent": f"application-encryptor/{VERSION}",
    }
    request = AWSRequest("POST", f"https://{host}/", headers=headers, data=body)
    SigV4Auth(Credentials(*credentials), "kms", region).add_auth(request)
    return dict(request.headers.items())


@contextlib.contextmanager
def connected(host: str, port: int, deadline: float) -> Iterator[Connection]:
    """Connect to *host* through the proxy at the parent's *port*, and close it at the end.

    Args:
        host: KMS's name, which its certificate must have.
        port: of vsock.
        deadline: by `time.monotonic`, for the connection and everything sent over it.

    Raises:
        CallError: there is no server, or it is not KMS.
        TimeoutError: the deadline has passed.
    """
    advice = f"on the parent, start vsock-proxy {port} {host} 443"
    with contextlib.ExitStack() as stack:
        try:
            proxy = stack.enter_context(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
            proxy.settimeout(_seconds_until(deadline))
            # Not tried on vsock yet: in tests, rehearsal/nitro.c leads this call to TCP.
            proxy.connect((PARENT, port))
        except TimeoutError:
            raise
        except OSError as error:
            what = f"no server answers on the parent's vsock port {port} ({error.strerror})"
            raise CallError(what, advice, TRIES - 1) from error
        proxy.settimeout(_seconds_until(deadline))
        yield Connection(stack.enter_context(_secured(proxy, host, port)), host, deadline)


def _secured(proxy: socket.socket, host: str, port: int) -> ssl.SSLSocket:
    """Begin TLS with *host*, and accept no other server."""
    # Not ssl.create_default_context: it would write the session's keys to SSLKEYLOGFILE.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # requires a trusted certificate and the name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_default_certs()
    advice = f"check that vsock-proxy on the parent's port {port} leads to {host}:443"
    try:
        return context.wrap_socket(proxy, server_hostname=host)
    except TimeoutError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise CallError(
            f"the server is not trusted as {host} ({error.verify_message})",
            f"{advice}, and that the image has the package ca-certificates",
        ) from error
    except (ConnectionError, ssl.SSLEOFError) as error:
        raise CallError("the connection ended before TLS began", advice, TRIES - 1) from error
    except OSError as error:
        raise CallError("the server does not speak TLS 1.2 or 1.3", advice) from error


class Connection:
    """A connection to KMS, for one request; made by `connected`."""

    def __init__(self, tls: ssl.SSLSocket, host: str, deadline: float) -> None:
        """Use *tls*, a connection to *host*, until *deadline*."""
        self._tls, self._host, self._deadline = tls, host, deadline

    def ask(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a request and return KMS's answer, whatever its status.

        Raises:
            CallError: the connection was lost, or the answer is not valid HTTP.
            TimeoutError: the deadline has passed.
        """
        http = HTTPConnection(self._host)
        http.auto_open = 0  # it would open a connection of its own
        http.sock = _Timed(self._tls, self._deadline)
        advice = f"check that vsock-proxy on the parent leads to {self._host}:443"
        try:
            http.putrequest("POST", "/", skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                http.putheader(name, value)
            http.endheaders(body)
            with http.getresponse() as response:
                # At most so much memory is allocated, whatever Content-Length says.
                content = response.read(ANSWER_MAX)
                status, missing = response.status, response.length
        except TimeoutError:
            raise
        except (OSError, IncompleteRead) as error:
            raise CallError(LOST, advice, TRIES - 1) from error
        except _TooLongError as error:
            raise CallError(f"KMS's answer has more than {ANSWER_MAX:,} bytes", advice) from error
        except (HTTPException, ValueError) as error:
            raise CallError("KMS's answer is not valid HTTP", advice) from error
        if missing:
            raise CallError(LOST, advice, TRIES - 1)
        return Answer(status, content)


class _Timed:
    """The part of a socket that http.client uses, with a deadline and a size limit."""

    def __init__(self, tls: ssl.SSLSocket, deadline: float) -> None:
        self._tls, self._deadline = tls, deadline

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._tls.settimeout(_seconds_until(self._deadline))
            rest = rest[self._tls.send(rest) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self._tls, self._deadline))

    def close(self) -> None:
        """Do nothing: `connected` closes the connection."""


class _Incoming(io.RawIOBase):
    """The incoming bytes."""

    def __init__(self, tls: ssl.SSLSocket, deadline: float) -> None:
        self._tls, self._deadline, self._room = tls, deadline, ANSWER_MAX

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any buffer, as in io
        if not self._room:
            raise _TooLongError
        self._tls.settimeout(_seconds_until(self._deadline))
        received = self._tls.recv_into(memoryview(buffer)[: self._room])
        self._room -= received
        return received


class _TooLongError(Exception):
    """More bytes arrive than an answer can have."""


def _seconds_until(deadline: float) -> float:
    """Return how many seconds are left.

    Raises:
        TimeoutError: none are left.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
