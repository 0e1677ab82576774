"""AWS's kmstool_enclave_cli on this machine: its command line, its output and its failures.

It runs as in an enclave: it asks a security module for a document about a key of its own, has
KMS wrap the plaintext for that key, and prints it. Every case in which AWS's own builds were
observed ends here as it ended there. What depends on the machine comes from the environment:

    KMSTOOL_CONTRACT   whose command line: 0.2.1, 0.3.0, 0.3.1, 0.3.2, 0.4.0 or 0.4.4 (default)
    KMSTOOL_MODULE     the security module, a Unix socket: takes a DER public key, gives a document
    KMSTOOL_FAULTS     a file with one line per call, the fault to simulate: crash, hang or none
    KMSTOOL_MACHINE    how busy it is: idle, loaded or one-cpu; the tool then crashes and hangs as
                       often as it does there. Unset, only the faults of KMSTOOL_FAULTS happen
    KMSTOOL_PACE       seconds that a second of its own waiting takes; default 1
    KMSTOOL_PYTHON     the interpreter; default: the project's
    SSL_CERT_FILE      whom to trust as KMS

The parent's vsock proxy is 127.0.0.1 at ``--proxy-port``. One defect shows only on vsock: 0.4.0
does not connect from a local port above 65,535, which TCP does not have. Source:
https://github.com/aws/aws-nitro-enclaves-sdk-c/tree/main/bin/kmstool-enclave-cli
"""

from __future__ import annotations

import base64
import json
import os
import random
import resource
import signal
import socket
import ssl
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rehearsal.attestation import DOCUMENT_MAX
from rehearsal.cms import EnvelopeError, WrongKeyError, unwrap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CONNECT_SECONDS: Final = 3
_TLS_SECONDS: Final = 10  # there is no limit for the answer
_TLS_RETRY_SECONDS: Final = (17, 24)  # between which a failing handshake is given up
_PORTS: Final = 1 << 16
_USAGE_ERROR: Final = 1
_FAILED, _FAILED_UP_TO_0_3_0 = 255, 1
_UNDECRYPTED: Final = "Could not decrypt ciphertext"
_UNREAD: Final = "Could not read response from KMS"

_MANDATORY: Final = (
    "aws-access-key-id",
    "aws-secret-access-key",
    "aws-session-token",
    "ciphertext",
)
_OPTIONS: Final = ("region", "proxy-port", *_MANDATORY)
_PIN: Final = ("key-id", "encryption-algorithm")
_ALGORITHMS: Final = ("SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256")


@dataclass(frozen=True)
class Version:
    """What one version of the tool understands.

    Attributes:
        subcommand: whether it insists on the word ``decrypt``.
        listed: the options that its usage names.
        taken: those of them that it takes.
    """

    subcommand: bool
    listed: tuple[str, ...] = (*_OPTIONS, *_PIN)
    taken: tuple[str, ...] = (*_OPTIONS, *_PIN)


CONTRACTS: Final[Mapping[str, Version]] = {
    "0.2.1": Version(subcommand=False, listed=_OPTIONS, taken=_OPTIONS),
    "0.3.0": Version(subcommand=False),
    "0.3.1": Version(subcommand=True, taken=_OPTIONS),
    "0.3.2": Version(subcommand=True),
    "0.4.0": Version(subcommand=True),
    "0.4.4": Version(subcommand=True),
}

CRASHES: Final[Mapping[str, tuple[float, float]]] = {
    "idle": (0.01, 0.01),
    "loaded": (0.18, 0.09),
    "one-cpu": (0.99, 0.0),
}
"""How often it crashes after a good answer on each machine: as usual, and under SCHED_BATCH.

The thread that prints races with one that frees the connection. A batch process does not preempt
the other when it is woken, which is what wins the race on one CPU.
"""

HANGS_UNCONNECTED: Final = 0.1
"""How often it waits for ever with nobody at the proxy's port: a wait without a predicate."""


