"""Three accounts and what each of them has: what the tests on enclaves and `make demo` share.

The owner has a stack and an artifact, the host has a parent role and code of its own, and somebody
else has every permission in a third account. KMS decides who gets the data key.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha384
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rehearsal.attestation import PCR_LENGTH, Authority
from rehearsal.aws import PROJECT, Credentials, RehearsalError, account_root
from rehearsal.kms import Kms
from rehearsal.service import Service, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehearsal.aws import Aws

ENCRYPTOR: Final = PROJECT / "encryption" / "envelope_encryptor.py"
BINDER: Final = PROJECT / "scripts" / "bind_enclave_image.py"
SCRIPT: Final = "print-hello.py"
PARENT_ROLE: Final = "EnclaveParent"


def pcr0(image: str) -> str:
    """Measure an image of the rehearsal: 96 hexadecimal digits, a different 96 for each name."""
    return sha384(image.encode()).hexdigest()


FIRST: Final = pcr0("first image")
SECOND: Final = pcr0("second image")
DEBUG: Final = bytes(PCR_LENGTH).hex()


@dataclass(frozen=True)
class Scenario:
    """What the owner, the host and somebody else have, and the services between them.

    ``folder`` is the host's disk, as far as the rehearsal writes to it. ``attest`` is how enclaves
    ask KMS for a data key: ``kmstool`` or ``nsm``, as in the option ``--attest``.
    """

    service: Service
    authority: Authority
    folder: Path
    owner: str
    stack: str
    key: str
    artifact: Path
    artifact_of_the_host: Path
    parent: Credentials
    administrator: Credentials
    third_party: Credentials
    attest: str = "kmstool"

    def bind(self, *command: str) -> str:
        """Run ``bind_enclave_image.py`` on the owner's stack; return what it prints.

        Raises:
            RehearsalError: it refused.
        """
        result = subprocess.run(
            [sys.executable, BINDER, "--stack-name", self.stack, *command, "--yes"],
            env=self.service.kms.emulator.environment(account_root(self.owner)),
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise RehearsalError(result.stderr.strip())
        return result.stdout


@contextlib.contextmanager
def set_up(  # noqa: PLR0913
    aws: Aws,
    accounts: tuple[str, str, str],
    *,
    stack: str,
    key: str,
    artifact: Path,
    parent_policy: str,
    attest: str = "kmstool",
) -> Iterator[Scenario]:
    """Set up what the host and somebody else have, given what an owner has deployed.

    Args:
        aws: the emulator.
        accounts: of owner, host and somebody else.
        stack: the owner's stack; its ``EnclaveImageSha384`` should be `FIRST`.
        key: its output ``EnclaveKeyARN``.
        artifact: encrypted under that key; contains `SCRIPT`.
        parent_policy: its output ``ParentRolePolicy``.
        attest: how enclaves ask KMS for a data key.
    """
    owner, host, third = accounts
    authority = Authority(datetime.now(UTC) - timedelta(days=1))
    any_key = _allow_decrypt("*")
    with (
        contextlib.closing(Kms(aws, authority.root, accounts)) as kms,
        tempfile.TemporaryDirectory(prefix="host-") as name,
        serve(kms, Path(name)) as service,
    ):
        yield Scenario(
            service=service,
            authority=authority,
            folder=Path(name),
            owner=owner,
            stack=stack,
            key=key,
            artifact=artifact,
            artifact_of_the_host=_artifact_of_the_host(aws, host, Path(name)),
            parent=_become(kms, host, PARENT_ROLE, parent_policy),
            administrator=_become(kms, owner, "Administrator", any_key),
            third_party=_become(kms, third, "Curious", any_key),
            attest=attest,
        )


def create_role(aws: Aws, account: str, name: str) -> str:
    """Create a role that its account may assume, if it does not exist; return its ARN."""
    iam = aws.client(account_root(account), "iam")
    trust = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{account}:root"},
        "Action": "sts:AssumeRole",
    }
    with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
        document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)
    arn: str = iam.get_role(RoleName=name)["Role"]["Arn"]
    return arn


def _become(kms: Kms, account: str, name: str, policy: str) -> Credentials:
    arn = create_role(kms.emulator, account, name)
    root = account_root(account)
    kms.emulator.client(root, "iam").put_role_policy(
        RoleName=name, PolicyName="Decrypt", PolicyDocument=policy
    )
    return kms.act_as(root, arn)


def _allow_decrypt(resource: str) -> str:
    statement = {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": resource}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def _artifact_of_the_host(aws: Aws, host: str, folder: Path) -> Path:
    """Encrypt code of the host's own under a key of the host's own."""
    root = account_root(host)
    key = aws.client(root, "kms").create_key()["KeyMetadata"]["Arn"]
    code, artifact = folder / "evil", folder / "evil.zip.encrypted"
    code.mkdir()
    (code / SCRIPT).write_text("print('hello from the host')\n")
    encrypt(aws, root, code, key, artifact)
    return artifact


def encrypt(aws: Aws, who: Credentials, code: Path, key: str, artifact: Path) -> None:
    """Run the project's encryptor as *who*.

    Raises:
        RehearsalError: it failed.
    """
    result = subprocess.run(
        [sys.executable, ENCRYPTOR, "encrypt", "-d", code, "-k", key, "-o", artifact],
        env=aws.environment(who),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise RehearsalError(result.stderr.strip())


def parts(artifact: bytes) -> tuple[bytes, bytes]:
    """Return the encrypted data key and the token of an *artifact*."""
    end = 4 + int.from_bytes(artifact[:4], "big")
    return artifact[4:end], artifact[end:]
