"""An enclave on this machine: the project's server, its way to KMS, and a security module.

The security module may be honest, or one that an attacker would like to have.
"""

from __future__ import annotations

import contextlib
import os
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import cbor2
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rehearsal.attestation import Authority
from rehearsal.aws import PROJECT, RehearsalError
from rehearsal.nitro import kernel
from rehearsal.scenario import FIRST, SCRIPT, Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehearsal.aws import Credentials

SERVER: Final = PROJECT / "enclave" / "server.py"
CLIENT: Final = PROJECT / "enclave" / "client.py"
KMSTOOL: Final = PROJECT / "rehearsal" / "kmstool_enclave_cli"

Attest: TypeAlias = Callable[[bytes], bytes]
"""What an enclave takes for its security module: a DER public key in, a document out."""


@contextlib.contextmanager
def device(attest: Attest) -> Iterator[Path]:
    """Put *attest* behind a Unix socket, which replaces ``/dev/nsm``."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(attest(self.rfile.read()))

    with tempfile.TemporaryDirectory(prefix="nsm-") as folder:  # a socket's path must be short
        path = Path(folder) / "nsm"
        with socketserver.UnixStreamServer(str(path), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield path
            finally:
                server.shutdown()


@contextlib.contextmanager
def served(scenario: Scenario, attest: Attest, **kmstool: str) -> Iterator[str]:
    """Start an enclave: the server as the image's entry point starts it, the key's ARN pinned.

    Args:
        scenario: the accounts and services to use.
        attest: the enclave's security module.
        kmstool: settings of the rehearsal's kmstool, ``KMSTOOL_CONTRACT="0.3.0"`` for instance.

    Returns:
        The server's address, a Unix socket instead of vsock.

    Raises:
        RehearsalError: it does not start.
    """
    with (
        _way_to_kms(scenario, attest) as (options, settings),
        tempfile.TemporaryDirectory(prefix="vsock-") as folder,
    ):
        address = f"unix:{folder}/6000"
        command: list[str | Path] = [
            *(sys.executable, SERVER, "--listen", address, "--key-id", scenario.key),
            *("--proxy-port", str(scenario.service.port), *options),
        ]
        environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "SSL_CERT_FILE": str(scenario.service.trust),
        }
        with subprocess.Popen(
            command,
            env=environment | settings | kmstool,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as server:
            console = server.stderr
            try:
                first = console.readline() if console else ""
                if not first.startswith("listening on "):
                    raise RehearsalError(f"the enclave's server does not start: {first.strip()}")
                yield address
            finally:
                server.terminate()
                server.communicate()


@contextlib.contextmanager
def _way_to_kms(
    scenario: Scenario, attest: Attest
) -> Iterator[tuple[tuple[str, ...], dict[str, str]]]:
    """Put *attest* where the server finds it; yield options and environment of the server."""
    if scenario.attest == "nsm":
        with kernel(attest) as under_it:
            yield ("--attest", "nsm"), under_it.environment
        return
    with device(attest) as module:
        settings = {"KMSTOOL_MODULE": str(module), "KMSTOOL_PYTHON": sys.executable}
        yield ("--kmstool", str(KMSTOOL)), settings


def run_in_enclave(
    scenario: Scenario,
    attest: Attest,
    *,
    who: Credentials | None = None,
    artifact: Path | None = None,
    contract: str = "0.4.4",
) -> subprocess.CompletedProcess[str]:
    """Start an enclave and have the client run the artifact's `SCRIPT` in it.

    Args:
        scenario: the accounts and services to use.
        attest: the enclave's security module.
        who: whose credentials the enclave is given; default: the parent's.
        artifact: the artifact to send; default: the owner's.
        contract: kmstool's version.
    """
    with served(scenario, attest, KMSTOOL_CONTRACT=contract) as address:
        command: list[str | Path] = [
            *(sys.executable, CLIENT, "run", "--address", address),
            *("-f", artifact or scenario.artifact, "--", SCRIPT),
        ]
        return subprocess.run(
            command,
            env=scenario.service.aws.environment(who or scenario.parent),
            cwd=scenario.folder,
            capture_output=True,
            text=True,
            check=False,
        )


def security_module(scenario: Scenario, image: str = FIRST) -> Attest:
    """Start an enclave from the image of that PCR0; return its security module."""
    module = scenario.authority.module({0: bytes.fromhex(image)}, _now())
    return lambda key: module.attest(_now(), key)


def forged(scenario: Scenario) -> Attest:
    """Return the module of an enclave that damages the signature of its documents."""
    genuine = security_module(scenario)

    def attest(key: bytes) -> bytes:
        document = bytearray(genuine(key))
        document[-1] ^= 1  # the signature is at the end
        return bytes(document)

    return attest


def altered(scenario: Scenario) -> Attest:
    """Return the module of an enclave that puts another key into a signed document."""
    genuine = security_module(scenario)

    def attest(key: bytes) -> bytes:
        protected, unprotected, payload, signature = cbor2.loads(genuine(public(new_key())))
        changed = cbor2.dumps(cbor2.loads(payload) | {"public_key": key})
        return cbor2.dumps([protected, unprotected, changed, signature])

    return attest


def foreign(_: Scenario) -> Attest:
    """Return a module that another authority certifies."""
    module = Authority(_now()).module({0: bytes.fromhex(FIRST)}, _now())
    return lambda key: module.attest(_now(), key)


def expired(scenario: Scenario) -> Attest:
    """Return the module of an enclave whose certificate has expired."""
    module = scenario.authority.module({0: bytes.fromhex(FIRST)}, _now() - timedelta(hours=4))
    return lambda key: module.attest(_now(), key)


def replayed(scenario: Scenario) -> Attest:
    """Return the module of an enclave whose documents are ten minutes old."""
    module = scenario.authority.module({0: bytes.fromhex(FIRST)}, _now() - timedelta(hours=1))
    return lambda key: module.attest(_now() - timedelta(minutes=10), key)


def _now() -> datetime:
    return datetime.now(UTC)


def new_key() -> rsa.RSAPrivateKey:
    """Generate a key to which KMS can wrap an answer."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def public(key: rsa.RSAPrivateKey) -> bytes:
    """Return the public half of *key* as a document holds it."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