class FailureError(Exception):
    """The tool ends without a plaintext; its last line but one is the message."""


def main(arguments: list[str]) -> int:
    """Run the tool once and return its exit status, or die as it does."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    contract = os.environ.get("KMSTOOL_CONTRACT", "0.4.4")
    if contract not in CONTRACTS:
        raise SystemExit(f"KMSTOOL_CONTRACT is {contract!r}, not one of {', '.join(CONTRACTS)}")
    version = CONTRACTS[contract]
    options = _options(arguments, version)
    accident = _accident()
    if accident == "hang":
        signal.pause()
    try:
        plaintext = _decrypted(options)
    except FailureError as failure:
        _complain(*filter(None, (str(failure),)), "Could not decrypt" + "\n" * version.subcommand)
        return _FAILED if version.subcommand else _FAILED_UP_TO_0_3_0
    if not plaintext:
        _abort("str != NULL")
    if accident == "crash" or random.random() < _crash_rate():  # noqa: S311 - an accident
        _die(signal.SIGSEGV, *_STACK)  # the answer is there, but not yet printed
    encoded = base64.b64encode(plaintext).decode()
    sys.stdout.write(f"PLAINTEXT: {encoded}\n" if version.subcommand else encoded)
    return 0


def _crash_rate() -> float:
    usual, batch = CRASHES.get(os.environ.get("KMSTOOL_MACHINE", ""), (0.0, 0.0))
    return batch if os.sched_getscheduler(0) == os.SCHED_BATCH else usual


def _wait(seconds: float) -> None:
    time.sleep(seconds * float(os.environ.get("KMSTOOL_PACE", "1")))


# --- the command line -----------------------------------------------------------------------------


def _options(arguments: Sequence[str], version: Version) -> Mapping[str, str]:
    """Read the command line as the tool does, which has one message for whatever it dislikes."""
    options: dict[str, str] = {"region": "us-east-1", "proxy-port": "8000"}
    words = list(arguments)
    if version.subcommand and words[:1] != ["--help"]:
        if words[:1] != ["decrypt"]:
            _reject("usage: kmstool_enclave_cli [command]", "    decrypt")
        del words[0]
    elif version.subcommand:
        words.clear()  # with help asked of no subcommand, it complains of what is missing
    while words:
        word = words.pop(0)
        name = word.removeprefix("--")
        if word in ("-h", "--help"):
            _complain(*_usage(version))
            raise SystemExit(0)
        # Neither abbreviations nor --name=value, unlike getopt_long.
        if not (word.startswith("--") and name in version.taken and words):
            unknown = "Unknown option: (null)" if version.subcommand else "Unknown option"
            _reject(unknown, *_usage(version))
        options[name] = words.pop(0)
    for name in _MANDATORY:
        if name not in options:
            _reject(f"--{name} must be set")
    if not version.subcommand and "key-id" in options and "encryption-algorithm" not in options:
        _reject("--encryption-algorithm must be set if key-id exists")
    return options


def _usage(version: Version) -> list[str]:
    command = " decrypt" if version.subcommand else ""
    lines = [f"usage: kmstool_enclave_cli{command} [options]", "", " Options: ", ""]
    return lines + [f"    --{name}" for name in version.listed]


def _accident() -> str:
    """Take the first line of the file of accidents, if there is one."""
    if not (name := os.environ.get("KMSTOOL_FAULTS")):
        return ""
    first, *later = Path(name).read_text().splitlines() or [""]
    Path(name).write_text("\n".join(later))
    return first


# --- the way to KMS and back ----------------------------------------------------------------------


def _decrypted(options: Mapping[str, str]) -> bytes:
    """Go the whole way: connect, attest, ask, unwrap."""
    module = Path(os.environ.get("KMSTOOL_MODULE", "/dev/nsm"))
    if not module.exists():
        _abort("aws_nitro_enclaves_library_seed_entropy(1024) == AWS_OP_SUCCESS")
    if not options["aws-secret-access-key"] or not options["region"]:
        _abort("credentials != NULL")
    ciphertext = _ciphertext(options)
    if "key-id" in options and options.get("encryption-algorithm") not in _ALGORITHMS:
        raise FailureError("Invalid encryption algorithm")
    host = f"kms.{options['region']}.amazonaws.com"
    if options["region"].startswith("cn-"):
        host += ".cn"
    connection = HTTPConnection(host)
    connection.sock = _connected(host, options["proxy-port"])
    _complain("Connected.")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    request = _signed(host, _question(options, ciphertext, _document(module, key)), options)
    status, answer = _answer(connection, request)
    _complain("Disconnected.")
    if status != HTTPStatus.OK:
        _complain(f"Got non-200 answer from KMS: {status}", _UNREAD)
        raise FailureError(_UNDECRYPTED)
    return _opened(answer, key)


def _ciphertext(options: Mapping[str, str]) -> bytes:
    try:
        ciphertext = base64.b64decode(options["ciphertext"], validate=True)
    except ValueError as error:
        raise FailureError("Ciphertext not a base64 string") from error
    if not ciphertext:
        raise FailureError(_UNDECRYPTED)
    return ciphertext


def _connected(host: str, port: str) -> ssl.SSLSocket:
    """Connect to KMS through the proxy, before anything is attested."""
    try:
        address = ("127.0.0.1", int(port) % _PORTS)
        proxy = socket.create_connection(address, _CONNECT_SECONDS)
    except (OSError, ValueError, OverflowError):
        if "KMSTOOL_MACHINE" in os.environ and random.random() < HANGS_UNCONNECTED:  # noqa: S311
            signal.pause()
        _die_unconnected("AWS_IO_SOCKET_NOT_CONNECTED, socket not connected")
    proxy.settimeout(_TLS_SECONDS * float(os.environ.get("KMSTOOL_PACE", "1")))
    try:
        connection = ssl.create_default_context().wrap_socket(proxy, server_hostname=host)
    except TimeoutError:
        _die_unconnected("AWS_IO_TLS_NEGOTIATION_TIMEOUT, TLS negotiation timed out")
    except (ConnectionError, ssl.SSLEOFError):
        _die_unconnected("AWS_IO_SOCKET_CLOSED, socket is closed")
    except OSError:
        _wait(random.uniform(*_TLS_RETRY_SECONDS))  # noqa: S311
        _die_unconnected("AWS_IO_TLS_ERROR_NEGOTIATION_FAILURE, TLS negotiation failed")
    connection.settimeout(None)
    return connection


def _document(module_path: Path, key: rsa.RSAPrivateKey) -> bytes:
    """Have the enclave's security module attest the public half of *key*."""
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    document = b""
    try:
        with socket.socket(socket.AF_UNIX) as module:
            module.connect(str(module_path))
            module.sendall(public)
            module.shutdown(socket.SHUT_WR)
            while len(document) <= DOCUMENT_MAX and (received := module.recv(DOCUMENT_MAX)):
                document += received
    except OSError as error:
        raise FailureError(_UNDECRYPTED) from error
    if not 0 < len(document) <= DOCUMENT_MAX:
        raise FailureError(_UNDECRYPTED)
    return document


