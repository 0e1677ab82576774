"""The enclave's side, played: who opens an artifact, who does not, and for which reason.

`rows` is the table, `play` tries one row of it for real: the client sends an artifact to the
enclave's server, that calls kmstool, kmstool has a security module attest its key, and KMS decides
by the policies that are deployed.
"""

from __future__ import annotations

import contextlib
import json
import os
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha384
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import cbor2
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rehearsal.attestation import PCR_LENGTH, Authority
from rehearsal.aws import PROJECT, Principal, RehearsalError, account_root
from rehearsal.cms import WrongKeyError, unwrap
from rehearsal.kms import Kms
from rehearsal.service import Service, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehearsal.aws import Aws

ENCRYPTOR: Final = PROJECT / "encryption" / "envelope_encryptor.py"
SERVER: Final = PROJECT / "enclave" / "server.py"
CLIENT: Final = PROJECT / "enclave" / "client.py"
BINDER: Final = PROJECT / "scripts" / "bind_enclave_image.py"
KMSTOOL: Final = PROJECT / "rehearsal" / "kmstool_enclave_cli"
SCRIPT: Final = "print-hello.py"
PARENT_ROLE: Final = "EnclaveParent"

Attest: TypeAlias = Callable[[bytes], bytes]
"""What an enclave takes for its security module: a DER public key in, a document out."""


def pcr0(image: str) -> str:
    """Measure an image of the rehearsal: 96 hexadecimal digits, a different 96 for each name."""
    return sha384(image.encode()).hexdigest()


FIRST: Final = pcr0("first image")
SECOND: Final = pcr0("second image")
DEBUG: Final = bytes(PCR_LENGTH).hex()


