"""KMS in front of the emulator's: adds attested requests, and keys of other accounts.

The emulator keeps the keys, their policies and the roles. This service takes over ``Decrypt``:
it verifies who the caller is and what an enclave attests, has `generator.policy.evaluation`
evaluate the policies that are deployed at that moment, and answers as KMS does. It refuses
everything else.

Sources, below https://docs.aws.amazon.com/kms/latest/:
    APIReference/API_Decrypt.html
    developerguide/cryptographic-attestation.html
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from generator.policy.evaluation import Decision, Verdict, evaluate
from generator.policy.request import Attestation, Grant, Kind, Principal, Request
from rehearsal import aws, cms
from rehearsal.attestation import DOCUMENT_MAX, AttestationError, Attested, verify
from rehearsal.signature import SignatureError, signer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from cryptography.x509 import Certificate

ALGORITHM: Final = "SYMMETRIC_DEFAULT"
_KEY_ID_MAX: Final = 2048  # characters of a KeyId, whatever its form
_KEY_ID_LENGTH: Final = 36  # every ciphertext of the emulator begins with a key's id
_ARN_ACCOUNT: Final = 4  # the index of an ARN's account, split at colons
_CIPHERTEXT_MAX: Final = 6144  # bytes
_ANYTHING: Final = {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
_OTHER_KEY: Final = (
    "The key ID in the request does not identify a CMK that can perform this operation."
)
_NO_SUCH_KEY: Final = (
    "The ciphertext refers to a customer master key that does not exist, "
    "does not exist in this region, or you are not allowed to access."
)


class KmsError(Exception):
    """An answer other than the plaintext.

    Attributes:
        code: AWS's name for it.
        reason: why, for whoever runs the rehearsal; the caller gets the message only.
    """

    def __init__(self, code: str, message: str, reason: str = "") -> None:
        """Refuse with *message*, which may hide the *reason*, as KMS's does."""
        super().__init__(message)
        self.code = code
        self.reason = reason or message


@dataclass(frozen=True)
class Event:
    """One line of the trail: who asked for what, and the result.

    ``image`` is the attested PCR0 (hexadecimal), ``error`` empty if the plaintext was handed out.
    """

    caller: str
    key: str
    image: str
    error: str
    reason: str


