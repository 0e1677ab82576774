"""Who can decrypt an artifact, who cannot, and why: a table, and how each row is tried.

Every row is really tried: the client sends an artifact to the enclave's server, which asks KMS
itself or through kmstool; a security module attests the key of the caller, and KMS decides by the
policies that are deployed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from botocore.exceptions import ClientError

from rehearsal.aws import RehearsalError
from rehearsal.cms import WrongKeyError, unwrap
from rehearsal.enclave import (
    altered,
    expired,
    foreign,
    forged,
    new_key,
    public,
    replayed,
    run_in_enclave,
    security_module,
)
from rehearsal.scenario import DEBUG, SECOND, Scenario, parts, pcr0

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehearsal.aws import Credentials
    from rehearsal.enclave import Attest

Attempt: TypeAlias = Callable[[Scenario], tuple[bool, str]]
"""Try to get at the code. Return whether it worked, and what it said or why KMS refused."""


@dataclass(frozen=True)
class Row:
    """Somebody tries something.

    ``decrypts`` says whether it works, ``reason`` is part of what the attempt returns. Before it,
    the owner runs ``bind_enclave_image.py`` with the arguments ``bind``, if there are any.
    """

    who: str
    what: str
    decrypts: bool
    reason: str
    attempt: Attempt
    bind: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """The outcome of a row."""

    row: Row
    decrypted: bool
    reason: str

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is the row's, and for the row's reason."""
        return self.decrypted is self.row.decrypts and self.row.reason in self.reason


def try_row(row: Row, scenario: Scenario) -> Outcome:
    """Try *row*, after those above it in the table."""
    if row.bind:
        scenario.bind(*row.bind)
    return Outcome(row, *row.attempt(scenario))


def rows(script: str) -> Iterator[Row]:
    """Yield the table in the order in which its rows are tried; `FIRST` is bound when it begins.

    Args:
        script: something that the artifact's `SCRIPT` prints.
    """
    host, deny = "the host", "DenyDecryptUnlessAttested"
    yield _denied(host, "asks without attestation", deny, _asks("parent"))
    yield _decrypts(host, "runs the bound image", script, _runs(security_module))
    yield _denied(host, "runs another image", deny, _runs(_image(pcr0("another image"))))
    yield _denied(host, "runs the bound image in debug mode", deny, _runs(_image(DEBUG)))
    yield _denied(host, "forges a signature", "signature is wrong", _runs(forged))
    yield _denied(host, "attests with its own root", "not the one trusted", _runs(foreign))
    yield _denied(host, "signs with an expired certificate", "not valid", _runs(expired))
    yield _denied(host, "replays an old document", "not fresh", _runs(replayed))
    yield _denied(host, "replaces the key in a document", "signature is wrong", _runs(altered))
    yield _denied(host, "overhears another's answer", "not encrypted for this key", _overhears)
    yield _denied(host, "sends its own code", "IncorrectKeyException", _runs_the_hosts_code)
    yield _denied("somebody else", "runs the bound image", "no statement", _runs_as("third_party"))
    yield _denied("the owner's administrator", "asks", deny, _asks("administrator"))
    yield _decrypts(host, "runs the second image", script, _runs(_image(SECOND)), ("add", SECOND))
    yield _decrypts(host, "still runs the first image", script, _runs(security_module))
    yield _denied(host, "runs the first image", deny, _runs(security_module), ("promote", SECOND))
    yield _decrypts(host, "runs the second image", script, _runs(_image(SECOND)))


def _decrypts(who: str, what: str, says: str, attempt: Attempt, bind: tuple[str, ...] = ()) -> Row:
    return Row(who, what, decrypts=True, reason=says, attempt=attempt, bind=bind)


def _denied(who: str, what: str, why: str, attempt: Attempt, bind: tuple[str, ...] = ()) -> Row:
    return Row(who, what, decrypts=False, reason=why, attempt=attempt, bind=bind)


def _image(image: str) -> Callable[[Scenario], Attest]:
    return lambda scenario: security_module(scenario, image)


def _runs(module: Callable[[Scenario], Attest]) -> Attempt:
    return lambda scenario: _run(scenario, module(scenario))


def _runs_as(who: str) -> Attempt:
    return lambda scenario: _run(scenario, security_module(scenario), who=getattr(scenario, who))


def _runs_the_hosts_code(scenario: Scenario) -> tuple[bool, str]:
    return _run(scenario, security_module(scenario), artifact=scenario.artifact_of_the_host)


def _run(scenario: Scenario, attest: Attest, **others: Any) -> tuple[bool, str]:  # noqa: ANN401
    asked = len(scenario.service.kms.trail)
    result = run_in_enclave(scenario, attest, **others)
    if result.returncode == 0:
        return True, result.stdout.strip()
    if not (result.stderr.startswith("error: ") and result.stderr.count("\n") == 1):
        raise RehearsalError(f"the client's refusal is not one line: {result.stderr}")
    for event in scenario.service.kms.trail[asked:]:
        if scenario.attest == "nsm" and f": KMS refused: {event.error}: " not in result.stderr:
            raise RehearsalError(f"the client's refusal lacks KMS's own reason: {result.stderr}")
        return False, f"{event.error}: {event.reason}"
    return False, result.stderr.strip()  # KMS was never asked


def _asks(who: str) -> Attempt:
    """Ask KMS as any client does; its answer is the data key itself."""

    def attempt(scenario: Scenario) -> tuple[bool, str]:
        try:
            _decrypt(scenario, getattr(scenario, who))
        except ClientError as error:
            code = error.response["Error"]["Code"]
            return False, f"{code}: {scenario.service.kms.trail[-1].reason}"
        return True, "the data key"

    return attempt


def _overhears(scenario: Scenario) -> tuple[bool, str]:
    """Have KMS answer the holder of one key, and try to read the answer with another."""
    holder, eavesdropper = new_key(), new_key()
    document = security_module(scenario)(public(holder))
    recipient = {
        "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
        "AttestationDocument": document,
    }
    envelope = _decrypt(scenario, scenario.parent, Recipient=recipient)["CiphertextForRecipient"]
    unwrap(envelope, holder)  # the holder can
    try:
        unwrap(envelope, eavesdropper)
    except WrongKeyError as error:
        return False, f"answered, but {error}"
    return True, "the data key"


def _decrypt(scenario: Scenario, who: Credentials, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401
    """Call Decrypt with boto3, for the data key in the artifact's header."""
    blob, _ = parts(scenario.artifact.read_bytes())
    kms = scenario.service.aws.client(who, "kms")
    answer: dict[str, Any] = kms.decrypt(CiphertextBlob=blob, KeyId=scenario.key, **parameters)
    return answer