@dataclass(frozen=True)
class Stage:
    """All that the table needs, in three accounts: the owner's, the host's and somebody else's.

    ``folder`` is the host's disk, as far as the rehearsal writes to it.
    """

    service: Service
    authority: Authority
    folder: Path
    owner: str
    stack: str
    key: str
    artifact: Path
    artifact_of_the_host: Path
    parent: Principal
    administrator: Principal
    third_party: Principal

    def bind(self, *command: str) -> str:
        """Run ``bind_enclave_image.py`` on the owner's stack; return what it prints.

        Raises:
            RehearsalError: it refused.
        """
        result = subprocess.run(
            [sys.executable, BINDER, "--stack-name", self.stack, *command, "--yes"],
            env=self.service.kms.stand_in.environment(account_root(self.owner)),
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise RehearsalError(result.stderr.strip())
        return result.stdout


@contextlib.contextmanager
def stage(  # noqa: PLR0913
    aws: Aws,
    accounts: tuple[str, str, str],
    *,
    stack: str,
    key: str,
    artifact: Path,
    parent_policy: str,
) -> Iterator[Stage]:
    """Set the stage around what an owner has deployed.

    Args:
        aws: the stand-in.
        accounts: of owner, host and somebody else.
        stack: the owner's stack; its ``EnclaveImageSha384`` should be `FIRST`.
        key: its output ``EnclaveKeyARN``.
        artifact: encrypted under that key; contains `SCRIPT`.
        parent_policy: its output ``ParentRolePolicy``.
    """
    owner, host, third = accounts
    authority = Authority(_now() - timedelta(days=1))
    any_key = _allow_decrypt("*")
    with (
        contextlib.closing(Kms(aws, authority.root, accounts)) as kms,
        tempfile.TemporaryDirectory(prefix="host-") as name,
        serve(kms, Path(name)) as service,
    ):
        yield Stage(
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


def _become(kms: Kms, account: str, name: str, policy: str) -> Principal:
    arn = create_role(kms.stand_in, account, name)
    root = account_root(account)
    kms.stand_in.client(root, "iam").put_role_policy(
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


def encrypt(aws: Aws, who: Principal, code: Path, key: str, artifact: Path) -> None:
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


# --- Enclaves ---------------------------------------------------------------------------------


@contextlib.contextmanager
def device(attest: Attest) -> Iterator[Path]:
    """Put *attest* behind a Unix socket: what an enclave has in the place of ``/dev/nsm``."""

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
def served(stage: Stage, attest: Attest, **kmstool: str) -> Iterator[str]:
    """Start an enclave: the server as the image's entry point starts it, the key's ARN pinned.

    Args:
        stage: where.
        attest: the enclave's security module.
        kmstool: settings of the rehearsal's kmstool, ``KMSTOOL_CONTRACT="0.3.0"`` for instance.

    Returns:
        The server's address, a Unix socket in the place of vsock.

    Raises:
        RehearsalError: it does not start.
    """
    with device(attest) as module, tempfile.TemporaryDirectory(prefix="vsock-") as folder:
        address = f"unix:{folder}/6000"
        command: list[str | Path] = [
            *(sys.executable, SERVER, "--listen", address, "--key-id", stage.key),
            *("--kmstool", KMSTOOL, "--proxy-port", str(stage.service.port)),
        ]
        environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "KMSTOOL_MODULE": str(module),
            "KMSTOOL_PYTHON": sys.executable,
            "SSL_CERT_FILE": str(stage.service.trust),
        }
        with subprocess.Popen(
            command,
            env=environment | kmstool,
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


def run_in_enclave(
    stage: Stage,
    attest: Attest,
    *,
    who: Principal | None = None,
    artifact: Path | None = None,
    contract: str = "0.4.4",
) -> subprocess.CompletedProcess[str]:
    """Start an enclave and have the client run the artifact's `SCRIPT` in it.

    Args:
        stage: where.
        attest: the enclave's security module.
        who: whose credentials the enclave is given; the parent's unless said.
        artifact: another one than the owner's.
        contract: kmstool's version.
    """
    with served(stage, attest, KMSTOOL_CONTRACT=contract) as address:
        command: list[str | Path] = [
            *(sys.executable, CLIENT, "run", "--address", address),
            *("-f", artifact or stage.artifact, "--", SCRIPT),
        ]
        return subprocess.run(
            command,
            env=stage.service.aws.environment(who or stage.parent),
            cwd=stage.folder,
            capture_output=True,
            text=True,
            check=False,
        )


def enclave(stage: Stage, image: str = FIRST) -> Attest:
    """Start an enclave from the image of that PCR0; return its security module."""
    module = stage.authority.module({0: bytes.fromhex(image)}, _now())
    return lambda key: module.attest(_now(), key)


def _forged(stage: Stage) -> Attest:
    genuine = enclave(stage)

    def attest(key: bytes) -> bytes:
        document = bytearray(genuine(key))
        document[-1] ^= 1  # the signature stands at the end
        return bytes(document)

    return attest


def _altered(stage: Stage) -> Attest:
    genuine = enclave(stage)

    def attest(key: bytes) -> bytes:
        protected, unprotected, payload, signature = cbor2.loads(genuine(_public(_new_key())))
        altered = cbor2.dumps(cbor2.loads(payload) | {"public_key": key})
        return cbor2.dumps([protected, unprotected, altered, signature])

    return attest


def _foreign(_: Stage) -> Attest:
    module = Authority(_now()).module({0: bytes.fromhex(FIRST)}, _now())
    return lambda key: module.attest(_now(), key)


def _expired(stage: Stage) -> Attest:
    module = stage.authority.module({0: bytes.fromhex(FIRST)}, _now() - timedelta(hours=4))
    return lambda key: module.attest(_now(), key)


def _replayed(stage: Stage) -> Attest:
    module = stage.authority.module({0: bytes.fromhex(FIRST)}, _now() - timedelta(hours=1))
    return lambda key: module.attest(_now() - timedelta(minutes=10), key)


def _now() -> datetime:
    return datetime.now(UTC)


def _new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _public(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# --- The table --------------------------------------------------------------------------------

Attempt: TypeAlias = Callable[[Stage], tuple[bool, str]]
"""Try to get at the code. Return whether it worked, and what it said or why KMS refused."""


@dataclass(frozen=True)
class Row:
    """Somebody tries something.

    ``opens`` says whether it works, ``reason`` stands in what the attempt returns. Before it,
    the owner runs ``bind_enclave_image.py`` with the arguments ``bind``, if there are any.
    """

    who: str
    what: str
    opens: bool
    reason: str
    attempt: Attempt
    bind: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a row."""

    row: Row
    opened: bool
    reason: str

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is the row's, and for the row's reason."""
        return self.opened is self.row.opens and self.row.reason in self.reason


def play(row: Row, stage: Stage) -> Outcome:
    """Try *row*, after those that stand before it in the table."""
    if row.bind:
        stage.bind(*row.bind)
    return Outcome(row, *row.attempt(stage))


def rows(script: str) -> Iterator[Row]:
    """Yield the table in the order in which it must be played; `FIRST` is bound when it begins.

    Args:
        script: something that the artifact's `SCRIPT` prints.
    """
    host, deny = "the host", "DenyDecryptUnlessAttested"
    yield _denied(host, "asks without attestation", deny, _asks("parent"))
    yield _opens(host, "runs the bound image", script, _runs(enclave))
    yield _denied(host, "runs another image", deny, _runs(_image(pcr0("another image"))))
    yield _denied(host, "runs the bound image in debug mode", deny, _runs(_image(DEBUG)))
    yield _denied(host, "forges a signature", "signature is wrong", _runs(_forged))
    yield _denied(host, "brings a root of its own", "not the one trusted", _runs(_foreign))
    yield _denied(host, "signs with an expired certificate", "not valid", _runs(_expired))
    yield _denied(host, "replays an old document", "not fresh", _runs(_replayed))
    yield _denied(host, "puts its own key into a document", "signature is wrong", _runs(_altered))
    yield _denied(host, "overhears another's answer", "does not open with this key", _overhears)
    yield _denied(host, "feeds code of its own", "IncorrectKeyException", _runs_the_hosts_code)
    yield _denied("somebody else", "runs the bound image", "no statement", _runs_as("third_party"))
    yield _denied("the owner's administrator", "asks", deny, _asks("administrator"))
    yield _opens(host, "runs the second image", script, _runs(_image(SECOND)), ("add", SECOND))
    yield _opens(host, "still runs the first image", script, _runs(enclave))
    yield _denied(host, "runs the first image", deny, _runs(enclave), ("promote", SECOND))
    yield _opens(host, "runs the second image", script, _runs(_image(SECOND)))


def in_the_clear(folder: Path, marker: bytes) -> list[Path]:
    """Return the files below *folder* in which *marker* can be read."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in files if marker in path.read_bytes()]


def _opens(who: str, what: str, says: str, attempt: Attempt, bind: tuple[str, ...] = ()) -> Row:
    return Row(who, what, opens=True, reason=says, attempt=attempt, bind=bind)


def _denied(who: str, what: str, why: str, attempt: Attempt, bind: tuple[str, ...] = ()) -> Row:
    return Row(who, what, opens=False, reason=why, attempt=attempt, bind=bind)


def _image(image: str) -> Callable[[Stage], Attest]:
    return lambda stage: enclave(stage, image)


def _runs(module: Callable[[Stage], Attest]) -> Attempt:
    return lambda stage: _run(stage, module(stage))


def _runs_as(who: str) -> Attempt:
    return lambda stage: _run(stage, enclave(stage), who=getattr(stage, who))


def _runs_the_hosts_code(stage: Stage) -> tuple[bool, str]:
    return _run(stage, enclave(stage), artifact=stage.artifact_of_the_host)


def _run(stage: Stage, attest: Attest, **others: Any) -> tuple[bool, str]:  # noqa: ANN401
    asked = len(stage.service.kms.trail)
    result = run_in_enclave(stage, attest, **others)
    if result.returncode == 0:
        return True, result.stdout.strip()
    if not (result.stderr.startswith("error: ") and result.stderr.count("\n") == 1):
        raise RehearsalError(f"the client's refusal is not one line: {result.stderr}")
    for event in stage.service.kms.trail[asked:]:
        return False, f"{event.error}: {event.reason}"
    return False, result.stderr.strip()  # KMS was never asked


def _asks(who: str) -> Attempt:
    """Ask KMS as any client does; what it answers is the data key itself."""

    def attempt(stage: Stage) -> tuple[bool, str]:
        try:
            _decrypt(stage, getattr(stage, who))
        except ClientError as error:
            return False, f"{error.response['Error']['Code']}: {stage.service.kms.trail[-1].reason}"
        return True, "the data key"

    return attempt


def _overhears(stage: Stage) -> tuple[bool, str]:
    """Have KMS answer the holder of one key, and read along with another."""
    holder, eavesdropper = _new_key(), _new_key()
    document = enclave(stage)(_public(holder))
    recipient = {
        "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
        "AttestationDocument": document,
    }
    envelope = _decrypt(stage, stage.parent, Recipient=recipient)["CiphertextForRecipient"]
    unwrap(envelope, holder)  # the holder can
    try:
        unwrap(envelope, eavesdropper)
    except WrongKeyError as error:
        return False, f"answered, but {error}"
    return True, "the data key"


def _decrypt(stage: Stage, who: Principal, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401
    """Call Decrypt with boto3, for the data key in the artifact's header."""
    with stage.artifact.open("rb") as artifact:
        blob = artifact.read(int.from_bytes(artifact.read(4), "big"))
    kms = stage.service.aws.client(who, "kms")
    answer: dict[str, Any] = kms.decrypt(CiphertextBlob=blob, KeyId=stage.key, **parameters)
    return answer