def _question(options: Mapping[str, str], ciphertext: bytes, document: bytes) -> str:
    """Write the request's body."""
    question: dict[str, object] = {"CiphertextBlob": base64.b64encode(ciphertext).decode()}
    if "key-id" in options:
        question["EncryptionAlgorithm"] = options["encryption-algorithm"]
        question["KeyId"] = options["key-id"]
    question["Recipient"] = {
        "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
        "AttestationDocument": base64.b64encode(document).decode(),
    }
    return json.dumps(question)


def _signed(host: str, body: str, options: Mapping[str, str]) -> AWSRequest:
    """Sign the request, and log what the real tool logs: more than anybody should see."""
    headers = {
        "host": host,
        "content-type": "application/x-amz-json-1.1",
        "x-amz-target": "TrentService.Decrypt",
        "content-length": str(len(body)),
        "user-agent": "aws-nitro-enclaves-sdk-c/kmstool-enclave-cli",  # not signed, as botocore's
        "x-amz-content-sha256": sha256(body.encode()).hexdigest(),
    }
    request = AWSRequest("POST", f"https://{host}/", headers=headers, data=body)
    credentials = Credentials(*(options[name] for name in _MANDATORY[:3]))
    auth = SigV4Auth(credentials, "kms", options["region"])
    auth.add_auth(request)
    authorization = request.headers["Authorization"]
    del request.headers["Authorization"]
    canonical = auth.canonical_request(request)
    request.headers["authorization"] = authorization
    built = "Http request successfully built"
    _log(f"{built} canonical request", canonical)
    _log(f"{built} string-to-sign", auth.string_to_sign(request, canonical))
    _log(f"{built} final authorization value", authorization)
    return request


