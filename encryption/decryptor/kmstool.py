"""The data key, unwrapped by AWS's kmstool_enclave_cli.

The tool attests the enclave to KMS and ends the connection's TLS inside the enclave
(https://github.com/aws/aws-nitro-enclaves-sdk-c).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import shutil
import signal
from typing import TYPE_CHECKING, NamedTuple

from . import signals
from .errors import KeyReleaseError
from .system import shell_status

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence

DATA_KEY = 32  # bytes
TRIES = 3  # it now and then crashes after a good answer, or hangs
CRASHED = range(129, 255)  # 128 + signal, as a shell says it; 255 is an ordinary refusal
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


class Kmstool(NamedTuple):
    """How to call AWS's kmstool_enclave_cli.

    Attributes:
        path: a program, looked up on PATH if it has no slash.
        region: of the KMS key.
        proxy_port: vsock port of the parent's proxy.
        timeout: seconds a try may take.
        key_id: ARN of the only key that may open the artifact; None pins none.
        credentials: the parent role's, under the names of CREDENTIALS; what else is there is
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
            KeyReleaseError: with what the reason can be; the tool never says, and its log, which
                holds credentials, is not passed on.
        """
        program = shutil.which(self.path)
        if program is None:
            raise KeyReleaseError(
                f"{self.path} is not a program here: give its path with --kmstool"
            )
        options = self._options(encrypted_key)
        for subcommand in (["decrypt"], []):
            answer = self._answer([program, *subcommand, *options])
            if answer.returncode == 0:
                return _data_key(answer.stdout)
            if not _is_usage(answer):
                raise KeyReleaseError(self._refusal(answer.returncode))
        if self.key_id:
            raise KeyReleaseError(
                f"{self.path} knows no --key-id, so it cannot pin the key: "
                "use aws-nitro-enclaves-sdk-c 0.3.0 or newer, or --any-key"
            )
        raise KeyReleaseError(
            f"{self.path} accepts neither of kmstool_enclave_cli's two command lines"
        )

    def _options(self, encrypted_key: bytes) -> list[str]:
        missing = [name for name in CREDENTIALS if not self.credentials.get(name)]
        if missing:
            raise KeyReleaseError(
                f"kmstool needs credentials, and {', '.join(missing)} is not in the environment: "
                "hand the parent role's three values to the enclave"
            )
        access_key, secret_key, session_token = (self.credentials[name] for name in CREDENTIALS)
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

    def _answer(self, command: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        """Call the tool until it neither crashes nor hangs."""
        import subprocess

        trouble = ""
        for _ in range(TRIES):
            try:
                answer = _run_with_deadline(command, self.timeout)
            except subprocess.TimeoutExpired:
                trouble = f"gave no answer in {self.timeout:g} s"
                continue
            except OSError as error:
                raise KeyReleaseError(f"{command[0]} does not start: {error.strerror}") from error
            status = shell_status(answer.returncode)
            if status not in CRASHED:
                return answer
            trouble = f"crashed (status {status})"
        raise KeyReleaseError(
            f"kmstool {trouble}, {TRIES} times: is vsock-proxy listening on the parent's port "
            f"{self.proxy_port}, does it lead to KMS in {self.region}, and does the enclave trust "
            "that certificate?"
        )

    def _refusal(self, status: int) -> str:
        pinned = f"the artifact was encrypted under another key than {self.key_id}; "
        return (
            f"KMS released no data key (kmstool: status {status}, it never says why). It can be: "
            "the key's policy does not name this image's PCR0, or the enclave runs in debug mode; "
            f"the parent's role lacks kms:Decrypt; {pinned if self.key_id else ''}"
            f"the key is not in {self.region}; the credentials have expired"
        )


def _run_with_deadline(
    command: Sequence[str], timeout: float
) -> subprocess.CompletedProcess[bytes]:
    """Run *command* in a session of its own; past *timeout* seconds all of it is killed."""
    import subprocess

    process = None
    try:
        with signals.held():  # one that came between start and `process` would leave it running
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        output, log = process.communicate(timeout=timeout)
    except BaseException:
        if process:
            with process, contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, log)


def _is_usage(answer: subprocess.CompletedProcess[bytes]) -> bool:
    complaint = b"Unknown option" in answer.stderr or b"usage:" in answer.stderr
    return answer.returncode == 1 and complaint


def _data_key(output: bytes) -> bytes:
    """Read the key from the tool's answer: `PLAINTEXT: <base64>`, up to 0.3.0 the base64 alone."""
    try:
        key = binascii.a2b_base64(output.strip().removeprefix(b"PLAINTEXT: "), strict_mode=True)
    except binascii.Error:
        key = b""
    if len(key) != DATA_KEY:
        # The answer itself may be a secret: it is not shown.
        raise KeyReleaseError("kmstool's answer is not a 32-byte data key in base64")
    return key
