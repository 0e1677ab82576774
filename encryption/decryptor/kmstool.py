"""The data key, decrypted by KMS through AWS's kmstool_enclave_cli.

The tool attests the enclave to KMS and terminates the connection's TLS inside the enclave
(https://github.com/aws/aws-nitro-enclaves-sdk-c).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import itertools
import os
import re
import shutil
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from . import programs, release
from .errors import KeyReleaseError, TimeLimitError
from .release import DATA_KEY, TRIES, Trouble
from .system import shell_status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CRASH = 139  # 128 + SIGSEGV: it crashes after a good answer, more often on busy CPUs
RETRIES_AFTER_CRASHES = 10  # at once: they come at random
OUTPUT_MAX = 1 << 16  # bytes; an answer has less than 100
LOG_MAX = 1 << 23  # bytes; a log has some ten thousand
SIGNALLED, REFUSED = 128, 255  # exit statuses: above the first, a signal ended it
WORKING = "0.3.0, 0.3.2 and 0.4.4 work"  # of aws-nitro-enclaves-sdk-c
MISSING_LIBRARY = re.compile(
    rb"(?:while loading shared libraries: |Error loading shared library )([A-Za-z0-9_.+-]+):"
)


class Answer(NamedTuple):
    """How one call of the tool ended; *status* is as a shell reports it."""

    status: int
    output: bytes
    log: bytes

    def is_usage(self) -> bool:
        """Return whether the tool refused its command line, before it connected."""
        return self.status == 1 and (b"Unknown option" in self.log or b"usage:" in self.log)


class Kmstool(NamedTuple):
    """How to call AWS's kmstool_enclave_cli.

    Attributes:
        path: a program, looked up on PATH if it has no slash.
        region: of the KMS key.
        proxy_port: vsock port of the parent's proxy.
        timeout: seconds that a try may take.
        key_id: ARN of the only key that may decrypt the artifact; None allows any.
        credentials: the parent role's, under the names of release.CREDENTIALS; other members are
            not used.
    """

    path: str
    region: str
    proxy_port: int
    timeout: float
    key_id: str | None
    credentials: Mapping[str, str]

    def unwrap(self, encrypted_key: bytes) -> bytes:
        """Return the 32 plaintext bytes of *encrypted_key*.

        Up to 0.3.0 the tool knows no subcommand and answers the word `decrypt` with its usage,
        before it connects; newer ones insist on it. So KMS is asked once, whichever it is.

        Raises:
            KeyReleaseError: names possible reasons. The tool does not print KMS's reason, and its
                log, which holds credentials, is not passed on.
        """
        program = shutil.which(self.path)
        if program is None:
            raise KeyReleaseError(
                f"{self.path} is not a program that can be found: pass its path with --kmstool"
            )
        options = self._options(encrypted_key)
        usage = b""
        for subcommand in (["decrypt"], []):
            answer = self._answer([program, *subcommand, *options])
            if not answer.is_usage():
                return _data_key(answer.output)
            usage += answer.log
        raise KeyReleaseError(self._refused_command_line(usage))

    def _refused_command_line(self, usage: bytes) -> str:
        if self.key_id and b"--key-id" in usage:
            return (
                f"{self.path} lists --key-id but refuses it, as version 0.3.1 does: "
                f"use another version of aws-nitro-enclaves-sdk-c; {WORKING}"
            )
        if self.key_id:
            return (
                f"{self.path} has no option --key-id, so it cannot pin the key: "
                f"use aws-nitro-enclaves-sdk-c 0.3.0 or newer ({WORKING}), or --any-key"
            )
        return (
            f"{self.path} accepts neither the old nor the new options of kmstool_enclave_cli: use"
            f" another version of aws-nitro-enclaves-sdk-c; {WORKING}"
        )

    def _options(self, encrypted_key: bytes) -> list[str]:
        access_key, secret_key, session_token = release.usable(self.credentials)
        options = {
            "--region": self.region,
            "--proxy-port": str(self.proxy_port),
            "--aws-access-key-id": access_key,
            "--aws-secret-access-key": secret_key,
            "--aws-session-token": session_token,
            "--ciphertext": base64.b64encode(encrypted_key).decode(),
        }
        if self.key_id:
            options |= {"--key-id": self.key_id, "--encryption-algorithm": "SYMMETRIC_DEFAULT"}
        return [word for option in options.items() for word in option]

    def _answer(self, command: Sequence[str]) -> Answer:
        """Call the tool until it answers or refuses its command line.

        Raises:
            KeyReleaseError: names the failures of all calls.
        """
        return release.tried(partial(self._call, command), self.timeout, "kmstool ")

    def _call(self, command: Sequence[str], deadline: float) -> Answer | Trouble:
        """Call the tool once, until *deadline*."""
        start = time.monotonic()
        try:
            answer = _called(command, deadline)
        except TimeLimitError:
            return Trouble(
                f"gave no answer in {deadline - start:.3g} s",
                f"check that vsock-proxy on the parent's port {self.proxy_port} leads to "
                f"{self._host()}:443. Version 0.4.0 of the tool never connects on a parent that "
                f"has been running for a long time; {WORKING}",
                TRIES - 1,
            )
        except OSError as error:
            return Trouble(f"does not start: {error.strerror}", f"is {command[0]} the tool?")
        if answer.status == 0 or answer.is_usage():
            return answer
        return self._trouble(answer)

    def _trouble(self, answer: Answer) -> Trouble:
        """Return the first case that fits; the cases look only for fixed strings."""
        cases = itertools.chain(self._before_connecting(answer), self._once_connected(answer))
        return next(trouble for fits, trouble in cases if fits)

    def _before_connecting(self, answer: Answer) -> Iterator[tuple[bool, Trouble]]:
        status, log = answer.status, answer.log
        library = MISSING_LIBRARY.search(log)
        name = library[1].decode() if library else ""
        yield (
            bool(library),
            Trouble(f"does not start: {name} is missing", f"copy {name} into the image"),
        )
        yield (
            status in (126, 127),
            Trouble(f"does not start (status {status})", "is it a program for this image's CPU?"),
        )
        yield (
            b"seed_entropy(1024)" in log,
            Trouble(
                f"found no Nitro security module (status {status})",
                "this is not an enclave: start the image with nitro-cli run-enclave",
            ),
        )
        yield (
            b"AWS_IO_SOCKET_NOT_CONNECTED" in log,
            Trouble(
                f"could not connect to the parent's port {self.proxy_port} (status {status})",
                f"on the parent, start vsock-proxy {self.proxy_port} {self._host()} 443. Version "
                f"0.4.0 of the tool also fails in this way with a running proxy; {WORKING}",
                TRIES - 1,
            ),
        )
        yield (
            b"AWS_IO_TLS_ERROR_NEGOTIATION_FAILURE" in log,
            Trouble(
                f"did not trust the server's certificate (status {status})",
                f"vsock-proxy must lead to {self._host()}:443, and the image needs the certificate "
                "authorities (package ca-certificates)",
            ),
        )

    def _once_connected(self, answer: Answer) -> Iterator[tuple[bool, Trouble]]:
        status, log = answer.status, answer.log
        yield (
            b"Got non-200 answer from KMS: 400" in log,
            Trouble(f"was refused by KMS (status {status})", self._refusal()),
        )
        yield (
            b"Got non-200 answer from KMS: -1" in log,
            Trouble(
                f"lost its connection to KMS (status {status})",
                "is vsock-proxy still running on the parent?",
                TRIES - 1,
            ),
        )
        yield (
            b"Got non-200 answer from KMS: " in log,
            Trouble(
                f"got an internal error from KMS (status {status})", "try again later", TRIES - 1
            ),
        )
        yield (
            status == CRASH,
            Trouble(
                f"crashed (status {status})",
                "it crashes when the enclave's CPUs are busy (aws-nitro-enclaves-cli#418): give "
                "the enclave another CPU, or try again",
                RETRIES_AFTER_CRASHES,
                pause=0,
            ),
        )
        yield (
            SIGNALLED < status < REFUSED,
            Trouble(
                f"crashed (status {status})",
                f"check that vsock-proxy listens on the parent's port {self.proxy_port}, that it "
                f"leads to {self._host()}:443, and that the image has ca-certificates",
                TRIES - 1,
            ),
        )
        yield (
            status == REFUSED or b"Could not decrypt" in log,
            Trouble(
                f"got no attestation document (status {status})",
                "KMS was not asked: check that this image runs in an enclave, with /dev/nsm",
            ),
        )
        yield (True, Trouble(f"failed (status {status})", f"is {self.path} kmstool_enclave_cli?"))

    def _refusal(self) -> str:
        pinned = f"the artifact was encrypted under another key than {self.key_id}; "
        return (
            "the tool does not print the reason, but CloudTrail in the caller's account has it. "
            "Possible reasons: "
            "the key's policy does not name this image's PCR0, or the enclave runs in debug mode; "
            f"the parent's role lacks kms:Decrypt; {pinned if self.key_id else ''}"
            f"the key is not in {self.region}; the credentials have expired"
        )

    def _host(self) -> str:
        return release.host(self.region)


def _called(command: Sequence[str], deadline: float) -> Answer:
    """Run *command* in a session of its own; past *deadline* all of it is killed.

    Raises:
        KeyReleaseError: it writes more than an answer can have.
    """
    from subprocess import DEVNULL, PIPE

    written = {1: bytearray(), 2: bytearray()}

    def receive(number: int, data: bytes) -> None:
        written[number] += data
        if len(written[number]) > (OUTPUT_MAX if number == 1 else LOG_MAX):
            raise KeyReleaseError(
                f"{command[0]} was killed because it wrote too much: is it kmstool_enclave_cli?"
            )

    # With the default scheduling policy on one CPU, the thread that frees the connection nearly
    # always runs before the one that still uses it, and the tool crashes; with SCHED_BATCH rarely.
    process = programs.start(
        command, in_batch=True, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    with process:
        try:
            programs.follow(process, receive, deadline)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        programs.drain(process, receive)
    return Answer(shell_status(process.returncode), bytes(written[1]), bytes(written[2]))


def _data_key(output: bytes) -> bytes:
    """Read the key from the tool's answer: `PLAINTEXT: <base64>`, up to 0.3.0 the base64 alone."""
    try:
        key = binascii.a2b_base64(output.strip().removeprefix(b"PLAINTEXT: "), strict_mode=True)
    except binascii.Error:
        key = b""
    if len(key) != DATA_KEY:
        # The answer may be secret, so the message does not show it.
        raise KeyReleaseError(
            "kmstool's answer is not a 32-byte data key in base64: is --kmstool "
            "kmstool_enclave_cli, and was the artifact made by this project's encryptor?"
        )
    return key