def _answer(connection: HTTPConnection, request: AWSRequest) -> tuple[int, bytes]:
    """Send *request*; return status and body, -1 for a connection that was dropped."""
    try:
        connection.putrequest("POST", "/", skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            connection.putheader(name.lower(), value)
        connection.endheaders(str(request.data).encode())
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, HTTPException):
        return -1, b""


def _opened(answer: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """Take the plaintext out of KMS's answer; a broken envelope kills the tool."""
    try:
        fields: dict[str, Any] = json.loads(answer)
        envelope = base64.b64decode(fields["CiphertextForRecipient"], validate=True)
        # A Plaintext next to it is ignored, but null is not a string to the tool's parser.
        readable = (
            envelope
            and isinstance(fields["KeyId"], str)
            and isinstance(fields.get("Plaintext", ""), str)
            and fields.get("EncryptionAlgorithm", _ALGORITHMS[0]) in _ALGORITHMS
        )
    except (ValueError, KeyError, TypeError):
        readable = False
    if not readable:
        _complain(_UNREAD)
        raise FailureError(_UNDECRYPTED)
    try:
        return unwrap(envelope, key)
    except WrongKeyError as error:
        _complain("Cannot decrypt CMS encrypted content")
        raise FailureError(_UNDECRYPTED) from error
    except EnvelopeError:
        _die(signal.SIGSEGV, *_STACK)


# --- what it says ---------------------------------------------------------------------------------

_STACK: Final = (
    "#" * 80,
    "Stack trace:",
    "#" * 80,
    "kmstool_enclave_cli(aws_backtrace_print+0x7c) [0x4a7d3c]",
)


def _log(subject: str, contents: str) -> None:
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    _complain(
        f"[INFO] [{moment}] [AuthSigning] - {subject} via algorithm SigV4, with contents ", contents
    )
    _complain(f"[DEBUG] [{moment}] [event-loop] - event-loop: waiting for a maximum of 100 s")


def _complain(*lines: str) -> None:
    sys.stderr.writelines(f"{line}\n" for line in lines)


def _reject(*lines: str) -> NoReturn:
    _complain(*lines)
    raise SystemExit(_USAGE_ERROR)


def _abort(condition: str) -> NoReturn:
    _die(signal.SIGABRT, f"Fatal error condition occurred in main.c:1: {condition}", *_STACK)


def _die_unconnected(error: str) -> NoReturn:
    _die(signal.SIGABRT, f"Connection failed with error aws-c-io: {error}", *_STACK)


def _die(of: signal.Signals, *lines: str) -> NoReturn:
    _complain(*lines)
    sys.stderr.flush()
    signal.signal(of, signal.SIG_DFL)
    signal.raise_signal(of)
    raise SystemExit(128 + of)  # for the type checker; the signal has ended the process


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
