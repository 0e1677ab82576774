"""Who can decrypt and who cannot, and which key policies KMS accepts."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cryptography.fernet import Fernet, InvalidToken

from conformance.programs import BINDER, CLIENT, EXTRACTOR, program, verb
from conformance.sources import HELLO, SCRIPT
from conformance.step import (
    DENIED,
    DifferentError,
    SkippedError,
    differ,
    patiently,
    refused,
    said,
    step,
    until,
)
from conformance.steps.builds import artifact
from conformance.steps.objects import roles
from conformance.steps.stacks import owner_stack
from generator.artifact import LENGTH
from generator.errors import GeneratorError
from generator.parameters import ENCLAVE_IMAGES, NO_IMAGE
from generator.services import stacks

if TYPE_CHECKING:
    from conformance.run import Run

MALFORMED: Final = "MalformedPolicyDocumentException"
EXPLICIT_DENY: Final = "explicit deny in a resource-based policy"


def _images(run: Run) -> str | None:
    stack = run.stack(run.owner, run.names.owner_stack)
    bound = stack and stacks.parameters(stack).get(ENCLAVE_IMAGES.name)
    return f"{bound}, bound before" if bound and bound != NO_IMAGE else None


def _data_key(run: Run) -> bytes:
    """Return the artifact's encrypted data key, as its script extracts it."""
    file = run.folder / "data_key.encrypted"
    program(EXTRACTOR, "-f", run.facts["artifact"], "-o", file)
    return file.read_bytes()


def _decrypt(run: Run, role: str) -> bytes:
    """Ask KMS, without attestation, for the artifact's data key."""
    kms = run.roles[role].client("kms")
    answer = kms.decrypt(CiphertextBlob=_data_key(run), KeyId=run.encryptor["EnclaveKeyARN"])
    plaintext: bytes = answer["Plaintext"]
    return plaintext


# --- Enclaves ---------------------------------------------------------------------------------


def _enclave(run: Run) -> str:
    """Have the enclave run the artifact's script, with the parent role's credentials.

    Raises:
        SkippedError: there is no enclave.
        GeneratorError: it was refused.
    """
    if run.enclave is None:
        raise SkippedError(
            "no enclave of an image that pins this key: see docs/conformance.md, --enclave"
        )
    where = () if run.enclave == "running" else ("--address", run.enclave)
    return program(
        *(CLIENT, "run", *where, "-f", run.facts["artifact"], "--", SCRIPT),
        environment=run.roles["parent"].environment,
    ).strip()


@step("the enclave is refused: no image is bound yet", artifact, roles)
def enclave_before_binding(run: Run) -> str:
    """An enclave asks KMS for the data key before its image is bound."""
    if _images(run):
        raise SkippedError("an image is bound already")
    try:
        answer = _enclave(run)
    except GeneratorError as error:
        return str(error)
    raise DifferentError(f"it ran: {answer}")


@step(
    "the live key policy names the image, and `explain` proves that nobody decrypts unattested",
    owner_stack,
    found=_images,
)
def bind(run: Run) -> str:
    """The owner binds an enclave image."""
    program(
        *(BINDER, "--stack-name", run.names.owner_stack, "add", run.image, "--yes"),
        *("--profile", run.owner.profile, "--region", run.region),
    )
    status, found = verb(run.owner, "explain", "--key", run.encryptor["EnclaveKeyARN"])
    bound = run.image in json.dumps(found["images"])
    problems = [] if bound else [f"the live key policy names {found['images'] or 'no image'}"]
    problems += [f"explain says: {found['verdict']}"] if status else []
    differ(problems)
    return f"PCR0 {run.image[:16]}… is bound, {found['verdict']}"


@step("the enclave runs the script: its image is bound", bind, artifact, roles)
def enclave_runs(run: Run) -> str:
    """The same enclave asks KMS for the data key after its image was bound."""
    answer = _enclave(run)
    if run.source.application is not None and HELLO not in answer:
        raise DifferentError(answer)
    return answer


# --- Without attestation ----------------------------------------------------------------------


@step("AccessDeniedException", bind, artifact, roles)
def host_denied(run: Run) -> str:
    """The host's parent role, with the stack's ParentRolePolicy, decrypts unattested."""
    return refused(lambda: _decrypt(run, "parent"), *DENIED)


