"""AWS on this machine: an emulator that deploys templates and enforces their policies.

The emulator is ministack, started from an environment of its own (`.rehearsal/venv`)
with TLS, with authorization, on 127.0.0.1 and a free port, and with nothing on disk
that outlives it. Accounts need no setting up: twelve digits are one.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3

from generator.parameters import ENCRYPTOR_TEMPLATE, SHARING_TEMPLATE
from rehearsal.certificates import issue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROJECT = Path(__file__).parent.parent
ENCRYPTOR = PROJECT / "templates" / ENCRYPTOR_TEMPLATE
SHARING_BUCKET = PROJECT / "templates" / SHARING_TEMPLATE
EMULATOR = PROJECT / ".rehearsal" / "venv" / "bin"
REGION = "eu-central-1"
TRUST_ANYBODY = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}],
    }
)
SESSION = boto3.Session()  # reads the description of a service once, for all principals
START_SECONDS = 60
STOP_SECONDS = 10


class RehearsalError(Exception):
    """The rehearsal itself cannot continue; the message is for the person who runs it."""


class CommandError(RehearsalError):
    """A command of the AWS CLI failed; the message is what the CLI said."""


@dataclass(frozen=True)
class Credentials:
    """What requests are signed with: an account root's, or a role session's."""

    access_key_id: str
    secret_access_key: str
    session_token: str = ""


@dataclass(frozen=True)
class Aws:
    """A running emulator: where it listens, what to trust, and a folder that ends with it."""

    endpoint: str
    certificate: Path
    home: Path

    def environment(self, principal: Credentials, region: str = REGION) -> dict[str, str]:
        """Return the whole environment of a process that acts for *principal*.

        Only PATH is taken from the caller's own: no profile, no credentials, no proxy.
        """
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_CA_BUNDLE": str(self.certificate),
            "AWS_DEFAULT_REGION": region,
            "AWS_ACCESS_KEY_ID": principal.access_key_id,
            "AWS_SECRET_ACCESS_KEY": principal.secret_access_key,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        } | ({"AWS_SESSION_TOKEN": principal.session_token} if principal.session_token else {})

    def run(
        self,
        principal: Credentials,
        *command: str,
        region: str = REGION,
        directory: Path = PROJECT,
    ) -> str:
        """Run the real AWS CLI as *principal*, in *directory*, and return its standard output.

        Raises:
            CommandError: the CLI's exit status is not 0.
        """
        result = subprocess.run(
            # Not by its first line, which cannot name a path with a space.
            [EMULATOR / "python", EMULATOR / "aws", *command],
            env=self.environment(principal, region),
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise CommandError(result.stderr.strip() or result.stdout.strip())
        return result.stdout

    def client(self, principal: Credentials, service: str, region: str = REGION) -> Any:  # noqa: ANN401 - as boto3's
        """Return a boto3 client of *principal*, for calls that no user would type."""
        return _client(self, principal, service, region)

    def act_as(self, owner: Credentials, role_arn: str) -> Credentials:
        """Assume a role of *owner*'s account, whomever it trusts.

        A role that trusts only CodeBuild cannot be assumed by hand, so its trust policy
        is replaced meanwhile.
        """
        iam = self.client(owner, "iam")
        name = role_arn.rsplit("/", 1)[1]
        trusted = iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
        iam.update_assume_role_policy(RoleName=name, PolicyDocument=TRUST_ANYBODY)
        try:
            answer = self.client(owner, "sts").assume_role(
                RoleArn=role_arn, RoleSessionName="rehearsal"
            )
        finally:
            iam.update_assume_role_policy(RoleName=name, PolicyDocument=json.dumps(trusted))
        session = answer["Credentials"]
        return Credentials(
            session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"]
        )

    def deploy(
        self,
        principal: Credentials,
        stack: str,
        template: Path,
        parameters: Mapping[str, str],
        *,
        region: str = REGION,
    ) -> dict[str, str]:
        """Create or update *stack* with `aws cloudformation deploy`, and return its outputs.

        Raises:
            CommandError: CloudFormation refuses, or the stack rolls back.
        """
        self.run(principal, *deployment(stack, template, parameters), region=region)
        stacks = self.client(principal, "cloudformation", region).describe_stacks(StackName=stack)
        return {
            output["OutputKey"]: output["OutputValue"]
            for output in stacks["Stacks"][0].get("Outputs", ())
        }


@lru_cache(maxsize=100)  # a new client's connection takes six times as long as its request
def _client(aws: Aws, principal: Credentials, service: str, region: str) -> Any:  # noqa: ANN401
    make: Any = SESSION.client  # typed per service, by literal names only
    return make(
        service,
        region_name=region,
        endpoint_url=aws.endpoint,
        verify=str(aws.certificate),
        aws_access_key_id=principal.access_key_id,
        aws_secret_access_key=principal.secret_access_key,
        aws_session_token=principal.session_token or None,
    )


def deployment(stack: str, template: Path, parameters: Mapping[str, str]) -> tuple[str, ...]:
    """The AWS CLI's arguments that deploy *template*, as a user would type them."""
    return (
        *("cloudformation", "deploy", "--stack-name", stack, "--template-file", str(template)),
        *("--capabilities", "CAPABILITY_IAM", "--no-fail-on-empty-changeset"),
        *("--parameter-overrides", *(f"{name}={value}" for name, value in parameters.items())),
    )


