"""AWS on this machine: a stand-in that deploys templates and enforces their policies.

The stand-in is ministack, started from an environment of its own (`.rehearsal/venv`)
with TLS, with authorization, on 127.0.0.1 and a free port, and with nothing on disk
that outlives it. Accounts need no setting up: twelve digits are one.
"""

from __future__ import annotations

import datetime as dt
import http.client
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from generator.parameters import ENCRYPTOR_TEMPLATE, SHARING_TEMPLATE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROJECT = Path(__file__).parent.parent
ENCRYPTOR = PROJECT / "templates" / ENCRYPTOR_TEMPLATE
SHARING_BUCKET = PROJECT / "templates" / SHARING_TEMPLATE
STAND_IN = PROJECT / ".rehearsal" / "venv" / "bin"
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
    """The rehearsal itself cannot go on; the message is for the person who runs it."""


class CommandError(RehearsalError):
    """A command of the AWS CLI failed; the message is what the CLI said."""


@dataclass(frozen=True)
class Principal:
    """Somebody who may sign requests: the root of an account, or the session of a role."""

    access_key_id: str
    secret_access_key: str
    session_token: str = ""


@dataclass(frozen=True)
class Aws:
    """A running stand-in: where it listens, what to trust, and a folder that goes with it."""

    endpoint: str
    certificate: Path
    home: Path

    def environment(self, principal: Principal, region: str = REGION) -> dict[str, str]:
        """Everything that a process acting for *principal* has in its environment.

        Nothing of the caller's own goes in but PATH: no profile, no credentials, no proxy.
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
        principal: Principal,
        *command: str,
        region: str = REGION,
        directory: Path = PROJECT,
    ) -> str:
        """Run the real AWS CLI as *principal*, in *directory*; its standard output.

        Raises:
            CommandError: the CLI's exit status is not 0.
        """
        result = subprocess.run(
            # Not by its first line, which cannot name a path with a space.
            [STAND_IN / "python", STAND_IN / "aws", *command],
            env=self.environment(principal, region),
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise CommandError(result.stderr.strip() or result.stdout.strip())
        return result.stdout

    def client(self, principal: Principal, service: str, region: str = REGION) -> Any:  # noqa: ANN401 - as boto3's
        """A boto3 client of *principal*, for what no user would type."""
        make: Any = SESSION.client  # typed per service, by literal names only
        return make(
            service,
            region_name=region,
            endpoint_url=self.endpoint,
            verify=str(self.certificate),
            aws_access_key_id=principal.access_key_id,
            aws_secret_access_key=principal.secret_access_key,
            aws_session_token=principal.session_token or None,
        )

    def act_as(self, owner: Principal, role_arn: str) -> Principal:
        """Assume a role of *owner*'s account, whomever it trusts.

        A role that trusts CodeBuild alone cannot be assumed by hand, so its trust policy
        is replaced for the moment that it takes.
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
        return Principal(
            session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"]
        )

    def deploy(
        self,
        principal: Principal,
        stack: str,
        template: Path,
        parameters: Mapping[str, str],
        *,
        region: str = REGION,
    ) -> dict[str, str]:
        """Create or update *stack* with `aws cloudformation deploy`; its outputs.

        Raises:
            CommandError: CloudFormation refuses, or the stack rolls back.
        """
        self.run(principal, *deployment(stack, template, parameters), region=region)
        stacks = self.client(principal, "cloudformation", region).describe_stacks(StackName=stack)
        return {
            output["OutputKey"]: output["OutputValue"]
            for output in stacks["Stacks"][0].get("Outputs", ())
        }


def deployment(stack: str, template: Path, parameters: Mapping[str, str]) -> tuple[str, ...]:
    """The AWS CLI's arguments that deploy *template*, as a user would type them."""
    return (
        *("cloudformation", "deploy", "--stack-name", stack, "--template-file", str(template)),
        *("--capabilities", "CAPABILITY_IAM", "--no-fail-on-empty-changeset"),
        *("--parameter-overrides", *(f"{name}={value}" for name, value in parameters.items())),
    )


def account_root(account: str) -> Principal:
    """The root of *account* (12 digits), whom the stand-in refuses nothing."""
    return Principal(account, "test")


@contextmanager
def stand_in() -> Iterator[Aws]:
    """AWS until the end of the block.

    Raises:
        RehearsalError: it is not installed, or does not start.
    """
    if not (STAND_IN / "hypercorn").exists():
        raise RehearsalError(f"{STAND_IN} has no stand-in for AWS: `make demo` installs it")
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
    """Start the stand-in on a socket that already listens, so that no port is guessed.

    Its own command would bind port 443 as well where it may; its web server does not.
    """
    command: list[str | Path] = [
        *(
            STAND_IN / "python",
            STAND_IN / "hypercorn",
            "--workers",
            "0",
            "--bind",
            f"fd://{listener.fileno()}",
        ),
        *("--certfile", certificate, "--keyfile", key, "rehearsal.corrected:app"),
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
            stdin=subprocess.PIPE,  # never written to: the stand-in ends when it closes
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _log(home: Path) -> Path:
    return home / "stand-in.log"


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
        raise RehearsalError(f"the stand-in for AWS does not start: {error}\n{log}") from error
    finally:
        connection.close()


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the stand-in and whatever it started: its own process group."""
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
    """Make a certificate for 127.0.0.1 and its key, good for a day: paths of both."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rehearsal")])
    now = dt.datetime.now(dt.UTC)
    hosts = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = folder / "stand-in.pem", folder / "stand-in.key"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.touch(mode=0o600)
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_path, key_path
