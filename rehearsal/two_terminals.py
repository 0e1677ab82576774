"""An enclave to talk to from a second terminal: `.venv/bin/python -m rehearsal.two_terminals`.

It deploys the owner's stack to the emulator, encrypts an application, starts the enclave's server
and prints what to type in a second terminal. Ctrl-C ends it and removes everything.
"""

from __future__ import annotations

import shlex
import signal
import sys
import tempfile
from pathlib import Path

from rehearsal.aws import ENCRYPTOR, PROJECT, Aws, RehearsalError, account_root, emulator
from rehearsal.enclave import security_module, served
from rehearsal.scenario import (
    FIRST,
    PARENT_ROLE,
    SCRIPT,
    Scenario,
    create_role,
    encrypt,
    set_up,
)

OWNER, HOST, STRANGER = "111111111111", "222222222222", "333333333333"
PROFILE = "parent"
APPLICATION = """\
import os, pathlib, sys
print("Hello from the enclave", *sys.argv[1:])
for file in sorted(pathlib.Path(os.environ["ENCLAVE_INPUT"]).rglob("*")):
    print("input:", file.name)
    result = pathlib.Path(os.environ["ENCLAVE_OUTPUT"], file.name)
    result.write_text(f"{file.stat().st_size} bytes\\n")
"""
"""Says hello, and leaves a result for each file of the input."""


def prepare(aws: Aws, folder: Path) -> dict[str, str]:
    """Deploy the stack, encrypt `APPLICATION` into *folder*, and return the stack's outputs."""
    create_role(aws, HOST, PARENT_ROLE)
    parameters = {
        "CodeCommitRepositoryName": "repository",
        "ApplicationCodeDirectoryName": "application",
        "ExternalBucketName": "bucket-of-the-host",
        "ExternalBucketEncryptionKeyArn": (
            f"arn:aws:kms:eu-central-1:{HOST}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
        ),
        "ExternalBucketAWSAccountNumber": HOST,
        "EnclaveImageSha384": FIRST,
    }
    owner = account_root(OWNER)
    outputs = aws.deploy(owner, "enclave", ENCRYPTOR, parameters)
    code = folder / "application"
    code.mkdir()
    (code / SCRIPT).write_text(APPLICATION)
    artifact = folder / "application_code.zip.encrypted"
    encrypt(aws, owner, code, outputs["EnclaveKeyARN"], artifact)
    return outputs


def credentials(scenario: Scenario, folder: Path) -> Path:
    """Write the parent role's credentials into a file of the AWS CLI's format."""
    parent = scenario.parent
    file = folder / "credentials"
    file.touch(mode=0o600)
    file.write_text(
        f"[{PROFILE}]\naws_access_key_id = {parent.access_key_id}\n"
        f"aws_secret_access_key = {parent.secret_access_key}\n"
        f"aws_session_token = {parent.session_token}\n"
    )
    return file


def main() -> int:
    """Run until a signal ends it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with emulator() as aws, tempfile.TemporaryDirectory(prefix="terminals-") as name:
            folder = Path(name)
            outputs = prepare(aws, folder)
            artifact = folder / "application_code.zip.encrypted"
            with (
                set_up(
                    *(aws, (OWNER, HOST, STRANGER)),
                    stack="enclave",
                    key=outputs["EnclaveKeyARN"],
                    artifact=artifact,
                    parent_policy=outputs["ParentRolePolicy"],
                ) as scenario,
                served(scenario, security_module(scenario)) as address,
            ):
                command = [
                    *(".venv/bin/python", "enclave/client.py", "run", "--address", address),
                    *("--profile", PROFILE, "-f", str(artifact)),
                    *(
                        "--input",
                        "docs",
                        "--output",
                        str(folder / "results"),
                        "--",
                        SCRIPT,
                        "a",
                        "b",
                    ),
                ]
                print("The enclave is running. In a second terminal, type:\n")
                print(f"cd {shlex.quote(str(PROJECT))}")
                print(f"export AWS_SHARED_CREDENTIALS_FILE={credentials(scenario, folder)}")
                print(shlex.join(command))
                print(
                    "\nThe results are in the directory after --output; each run needs a new one."
                )
                print("Ctrl-C here ends the enclave and removes all of this.", flush=True)
                signal.pause()
    except RehearsalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