class Kms:
    """The service of one region, for some accounts."""

    def __init__(
        self,
        emulator: aws.Aws,
        attestation_root: Certificate,
        accounts: Iterable[str],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Serve *accounts* (12 digits), believing enclaves that *attestation_root* certifies."""
        self.region = aws.REGION
        self.trail: list[Event] = []
        self.emulator = emulator
        self._root = attestation_root
        self._now = now
        self._lock = threading.Lock()  # one request at a time, so that the trail is in order
        self._signers: dict[str, aws.Credentials] = {}
        self._callers: dict[str, Principal] = {}
        self._kms: dict[str, Any] = {}
        self._iam: dict[str, Any] = {}
        for account in accounts:
            root = self._signers[account] = aws.account_root(account)
            self._callers[account] = Principal.parse(f"arn:aws:iam::{account}:root")
            self._kms[account] = emulator.client(root, "kms")
            self._iam[account] = emulator.client(root, "iam")

    def act_as(self, owner: aws.Credentials, role_arn: str) -> aws.Credentials:
        """Do what `Aws.act_as` does; only sessions that began here are known here."""
        principal = self.emulator.act_as(owner, role_arn)
        session = self.emulator.client(principal, "sts").get_caller_identity()["Arn"]
        self.know(principal, role_arn, session.rpartition("/")[2])
        return principal

    def know(self, principal: aws.Credentials, role_arn: str, session: str) -> None:
        """Accept the *session* of a role, begun elsewhere, as *principal*."""
        self._signers[principal.access_key_id] = principal
        self._callers[principal.access_key_id] = Principal.session(role_arn, session)

    def close(self) -> None:
        """Close the clients of the emulator, which would wait for them when it is stopped."""
        for client in (*self._kms.values(), *self._iam.values()):
            client.close()

    def answer(self, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
        """Answer one ``POST /``; names of *headers* are in lower case.

        Raises:
            KmsError: the answer is that error.
        """
        with self._lock:
            scope = (self.region, "kms")
            try:
                principal = signer(headers, body, self._signers, scope, self._now())
            except SignatureError as error:
                raise KmsError(error.code, str(error)) from error
            if headers.get("x-amz-target") != "TrentService.Decrypt":
                raise KmsError("UnsupportedOperationException", "only Decrypt is supported here")
            call = _Call(self._callers[principal.access_key_id])
            try:
                answer = self._decrypt(call, _parsed(body))
            except KmsError as error:
                self.trail.append(call.event(error.code, error.reason))
                raise
            self.trail.append(call.event("", call.why))
            return answer

    def _decrypt(self, call: _Call, body: Mapping[str, Any]) -> dict[str, str]:
        if body.get("EncryptionAlgorithm", ALGORITHM) != ALGORITHM:
            raise KmsError("InvalidKeyUsageException", f"only {ALGORITHM} is supported here")
        blob = _blob(body, "CiphertextBlob", _CIPHERTEXT_MAX)
        call.context = body.get("EncryptionContext", {})
        if "Recipient" in body:
            call.attested = self._attested(body["Recipient"])
        encrypted_under = self._arn(blob[:_KEY_ID_LENGTH].decode("ascii", "replace"))
        call.key = self._named_key(body["KeyId"], call) if "KeyId" in body else encrypted_under
        self._authorize(call, named="KeyId" in body)
        if call.key != encrypted_under:
            raise KmsError(
                "IncorrectKeyException",
                _OTHER_KEY,
                f"the ciphertext was made under {encrypted_under or 'no key known here'}",
            )
        plaintext = self._plaintext(call, blob)
        answer = {"KeyId": call.key, "EncryptionAlgorithm": ALGORITHM}
        if call.attested is None:
            return answer | {"Plaintext": base64.b64encode(plaintext).decode()}
        envelope = cms.wrap(plaintext, call.attested.recipient_key())
        return answer | {"CiphertextForRecipient": base64.b64encode(envelope).decode()}

    def _attested(self, recipient: Mapping[str, Any]) -> Attested:
        """Verify the document in *recipient*, and that an answer can be encrypted for its key."""
        if recipient.get("KeyEncryptionAlgorithm") != "RSAES_OAEP_SHA_256":
            raise KmsError(
                "ValidationException", "KeyEncryptionAlgorithm is not RSAES_OAEP_SHA_256"
            )
        document = _blob(recipient, "AttestationDocument", DOCUMENT_MAX)
        try:
            attested = verify(document, self._root, self._now())
            attested.recipient_key()
        except AttestationError as error:
            raise KmsError("ValidationException", f"AttestationDocument: {error}") from error
        return attested

    def _named_key(self, key_id: str, call: _Call) -> str:
        """Find the key that the caller names: by id or alias in its account, by ARN in any."""
        arn = key_id.split(":")
        account = arn[_ARN_ACCOUNT] if len(arn) > _ARN_ACCOUNT else call.caller.account
        if account in self._kms and (found := self._arn(key_id, (account,))):
            return found
        raise KmsError("NotFoundException", f"Key '{key_id}' does not exist")

    def _arn(self, key_id: str, accounts: Sequence[str] = ()) -> str:
        """Return the ARN of the key of that id, alias or ARN; empty if there is none here."""
        for account in accounts or self._kms:
            try:
                arn: str = self._kms[account].describe_key(KeyId=key_id)["KeyMetadata"]["Arn"]
            except self._kms[account].exceptions.NotFoundException:
                continue
            return arn
        return ""

    def _authorize(self, call: _Call, *, named: bool) -> None:
        """Ask the policies that are in force now.

        Raises:
            KmsError: in KMS's words, which say less about a key that the caller did not name.
        """
        if not call.key:
            raise KmsError("AccessDeniedException", _NO_SUCH_KEY)
        owner = self._kms[call.key_account]
        key_policy = owner.get_key_policy(KeyId=call.key, PolicyName="default")["Policy"]
        grants = [
            Grant(grant["GranteePrincipal"], grant["Operations"], grant.get("Constraints", {}))
            for grant in owner.list_grants(KeyId=call.key)["Grants"]
        ]

        def decide(identity_policies: Sequence[Mapping[str, Any]]) -> Decision:
            return evaluate(call.request, json.loads(key_policy), identity_policies, grants)

        decision = decide(list(self._identity_policies(call.caller)))
        call.why = decision.reason
        if decision.verdict is not Verdict.ALLOWED:
            message = (
                f"User: {call.caller.names[-1]} is not authorized to perform: kms:Decrypt "
                f"on resource: {call.key} {_cause(decision, decide([_ANYTHING]))}"
            )
            raise KmsError(
                "AccessDeniedException", message if named else _NO_SUCH_KEY, decision.reason
            )

    def _identity_policies(self, caller: Principal) -> Iterator[Mapping[str, Any]]:
        """Read the policies of the caller's role, inline ones first."""
        if caller.kind is Kind.ROOT:
            return
        iam, role = self._iam[caller.account], caller.names[0].rpartition("/")[2]
        for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
            yield iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        for policy in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
            arn = policy["PolicyArn"]
            version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
            attached = iam.get_policy_version(PolicyArn=arn, VersionId=version)
            yield attached["PolicyVersion"]["Document"]

    def _plaintext(self, call: _Call, blob: bytes) -> bytes:
        try:
            answer = self._kms[call.key_account].decrypt(
                CiphertextBlob=blob, KeyId=call.key, EncryptionContext=call.context
            )
        except ClientError as error:
            details = error.response["Error"]
            raise KmsError(details["Code"], details["Message"]) from error
        plaintext: bytes = answer["Plaintext"]
        return plaintext


@dataclass
class _Call:
    """What is known of a request so far."""

    caller: Principal
    attested: Attested | None = None
    key: str = ""
    context: Mapping[str, str] = field(default_factory=dict)
    why: str = ""

    @property
    def key_account(self) -> str:
        return self.key.split(":")[_ARN_ACCOUNT]

    @property
    def attestation(self) -> Attestation | None:
        if self.attested is None:
            return None
        return Attestation({index: pcr.hex() for index, pcr in self.attested.pcrs.items()})

    @property
    def request(self) -> Request:
        context = {"aws:SourceIp": "127.0.0.1", "kms:EncryptionAlgorithm": ALGORITHM}
        return Request(
            "kms:Decrypt",
            self.caller,
            key_account=self.key_account,
            key_arn=self.key,
            attestation=self.attestation,
            context=context | self.encryption_context,
            context_is_complete=True,
        )

    @property
    def encryption_context(self) -> dict[str, str | Sequence[str]]:
        """The context under the names that a policy has for it."""
        keys: dict[str, str | Sequence[str]] = {"kms:EncryptionContextKeys": tuple(self.context)}
        return keys | {f"kms:EncryptionContext:{key}": text for key, text in self.context.items()}

    def event(self, error: str, reason: str) -> Event:
        image = self.attestation.pcrs.get(0, "") if self.attestation else ""
        return Event(self.caller.names[-1], self.key, image, error, reason)


def _cause(decision: Decision, with_any_identity_policy: Decision) -> str:
    """Return the end of KMS's sentence."""
    if decision.verdict is Verdict.DENIED and decision.statement is not None:
        side = "a resource" if decision.policy == "key policy" else "an identity"
        return f"with an explicit deny in {side}-based policy"
    side = "identity" if with_any_identity_policy.verdict is Verdict.ALLOWED else "resource"
    return f"because no {side}-based policy allows the kms:Decrypt action"


def _parsed(body: bytes) -> Mapping[str, Any]:
    """Parse a request's JSON, and check the types of the members that are used."""
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict) or not all(
        valid(parsed[name]) for name, valid in _VALID.items() if name in parsed
    ):
        raise KmsError("SerializationException", "the request's body is malformed")
    return parsed


_VALID: Final[Mapping[str, Callable[[Any], bool]]] = {
    "Recipient": lambda value: isinstance(value, dict),
    "KeyId": lambda value: isinstance(value, str) and 0 < len(value) <= _KEY_ID_MAX,
    "EncryptionContext": lambda value: (
        isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
    ),
}


def _blob(fields: Mapping[str, Any], name: str, limit: int) -> bytes:
    """Decode a member that holds 1 to *limit* bytes in base64."""
    try:
        blob = base64.b64decode(fields[name], validate=True)
    except (KeyError, TypeError, binascii.Error) as error:
        raise KmsError("ValidationException", f"{name} is missing or is not base64") from error
    if not 0 < len(blob) <= limit:
        raise KmsError("ValidationException", f"{name} is not 1 to {limit} bytes long")
    return blob
