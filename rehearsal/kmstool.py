"""AWS's kmstool_enclave_cli on this machine: its command line, its output and its bad days.

It runs as in an enclave: it asks a security module for a document about a key of its own, lets
KMS wrap the plaintext for that key, and prints it. What an enclave's surroundings decide comes
from the environment:

    KMSTOOL_CONTRACT   whose command line: 0.3.0 (no subcommand) or 0.4.0; default 0.4.0
    KMSTOOL_MODULE     the security module, a Unix socket: takes a DER public key, gives a document
    KMSTOOL_FAULTS     a file of accidents to come, a line each: crash, hang or none
    KMSTOOL_PYTHON     the interpreter; default: the project's
    SSL_CERT_FILE      whom to trust as KMS

The parent's vsock proxy is 127.0.0.1 at ``--proxy-port``. Source:
https://github.com/aws/aws-nitro-enclaves-sdk-c/tree/main/bin/kmstool-enclave-cli
"""

from __future__ import annotations

import base64
import getopt
import json
import os
import resource
import signal
import socket
import ssl
import sys
from datetime import UTC, datetime
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
    from collections.abc import Mapping

CONTRACTS: Final = ("0.3.0", "0.4.0")
_CONNECT_SECONDS: Final = 3  # the tool's only time limit; none for the answer
_USAGE_ERROR: Final = 1

_MANDATORY: Final = (
    "aws-access-key-id",
    "aws-secret-access-key",
    "aws-session-token",
    "ciphertext",
)
_OPTIONS: Final = ("region", "proxy-port", *_MANDATORY, "key-id", "encryption-algorithm")


class FailureError(Exception):
    """The tool ends without a plaintext; the message is what it prints last but one."""


def main(arguments: list[str]) -> int:
    """Run the tool once and return its exit status, or die as it does."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    contract = os.environ.get("KMSTOOL_CONTRACT", CONTRACTS[-1])
    if contract not in CONTRACTS:
        raise SystemExit(f"KMSTOOL_CONTRACT is {contract!r}, not one of {', '.join(CONTRACTS)}")
    commands = contract != "0.3.0"
    options = _options(arguments, commands=commands)
    accident = _accident()
    if accident == "hang":
        signal.pause()
    try:
        plaintext = base64.b64encode(_decrypted(options)).decode()
    except FailureError as failure:
        _complain(str(failure), "Could not decrypt" + "\n" * commands)
        return 255 if commands else 1
    if accident == "crash":  # a use after free, when the answer is there but not yet printed
        _die(signal.SIGSEGV)
    sys.stdout.write(f"PLAINTEXT: {plaintext}\n" if commands else plaintext)
    return 0


def _options(arguments: list[str], *, commands: bool) -> Mapping[str, str]:
    """Read the command line as the tool does, which has one message for whatever it dislikes."""
    usage = "usage: kmstool_enclave_cli [options]"
    if commands:
        usage = "usage: kmstool_enclave_cli decrypt [options]"
        if arguments[:1] != ["decrypt"]:
            _reject("usage: kmstool_enclave_cli [command]", "    decrypt")
        arguments = arguments[1:]
    try:
        pairs, rest = getopt.getopt(arguments, "", [f"{name}=" for name in _OPTIONS])
    except getopt.GetoptError as error:
        pairs, rest = [], [error.opt]
    if rest:
        _reject("Unknown option", usage, *(f"    --{name}" for name in _OPTIONS))
    options = {name.removeprefix("--"): value for name, value in pairs}
    for name in _MANDATORY:
        if name not in options:
            _reject(f"--{name} must be set")
    if "key-id" in options and "encryption-algorithm" not in options:
        _reject("--encryption-algorithm must be set if key-id exists")
    return {"region": "us-east-1", "proxy-port": "8000"} | options


def _accident() -> str:
    """Take the first line of the file of accidents, if there is one."""
    if not (name := os.environ.get("KMSTOOL_FAULTS")):
        return ""
    first, *later = Path(name).read_text().splitlines() or [""]
    Path(name).write_text("\n".join(later))
    return first


def _decrypted(options: Mapping[str, str]) -> bytes:
    """Go the whole way: connect, attest, ask, unwrap."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    host = f"kms.{options['region']}.amazonaws.com"
    if options["region"].startswith("cn-"):
        host += ".cn"
    connection = HTTPConnection(host)
    connection.sock = _connected(host, options["proxy-port"])
    signed = _signed(host, _question(options, key), options)
    try:
        connection.request("POST", "/", signed.body, dict(signed.headers.items()))
        response = connection.getresponse()
        answer = response.read()
    except (OSError, HTTPException):
        _die(
            signal.SIGABRT,
            "Connection failed with error aws-c-http: AWS_ERROR_HTTP_CONNECTION_CLOSED",
        )
    if response.status != HTTPStatus.OK:
        _complain(
            f"Got non-200 answer from KMS: {response.status}", "Could not read response from KMS"
        )
        raise FailureError("Could not decrypt ciphertext")
    return _opened(answer, key)


