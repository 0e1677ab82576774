"""An artifact from source to enclave, step by step: what `make demo` runs.

Two accounts on an emulator of AWS; the real AWS CLI, the rendered templates, the
project's own buildspec. The exit status is 0 only if every step ended as expected:
many of the later ones must be refused, and for the expected reason.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import pty
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten, wrap
from typing import TYPE_CHECKING

import rich
from cryptography.fernet import Fernet
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rehearsal import attempts, disk, nitro
from rehearsal.aws import (
    ENCRYPTOR,
    PROJECT,
    REGION,
    SHARING_BUCKET,
    TRUST_ANYBODY,
    Aws,
    CommandError,
    Credentials,
    RehearsalError,
    account_root,
    deployment,
    emulator,
)
from rehearsal.build import Build, publish, start_build
from rehearsal.scenario import BINDER, FIRST, SCRIPT, parts, set_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import OverflowMethod
    from rich.status import Status

OWNER, HOST, STRANGER = "111111111111", "222222222222", "333333333333"
ARTIFACT = "application_code.zip.encrypted"
CLASSIC_BUCKET = f"classic-code-bucket-{HOST}"
ADMINISTRATOR = "Administrator"
HELLO = "Hello from the enclave"
PIPE_WIDTH = 160
INDENTATION = " " * 5
SPINNER_WIDTH = 2
WEIGHTS = 1 << 16  # bytes that no compression changes, so that they are in the zip as they are
DECRYPT = ("kms", "decrypt", "--ciphertext-blob", "fileb://data_key.encrypted")
EXPLICIT_DENY = "(AccessDenied)Exception.* with an (explicit deny in a resource-based policy)"
SOMEBODY_ELSES_CODE = Path(rich.__file__).parent


class DemoError(RehearsalError):
    """A step did not end as expected."""


@dataclass
class Stage:
    """Where the steps run, and what earlier ones left for later ones."""

    aws: Aws
    folder: Path
    console: Console
    attest: str = "kmstool"
    status: Status | None = None
    host: Credentials = field(default_factory=lambda: account_root(HOST))
    owner: Credentials = field(default_factory=lambda: account_root(OWNER))
    application: dict[str, str] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    encryptor: dict[str, str] = field(default_factory=dict)
    weights: bytes = field(default_factory=lambda: secrets.token_bytes(WEIGHTS))
    """A file of the application that can be found wherever it is written, even in a zip."""

    @property
    def script(self) -> bytes:
        """What the application runs; its first line can also be found wherever it is written."""
        return f"# {self.weights[:32].hex()}\nprint({HELLO!r})\n".encode()

    @property
    def secrets(self) -> list[bytes]:
        """Parts of the application that must not be readable on the host's disk."""
        return [self.script.splitlines()[0], self.weights[:64], self.weights[-64:]]

    def say(self, result: str) -> None:
        """Print a step's result under its title; a terminal gets lines, in which no word breaks."""
        lines = [result]
        if self.console.is_terminal:
            room = self.console.width - len(INDENTATION)
            lines = wrap(result, room, break_long_words=False, break_on_hyphens=False)
        text = Text("   → " + f"\n{INDENTATION}".join(lines), "green")
        self.console.print(text, overflow="ignore", no_wrap=True, crop=False)

    def show(self, *command: str) -> None:
        """Print a command as a user would type it: all of it in a pipe, what fits on a terminal."""
        typed = shlex.join(command).replace(f"{self.folder}/", "").replace(f"{PROJECT}/", "")
        overflow: OverflowMethod = "ellipsis" if self.console.is_terminal else "ignore"
        line = Text(f"   $ {typed}", "dim")
        self.console.print(line, overflow=overflow, no_wrap=True, crop=self.console.is_terminal)

    def run(self, principal: Credentials, *command: str) -> str:
        """Show a command of the AWS CLI and run it as *principal*."""
        self.show("aws", *command)
        return self.aws.run(principal, *command, directory=self.folder)

    def program(self, principal: Credentials, *command: str) -> str:
        """Show and run a Python program as *principal* on a terminal, and return its output."""
        self.show(".venv/bin/python", *command)
        ours, its = pty.openpty()
        terminal = {"COLUMNS": str(self.console.width), "NO_COLOR": "1"}
        with subprocess.Popen(
            [sys.executable, *command],
            env=self.aws.environment(principal) | terminal,
            cwd=PROJECT,
            stdout=its,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            os.close(its)
            output = _printed(ours)
            errors = process.stderr.read() if process.stderr else ""
        if process.returncode:
            raise DemoError(errors.strip() or output.strip())
        return output

    def refused(self, reason: str, principal: Credentials, *command: str) -> str:
        """Run what must be refused for *reason*, a pattern; return its groups."""
        try:
            self.run(principal, *command)
        except CommandError as error:
            return _found(reason, str(error))
        raise DemoError(f"this was not refused: aws {shlex.join(command)}")

    def deploy(
        self, principal: Credentials, stack: str, template: Path, parameters: dict[str, str]
    ) -> dict[str, str]:
        """Deploy a template with the AWS CLI, and return the stack's outputs."""
        self.show("aws", *deployment(stack, template, parameters))
        return self.aws.deploy(principal, stack, template, parameters)

    def build(self, project: str, **overrides: str) -> Build:
        """Start a build and wait for its end."""
        command = ["aws", "codebuild", "start-build", "--project-name", project]
        if overrides:
            variables = [f"name={name},value={value}" for name, value in overrides.items()]
            command += ["--environment-variables-override", *variables]
        self.show(*command)
        repositories = self.folder / "codecommit"
        return start_build(
            *(self.aws, self.owner, project, repositories),
            overrides=overrides,
            listener=self.show_progress,
        )

    def failed_build(self, reason: str, **overrides: str) -> str:
        """Start a build that must fail for *reason*, a pattern; return its groups."""
        build = self.build(self.encryptor["ProjectName"], **overrides)
        if build.succeeded:
            raise DemoError("this build did not fail")
        return _found(reason, build.log)

    def show_progress(self, line: str) -> None:
        """Show a line of a build's log next to the spinner until the next one comes."""
        if self.status:
            room = self.console.width - SPINNER_WIDTH
            self.status.update(Text(shorten(line, room, placeholder=" …"), "dim"))

    def assume_with_every_permission(self, role: str) -> Credentials:
        """Give *role* of the owner's account every permission there is, and assume it."""
        self.aws.client(self.owner, "iam").attach_role_policy(
            RoleName=role, PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess"
        )
        return self.aws.act_as(self.owner, f"arn:aws:iam::{OWNER}:role/{role}")


def host_deploys_bucket(stage: Stage) -> str:
    """The host deploys a bucket for the code owner's artifacts."""
    parameters = {"ThirdPartyIdentifier": "acme", "ThirdPartyAWSAccountNumber": OWNER}
    stage.shared = stage.deploy(stage.host, "code-of-acme", SHARING_BUCKET, parameters)
    return stage.shared["ExternalBucketName"]


def owner_pushes_code(stage: Stage) -> str:
    """The code owner pushes an application to CodeCommit."""
    repository = stage.folder / "checkout"
    application = repository / "application"
    shutil.copytree(
        *(SOMEBODY_ELSES_CODE, application / SOMEBODY_ELSES_CODE.name),
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (application / SCRIPT).write_bytes(stage.script)
    (application / "weights").write_bytes(stage.weights)
    stage.show("git", "push", "codecommit", "main")
    publish(repository, stage.folder / "codecommit", "enclave-application")
    stage.application = {
        "CodeCommitRepositoryName": "enclave-application",
        "ApplicationCodeDirectoryName": "application",
    }
    count = len(_tree(application))
    return f"{SCRIPT}, weights and the source of {SOMEBODY_ELSES_CODE.name}: {count} files"


def owner_deploys_encryptor(stage: Stage) -> str:
    """The code owner deploys the encryptor, with the host's outputs as parameters."""
    parameters = stage.application | stage.shared
    stage.encryptor = stage.deploy(stage.owner, "encryptor", ENCRYPTOR, parameters)
    return stage.encryptor["EnclaveKeyARN"]


def build_runs(stage: Stage) -> str:
    """A build encrypts the application and uploads it."""
    return _stored(stage.build(stage.encryptor["ProjectName"]))


def host_downloads(stage: Stage) -> str:
    """The host downloads the artifact, which stays encrypted."""
    target = stage.folder / ARTIFACT
    uri = f"s3://{stage.shared['ExternalBucketName']}/encrypted/{ARTIFACT}"
    stage.run(stage.host, "s3", "cp", "--only-show-errors", uri, ARTIFACT)
    data_key, token = parts(target.read_bytes())
    (stage.folder / "data_key.encrypted").write_bytes(data_key)
    return f"{len(data_key)} bytes of encrypted data key, {len(token):,} of Fernet token"


def classic_bucket_takes_it(stage: Stage) -> str:
    """A classic bucket, whose policy requires the ACL, accepts the same upload."""
    here = ("--bucket", CLASSIC_BUCKET)
    location = f"LocationConstraint={REGION}"
    ownership = "Rules=[{ObjectOwnership=BucketOwnerPreferred}]"
    for command, option, value in (
        ("create-bucket", "--create-bucket-configuration", location),
        ("put-bucket-ownership-controls", "--ownership-controls", ownership),
        ("put-bucket-policy", "--policy", json.dumps(CLASSIC_POLICY)),
    ):
        stage.aws.run(stage.host, "s3api", command, *here, option, value)
    different = {
        "ExternalBucketName": CLASSIC_BUCKET,
        "EncryptionKeyAlias": "alias/enclavekey-classic",
    }
    parameters = stage.application | stage.shared | different
    outputs = stage.deploy(stage.owner, "encryptor-classic", ENCRYPTOR, parameters)
    return _stored(stage.build(outputs["ProjectName"]))


def build_role_cannot_decrypt(stage: Stage) -> str:
    """The build's role, given every permission, decrypts without attestation: refused."""
    projects = stage.aws.client(stage.owner, "codebuild").batch_get_projects(
        names=[stage.encryptor["ProjectName"]]
    )
    role = stage.assume_with_every_permission(
        projects["projects"][0]["serviceRole"].rsplit("/", 1)[1]
    )
    return stage.refused(EXPLICIT_DENY, role, *DECRYPT)


def administrator_cannot_decrypt(stage: Stage) -> str:
    """The owner's administrator decrypts without attestation: refused."""
    stage.aws.client(stage.owner, "iam").create_role(
        RoleName=ADMINISTRATOR, AssumeRolePolicyDocument=TRUST_ANYBODY
    )
    return stage.refused(EXPLICIT_DENY, stage.assume_with_every_permission(ADMINISTRATOR), *DECRYPT)


def zeros_are_refused(stage: Stage) -> str:
    """A deployment binds the PCR0 of a debug enclave, all zeros: refused."""
    parameters = stage.application | stage.shared | {"EnclaveImageSha384": "0" * 96}
    command = deployment("encryptor", ENCRYPTOR, parameters)
    return stage.refused("(Parameter 'EnclaveImageSha384') (must be .*)", stage.owner, *command)


def wrong_bucket_owner_is_refused(stage: Stage) -> str:
    """A build whose bucket belongs to another account than expected: fails."""
    return stage.failed_build(r"(AccessDenied)\).* (PutObject)", EXTERNAL_BUCKET_ACCOUNT=STRANGER)


def missing_directory_fails(stage: Stage) -> str:
    """A build of a directory that does not exist: fails."""
    return stage.failed_build(
        "error: (aplication: not in the repository): correct", APPLICATION_DIRECTORY="aplication"
    )


def break_glass(stage: Stage) -> str:
    """The administrator rewrites the key policy, which CloudTrail records: now it decrypts."""
    administrator = stage.assume_with_every_permission(ADMINISTRATOR)
    key = stage.encryptor["EnclaveKeyARN"]
    policy = {"Version": "2012-10-17", "Statement": [_allow(OWNER, "kms:*")]}
    stage.run(
        *(administrator, "kms", "put-key-policy", "--key-id", key),
        *("--policy-name", "default", "--policy", json.dumps(policy)),
    )
    data_key = json.loads(stage.run(administrator, *DECRYPT))["Plaintext"]
    _, token = parts((stage.folder / ARTIFACT).read_bytes())
    token_key = base64.urlsafe_b64encode(base64.b64decode(data_key))
    archive = zipfile.ZipFile(io.BytesIO(Fernet(token_key).decrypt(token)))
    contents = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    if contents != _tree(stage.folder / "checkout" / "application"):
        raise DemoError("the artifact does not hold the application")
    return f"Fernet and unzip give back all {len(contents)} files"


def owner_binds_image(stage: Stage) -> str:
    """The owner binds an enclave image; the stack update restores the template's policy."""
    command = [BINDER, "--stack-name", "encryptor", "add", FIRST, "--yes"]
    stage.program(stage.owner, *map(str, command))
    return f"PCR0 {FIRST[:16]}… may decrypt"


def who_can_decrypt(stage: Stage) -> str:
    """Explain reads from the live key who can decrypt now."""
    key = stage.encryptor["EnclaveKeyARN"]
    explained = stage.program(stage.owner, "-m", "generator", "explain", "--key", key)
    stage.console.print(Text(explained.rstrip()), soft_wrap=True)
    return explained.splitlines()[1]


def enclave_decrypts(stage: Stage) -> str:
    """The host's enclave decrypts the artifact; everything else is refused, for its own reason."""
    table = Table("attempt", "result", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("reason", overflow="fold")
    with (
        disk.watched(stage.secrets, stage.folder) as findings,
        set_up(
            *(stage.aws, (OWNER, HOST, STRANGER)),
            stack="encryptor",
            key=stage.encryptor["EnclaveKeyARN"],
            artifact=stage.folder / ARTIFACT,
            parent_policy=stage.encryptor["ParentRolePolicy"],
            attest=stage.attest,
        ) as scenario,
    ):
        for row in attempts.rows(HELLO):
            outcome = attempts.try_row(row, scenario)
            if not outcome.as_expected:
                raise DemoError(f"{row.who} {row.what}: {outcome.reason}")
            verdict = Text("decrypts", "green") if outcome.decrypted else Text("denied", "red")
            bound = f", after {row.bind[0]}" if row.bind else ""
            table.add_row(f"{row.who} {row.what}{bound}", verdict, Text(outcome.reason))
            stage.show_progress(row.what)
    if findings.leaks:
        raise DemoError(f"plaintext was written to a disk: {findings.leaks[0]}")
    stage.console.print(table, soft_wrap=False)
    return f"no plaintext was written to a disk: {findings.describe()}"


STEPS: list[Callable[[Stage], str]] = [
    host_deploys_bucket,
    owner_pushes_code,
    owner_deploys_encryptor,
    build_runs,
    host_downloads,
    classic_bucket_takes_it,
    build_role_cannot_decrypt,
    administrator_cannot_decrypt,
    zeros_are_refused,
    wrong_bucket_owner_is_refused,
    missing_directory_fails,
    break_glass,
    owner_binds_image,
    who_can_decrypt,
    enclave_decrypts,
]


def _allow(account: str, *actions: str, **more: object) -> dict[str, object]:
    """Return a statement of a resource's policy that allows *account* the *actions*."""
    principal = {"AWS": f"arn:aws:iam::{account}:root"}
    return {"Effect": "Allow", "Principal": principal, "Action": actions, "Resource": "*", **more}


CLASSIC_POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        _allow(
            *(OWNER, "s3:PutObject", "s3:PutObjectAcl"),
            Resource=f"arn:aws:s3:::{CLASSIC_BUCKET}/*",
            Condition={
                "StringEquals": {
                    "s3:x-amz-acl": "bucket-owner-full-control",
                    "s3:x-amz-server-side-encryption": "aws:kms",
                }
            },
        )
    ],
}


def _stored(build: Build) -> str:
    """Return where a build that must succeed stored the artifact."""
    if not build.succeeded:
        raise DemoError(f"the build failed:\n{build.log}")
    return _found(r"stored: (s3://\S+)", build.log)


def _printed(terminal: int) -> str:
    """Return what is printed on *terminal* until its last writer is gone; close it."""
    printed = b""
    with suppress(OSError), os.fdopen(terminal, "rb", buffering=0) as screen:
        while chunk := screen.read(1 << 16):  # at the end Linux raises EIO
            printed += chunk
    return printed.decode().replace("\r\n", "\n")


def _found(reason: str, text: str) -> str:
    """Return the groups of the pattern *reason*, which *text* must contain."""
    match = re.search(reason, text)
    if not match:
        raise DemoError(f"expected {reason!r}, but got: {text[-1000:]}")
    return ": ".join(match.groups())


def _tree(directory: Path) -> dict[str, bytes]:
    """Return the contents of every file below *directory*."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def run(stage: Stage) -> None:
    """Run every step.

    Raises:
        DemoError: one did not end as expected; the steps after it are not run.
    """
    for number, step in enumerate(STEPS, 1):
        stage.console.print(f"[bold]{number:2} {(step.__doc__ or '').strip()}")
        with stage.console.status("") as status:
            stage.status = status
            result = step(stage)
        stage.say(result)


def _console() -> Console:
    """Standard output: as wide as the terminal, or in a pipe as COLUMNS says."""
    terminal = sys.stdout.isatty()
    width = None if terminal or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(highlight=False, soft_wrap=not terminal, width=width)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rehearsal.demo",
        description="Take an artifact from source to enclave, on an AWS emulator on this machine.",
        epilog="example: .venv/bin/python -m rehearsal.demo --attest nsm",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--attest",
        choices=("kmstool", "nsm"),
        default="kmstool",
        help="how enclaves ask KMS for a data key; nsm needs a C compiler here (%(default)s)",
    )
    return parser


def main() -> int:
    """Run the demo, and return 0 if every step ended as expected."""
    attest = _parser().parse_args().attest
    console = _console()
    complaints = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    begun = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        if attest == "nsm":
            nitro.library()  # what it lacks is said now, not after minutes
        with emulator() as aws, tempfile.TemporaryDirectory(prefix="demo-") as folder:
            run(Stage(aws, Path(folder), console, attest))
    except RehearsalError as error:
        complaints.print(f"error: demo: {error}")
        return 1
    except KeyboardInterrupt:
        complaints.print("error: demo: interrupted: run it again")
        return 130
    console.print(f"{len(STEPS)} steps went as expected, in {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