@step(f"AccessDeniedException, {EXPLICIT_DENY}", bind, artifact, roles)
def administrator_denied(run: Run) -> str:
    """An administrator of the key, with kms:* on it, decrypts unattested."""
    kms, key = run.roles["administrator"].client("kms"), run.encryptor["EnclaveKeyARN"]
    patiently(run, lambda: kms.describe_key(KeyId=key))  # the role may, so its policy is in force
    return refused(lambda: _decrypt(run, "administrator"), *DENIED, because=EXPLICIT_DENY)


@step(
    "both roles decrypt the artifact; with the policy restored, both are denied again",
    *(host_denied, administrator_denied),
)
def policy_rewritten(run: Run) -> str:
    """An administrator removes the Deny from the key's policy, and restores it."""
    kms, key = run.owner.client("kms"), run.encryptor["EnclaveKeyARN"]
    before = kms.get_key_policy(KeyId=key, PolicyName="default")["Policy"]
    policy = json.loads(before)
    kept = [each for each in policy["Statement"] if each["Effect"] != "Deny"]
    kms.put_key_policy(
        KeyId=key, PolicyName="default", Policy=json.dumps(policy | {"Statement": kept})
    )
    asking = ("administrator", "parent")
    try:
        keys = [patiently(run, partial(_decrypt, run, role)) for role in asking]
        opened = _opened(run, keys[0])
    finally:
        kms.put_key_policy(KeyId=key, PolicyName="default", Policy=before)
    problems = [] if keys[0] == keys[1] else ["the two roles got different data keys"]
    wanted = run.source.application
    problems += ["it is not the application"] if wanted is not None and opened != wanted else []
    for role in asking:
        if not until(run, partial(_is_denied, run, role)):
            problems.append(f"{role} still decrypts")
    differ(problems)
    return f"both decrypted, {len(opened)} files; both are denied again"


def _opened(run: Run, data_key: bytes) -> dict[str, bytes]:
    """Decrypt the artifact with the stock Fernet and zipfile classes, and return its files."""
    with run.facts["artifact"].open("rb") as file:
        file.seek(LENGTH + int.from_bytes(file.read(LENGTH), "big"))
        token = file.read()
    try:
        archive = Fernet(base64.urlsafe_b64encode(data_key)).decrypt(token)
    except InvalidToken as error:
        raise DifferentError("the data key does not decrypt the artifact") from error
    packed = zipfile.ZipFile(io.BytesIO(archive))
    return {name: packed.read(name) for name in packed.namelist() if not name.endswith("/")}


def _is_denied(run: Run, role: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        _decrypt(run, role)
    except ClientError as error:
        return said(error).startswith(DENIED) or "denied" in said(error).lower()
    return False


# --- Which policies KMS accepts -----------------------------------------------------------------


def _refused_policy(run: Run, because: str, *others: str) -> str:
    """Give the key a policy that allows everything to *others*, which KMS must refuse *because*.

    If KMS accepts it, the administrator's role restores the previous policy. Each policy that is
    tried allows that role everything, so the key cannot be locked, whatever KMS answers.
    """
    kms, key = run.owner.client("kms"), run.encryptor["EnclaveKeyARN"]
    before = kms.get_key_policy(KeyId=key, PolicyName="default")["Policy"]
    rescuer = run.roles["administrator"]
    statement: Any = {
        "Effect": "Allow",
        "Principal": {"AWS": [rescuer.arn, *others]},
        "Action": "kms:*",
        "Resource": "*",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    taken = False

    def put() -> None:
        nonlocal taken
        kms.put_key_policy(KeyId=key, PolicyName="default", Policy=policy)
        taken = True

    try:
        return refused(put, MALFORMED, because=because)
    finally:
        if taken:
            rescue = rescuer.client("kms").put_key_policy
            patiently(run, lambda: rescue(KeyId=key, PolicyName="default", Policy=before))


@step(f"{MALFORMED}: the caller could not change the policy afterwards", roles)
def lockout(run: Run) -> str:
    """The owner gives the key a policy that no longer lets the owner change it."""
    return _refused_policy(run, "update the key policy")


@step(f"{MALFORMED}: the role does not exist", roles)
def unknown_principal(run: Run) -> str:
    """The owner gives the key a policy that names a role that does not exist."""
    absent = f"arn:{run.host.partition}:iam::{run.host.number}:role/{run.names.prefix}-absent"
    return _refused_policy(run, "invalid principal", run.owner.root, absent)