def _question(options: Mapping[str, str], key: rsa.RSAPrivateKey) -> str:
    """Write the request's body, with a document about *key*."""
    try:
        ciphertext = base64.b64decode(options["ciphertext"], validate=True)
    except ValueError as error:
        raise FailureError("Ciphertext not a base64 string") from error
    document = _document(
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    question: dict[str, object] = {
        "CiphertextBlob": base64.b64encode(ciphertext).decode(),
        "Recipient": {
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
            "AttestationDocument": base64.b64encode(document).decode(),
        },
    }
    if "key-id" in options:
        question["KeyId"] = options["key-id"]
        question["EncryptionAlgorithm"] = options["encryption-algorithm"]
    return json.dumps(question)


def _connected(host: str, port: str) -> ssl.SSLSocket:
    """Connect to KMS through the proxy, before anything is attested."""
    try:
        proxy = socket.create_connection(("127.0.0.1", int(port)), _CONNECT_SECONDS)
    except (OSError, ValueError, OverflowError):
        _die(signal.SIGABRT, "Connection failed with error aws-c-io: AWS_IO_SOCKET_NOT_CONNECTED")
    proxy.settimeout(None)
    try:
        return ssl.create_default_context().wrap_socket(proxy, server_hostname=host)
    except OSError:
        _die(
            signal.SIGABRT,
            "Connection failed with error aws-c-io: AWS_IO_TLS_ERROR_NEGOTIATION_FAILURE",
        )


def _document(public_key: bytes) -> bytes:
    """Have the enclave's security module attest *public_key*."""
    document = b""
    try:
        with socket.socket(socket.AF_UNIX) as module:
            module.connect(os.environ.get("KMSTOOL_MODULE", "/dev/nsm"))
            module.sendall(public_key)
            module.shutdown(socket.SHUT_WR)
            while len(document) <= DOCUMENT_MAX and (received := module.recv(DOCUMENT_MAX)):
                document += received
    except OSError as error:
        raise FailureError("Could not decrypt ciphertext") from error
    if not 0 < len(document) <= DOCUMENT_MAX:
        raise FailureError("Could not decrypt ciphertext")
    return document


def _signed(host: str, body: str, options: Mapping[str, str]) -> AWSRequest:
    """Sign the request, and log what the real tool logs: more than anybody should see."""
    request = AWSRequest(
        "POST",
        f"https://{host}/",
        headers={
            "Host": host,
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": "TrentService.Decrypt",
        },
        data=body,
    )
    auth = SigV4Auth(
        Credentials(*(options[name] for name in _MANDATORY[:3])), "kms", options["region"]
    )
    auth.add_auth(request)
    _log("Http request successfully built canonical request", auth.canonical_request(request))
    _log(
        "Http request successfully built final authorization value",
        request.headers["Authorization"],
    )
    return request


def _opened(answer: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """Take the plaintext out of KMS's answer; one of another form kills the tool."""
    try:
        fields: dict[str, Any] = json.loads(answer)
        envelope = base64.b64decode(fields["CiphertextForRecipient"], validate=True)
        if "Plaintext" in fields or not isinstance(fields["KeyId"], str):
            _complain("Could not read response from KMS")
            raise FailureError("Could not decrypt ciphertext")
        return unwrap(envelope, key)
    except WrongKeyError as error:
        raise FailureError("Could not decrypt ciphertext") from error
    except (ValueError, KeyError, TypeError, EnvelopeError):
        _die(signal.SIGSEGV)


def _log(subject: str, contents: str) -> None:
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    _complain(
        f"[INFO] [{moment}] [AuthSigning] - {subject} via algorithm SigV4, with contents ", contents
    )


def _complain(*lines: str) -> None:
    sys.stderr.writelines(f"{line}\n" for line in lines)


def _reject(*lines: str) -> NoReturn:
    _complain(*lines)
    raise SystemExit(_USAGE_ERROR)


def _die(of: signal.Signals, *lines: str) -> NoReturn:
    _complain(*lines)
    sys.stderr.flush()
    signal.signal(of, signal.SIG_DFL)
    signal.raise_signal(of)
    raise SystemExit(128 + of)  # for the type checker; the signal has ended the process


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