def account_root(account: str) -> Credentials:
    """Return the root of *account* (12 digits), which the emulator allows everything."""
    return Credentials(account, "test")


@contextmanager
def emulator() -> Iterator[Aws]:
    """Run the emulator until the end of the block.

    Raises:
        RehearsalError: it is not installed, or does not start.
    """
    if not (EMULATOR / "hypercorn").exists():
        raise RehearsalError(f"{EMULATOR} has no AWS emulator: `make demo` installs it")
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        home = Path(folder)
        certificate, key = _self_signed(home)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            server = _serve(listener, certificate, key, home)
        try:
            aws = Aws(f"https://127.0.0.1:{port}", certificate, home)
            _await_answer(aws, server)
            yield aws
        finally:
            _end(server)


def _serve(
    listener: socket.socket, certificate: Path, key: Path, home: Path
) -> subprocess.Popen[bytes]:
    """Start the emulator on a socket that already listens, so that no port is guessed.

    Its own command would also bind port 443 where it may; its web server does not.
    """
    command: list[str | Path] = [
        *(
            EMULATOR / "python",
            EMULATOR / "hypercorn",
            "--workers",
            "0",
            "--bind",
            f"fd://{listener.fileno()}",
        ),
        *("--certfile", certificate, "--keyfile", key, "rehearsal.patches:app"),
    ]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home),
        "AUTH": "true",
        "USE_SSL": "1",
        "MINISTACK_SSL_CERT": str(certificate),
        "MINISTACK_SSL_KEY": str(key),
        "GATEWAY_PORT": str(listener.getsockname()[1]),
        "LOG_LEVEL": "WARNING",
    }
    with _log(home).open("wb") as log:
        return subprocess.Popen(
            command,
            env=environment,
            cwd=PROJECT,
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,  # never written to: the emulator ends when it closes
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _log(home: Path) -> Path:
    return home / "emulator.log"


def _await_answer(aws: Aws, server: subprocess.Popen[bytes]) -> None:
    """Ask once: the socket listens since before the start, so the question waits in it."""
    host = aws.endpoint.removeprefix("https://")
    trust = ssl.create_default_context(cafile=str(aws.certificate))
    connection = http.client.HTTPSConnection(host, timeout=START_SECONDS, context=trust)
    try:
        connection.request("GET", "/_ministack/health")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException) as error:
        _end(server)
        log = _log(aws.home).read_text(errors="replace")[-2000:]
        raise RehearsalError(f"the AWS emulator does not start: {error}\n{log}") from error
    finally:
        connection.close()


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the emulator and whatever it started: its own process group."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        if server.poll() is not None:
            break
        os.killpg(server.pid, how)
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    if server.stdin:
        server.stdin.close()


def _self_signed(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1, valid for a day, and its key; return both paths."""
    begins = datetime.now(UTC) - timedelta(hours=1)
    server = issue(
        *("rehearsal", begins, timedelta(days=1)), ca=True, hosts=("127.0.0.1", "localhost")
    )
    certificate, key = folder / "emulator.pem", folder / "emulator.key"
    certificate.write_bytes(server.pem)
    key.touch(mode=0o600)
    key.write_bytes(server.key_pem)
    return certificate, key
