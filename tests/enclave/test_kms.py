"""KMS with attestation, asked by AWS's own clients and by forgers."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rehearsal import cms, enclave
from rehearsal.aws import PROJECT, Aws, CommandError, Principal, account_root
from rehearsal.kms import Kms
from rehearsal.service import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OWNER, HOST, THIRD = "111111111111", "222222222222", "333333333333"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def data_key(artifact: Path) -> bytes:
    header = artifact.read_bytes()[: 4 + 6144]
    return header[4 : 4 + int.from_bytes(header[:4], "big")]


def recipient(stage: enclave.Stage, image: str = enclave.FIRST) -> dict[str, Any]:
    return {
        "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
        "AttestationDocument": enclave.enclave(stage, image)(PUBLIC),
    }


def decrypt(stage: enclave.Stage, who: Principal, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401
    """Ask with boto3, for the artifact's data key unless *parameters* say otherwise."""
    question = {"CiphertextBlob": data_key(stage.artifact)} | parameters
    answer: dict[str, Any] = client(stage.service.aws, who).decrypt(**question)
    return answer


@functools.cache
def client(aws: Aws, who: Principal) -> Any:  # noqa: ANN401
    made = aws.client(who, "kms")
    CLIENTS.append(made)
    return made


CLIENTS: list[Any] = []


@pytest.fixture(scope="module", autouse=True)
def _no_client_outlives_the_tests() -> Iterator[None]:
    yield
    for made in CLIENTS:
        made.close()


def refusal(stage: enclave.Stage, who: Principal, **parameters: Any) -> tuple[str, str]:  # noqa: ANN401
    """Return code and message of the error that `decrypt` must end with."""
    with pytest.raises(ClientError) as error:
        decrypt(stage, who, **parameters)
    details = error.value.response["Error"]
    return details["Code"], details["Message"]


def member(stage: enclave.Stage, account: str, name: str, *policies: dict[str, Any]) -> Principal:
    """Create a role with inline *policies* (statements) and become it."""
    kms = stage.service.kms
    arn = enclave.create_role(kms.stand_in, account, name)
    iam = kms.stand_in.client(account_root(account), "iam")
    for number, statement in enumerate(policies):
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_role_policy(RoleName=name, PolicyName=str(number), PolicyDocument=document)
    return kms.act_as(account_root(account), arn)


# --- the answer -------------------------------------------------------------------------------


def test_an_attested_answer_is_for_the_enclave_alone(stage: enclave.Stage) -> None:
    answer = decrypt(stage, stage.parent, Recipient=recipient(stage))
    assert "Plaintext" not in answer
    assert answer["KeyId"] == stage.key
    assert len(cms.unwrap(answer["CiphertextForRecipient"], KEY)) == 32


def test_an_unattested_answer_is_in_the_clear_where_the_policy_allows_it(
    stage: enclave.Stage,
) -> None:
    own = data_key(stage.artifact_of_the_host)
    answer = decrypt(stage, account_root(HOST), CiphertextBlob=own)
    assert len(answer["Plaintext"]) == 32
    assert "CiphertextForRecipient" not in answer


def test_the_trail_says_who_asked_for_what_and_why_not(stage: enclave.Stage) -> None:
    refusal(stage, stage.parent, Recipient=recipient(stage, enclave.SECOND))
    event = stage.service.kms.trail[-1]
    assert event.caller == f"arn:aws:sts::{HOST}:assumed-role/{enclave.PARENT_ROLE}/rehearsal"
    assert event.key == stage.key
    assert event.image == enclave.SECOND
    assert event.error == "AccessDeniedException"
    assert "DenyDecryptUnlessAttested" in event.reason


# --- the policies -----------------------------------------------------------------------------


def test_the_aws_cli_on_the_parent_is_told_of_the_explicit_deny(
    stage: enclave.Stage, tmp_path: Path
) -> None:
    extract = PROJECT / "scripts" / "extract_decryption_key.py"
    subprocess.run([sys.executable, extract, "-f", stage.artifact], cwd=tmp_path, check=True)
    command = ("kms", "decrypt", "--ciphertext-blob", f"fileb://{tmp_path}/data_key.encrypted")
    with pytest.raises(CommandError, match="AccessDeniedException") as error:
        stage.service.aws.run(stage.parent, *command, "--key-id", stage.key)
    assert str(error.value).endswith("with an explicit deny in a resource-based policy")


def test_a_key_that_was_not_named_is_not_talked_about(stage: enclave.Stage) -> None:
    code, message = refusal(stage, stage.parent)
    assert code == "AccessDeniedException"
    assert message.startswith("The ciphertext refers to a customer master key that does not exist")


def test_the_key_policy_alone_is_not_enough_for_another_account(stage: enclave.Stage) -> None:
    iam = stage.service.kms.stand_in.client(account_root(HOST), "iam")
    name = {"RoleName": enclave.PARENT_ROLE, "PolicyName": "Decrypt"}
    policy = iam.get_role_policy(**name)["PolicyDocument"]
    iam.delete_role_policy(**name)
    try:
        answer = refusal(stage, stage.parent, KeyId=stage.key, Recipient=recipient(stage))
    finally:
        iam.put_role_policy(**name, PolicyDocument=json.dumps(policy))
    assert answer[0] == "AccessDeniedException"
    assert answer[1].endswith("because no identity-based policy allows the kms:Decrypt action")


def test_another_role_of_the_host_is_not_the_parent(stage: enclave.Stage) -> None:
    anything = {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}
    other = member(stage, HOST, "Other", anything)
    code, message = refusal(stage, other, KeyId=stage.key, Recipient=recipient(stage))
    assert code == "AccessDeniedException"
    assert message.endswith("because no resource-based policy allows the kms:Decrypt action")


def test_a_deny_in_the_roles_own_policy_counts(stage: enclave.Stage) -> None:
    statement = {"Action": "kms:*", "Resource": "*"}
    allow, deny = ({"Effect": effect} | statement for effect in ("Allow", "Deny"))
    torn = member(stage, OWNER, "Torn", allow, deny)
    code, message = refusal(stage, torn, KeyId=stage.key, Recipient=recipient(stage))
    assert code == "AccessDeniedException"
    assert message.endswith("with an explicit deny in an identity-based policy")


def test_a_condition_on_the_encryption_context_is_met_by_the_requests(
    stage: enclave.Stage,
) -> None:
    condition = {"StringEquals": {"kms:EncryptionContext:purpose": "test"}}
    allow = {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*", "Condition": condition}
    role = member(stage, OWNER, "Contextual", allow)
    context = {"EncryptionContext": {"purpose": "test"}}
    owner = client(stage.service.kms.stand_in, account_root(OWNER))
    sealed = owner.encrypt(KeyId=stage.key, Plaintext=b"plaintext", **context)["CiphertextBlob"]
    question = {"CiphertextBlob": sealed, "Recipient": recipient(stage)}
    envelope = decrypt(stage, role, **question, **context)["CiphertextForRecipient"]
    assert cms.unwrap(envelope, KEY) == b"plaintext"
    assert refusal(stage, role, **question)[0] == "AccessDeniedException"


def test_an_attached_policy_counts_as_an_inline_one(stage: enclave.Stage) -> None:
    role = member(stage, OWNER, "Attached")
    iam = stage.service.kms.stand_in.client(account_root(OWNER), "iam")
    allow = {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": stage.key}
    policy = iam.create_policy(
        PolicyName="Decrypt",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allow]}),
    )
    question = {"KeyId": stage.key, "Recipient": recipient(stage)}
    assert refusal(stage, role, **question)[0] == "AccessDeniedException"
    iam.attach_role_policy(RoleName="Attached", PolicyArn=policy["Policy"]["Arn"])
    assert decrypt(stage, role, **question)["KeyId"] == stage.key


def test_a_grant_does_not_open_what_the_policy_denies(stage: enclave.Stage) -> None:
    owner = client(stage.service.kms.stand_in, account_root(OWNER))
    grantee = f"arn:aws:iam::{OWNER}:role/Grantee"
    role = member(stage, OWNER, "Grantee")
    owner.create_grant(KeyId=stage.key, GranteePrincipal=grantee, Operations=["Decrypt"])
    code, message = refusal(stage, role, KeyId=stage.key)
    assert code == "AccessDeniedException"
    assert message.endswith("with an explicit deny in a resource-based policy")
    assert decrypt(stage, role, Recipient=recipient(stage))["KeyId"] == stage.key


# --- the key ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key_id", "code"),
    [
        pytest.param("{key}", "", id="its-ARN"),
        pytest.param("{id}", "", id="its-id"),
        pytest.param("alias/enclavekey", "", id="its-alias"),
        pytest.param("arn:aws:kms:eu-central-1:{owner}:alias/enclavekey", "", id="its-alias-ARN"),
        pytest.param("{other}", "IncorrectKeyException", id="another-key"),
        pytest.param("alias/nothing", "NotFoundException", id="no-key"),
        pytest.param("arn:aws:kms:us-east-1:{owner}:key/{id}", "NotFoundException", id="region"),
        pytest.param("arn:aws:kms:eu-central-1:{third}:key/{id}", "NotFoundException", id="owner"),
        pytest.param("arn:aws:kms:eu-central-1:9:key/{id}", "NotFoundException", id="account"),
    ],
)
def test_the_key_that_is_named_is_the_only_one_used(
    key_id: str, code: str, stage: enclave.Stage
) -> None:
    owner = client(stage.service.kms.stand_in, account_root(OWNER))
    other = owner.create_key()["KeyMetadata"]["Arn"] if "other" in key_id else ""
    identifier = stage.key.rpartition("/")[2]
    named = key_id.format(key=stage.key, id=identifier, other=other, owner=OWNER, third=THIRD)
    question = {"KeyId": named, "Recipient": recipient(stage)}
    if code:
        assert refusal(stage, stage.administrator, **question)[0] == code
    else:
        assert decrypt(stage, stage.administrator, **question)["KeyId"] == stage.key


@pytest.mark.parametrize(
    "blob",
    [
        pytest.param(b"x", id="noise"),
        pytest.param(b"1234abcd-12ab-34cd-56ef-1234567890ab" + bytes(80), id="no-such-key"),
        pytest.param(b"\xff" * 100, id="no-text"),
    ],
)
def test_a_ciphertext_of_no_key_here_is_refused(blob: bytes, stage: enclave.Stage) -> None:
    assert refusal(stage, stage.parent, CiphertextBlob=blob)[0] == "AccessDeniedException"


def test_a_context_that_was_not_used_in_encryption_is_refused(stage: enclave.Stage) -> None:
    question = {"EncryptionContext": {"a": "b"}, "Recipient": recipient(stage)}
    assert refusal(stage, stage.parent, **question)[0] == "InvalidCiphertextException"


# --- the document -----------------------------------------------------------------------------


def small_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - it is
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param(
            lambda _: {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_1"},
            "KeyEncryptionAlgorithm",
            id="another-algorithm",
        ),
        pytest.param(lambda _: {"AttestationDocument": b"?"}, "not CBOR", id="noise"),
        pytest.param(
            lambda stage: {"AttestationDocument": enclave.enclave(stage)(small_key())},
            "2048, 3072 or 4096",
            id="a-small-key",
        ),
        pytest.param(
            lambda stage: {"AttestationDocument": enclave.enclave(stage)(b"key")},
            "no readable public key",
            id="no-key",
        ),
    ],
)
def test_a_recipient_that_proves_nothing_is_refused(
    change: Callable[[enclave.Stage], dict[str, Any]], complaint: str, stage: enclave.Stage
) -> None:
    unproven = recipient(stage) | change(stage)
    code, message = refusal(stage, stage.parent, Recipient=unproven)
    assert code == "ValidationException"
    assert complaint in message


def test_a_bad_document_is_refused_even_where_none_is_needed(stage: enclave.Stage) -> None:
    own = data_key(stage.artifact_of_the_host)
    unproven = recipient(stage) | {"AttestationDocument": b"?"}
    answer = refusal(stage, account_root(HOST), CiphertextBlob=own, Recipient=unproven)
    assert answer[0] == "ValidationException"


# --- the request ------------------------------------------------------------------------------


class Request:
    """A signed request that a test may tamper with before it is sent."""

    def __init__(self, stage: enclave.Stage) -> None:
        """Ask as the parent for the data key."""
        self.stage = stage
        self.who = stage.parent
        self.body = json.dumps({"CiphertextBlob": base64.b64encode(b"x").decode()})
        self.host = "kms.eu-central-1.amazonaws.com"
        self.target = "TrentService.Decrypt"
        self.scope = ("kms", "eu-central-1")
        self.changes: dict[str, str | None] = {}
        self.path = "/"

    def send(self) -> tuple[int, dict[str, Any]]:
        """Return the answer's status and fields."""
        who = self.who
        credentials = Credentials(who.access_key_id, who.secret_access_key, who.session_token)
        headers = {"Host": self.host, "X-Amz-Target": self.target}
        signed = AWSRequest("POST", f"https://{self.host}/", headers=headers, data=self.body)
        SigV4Auth(credentials, *self.scope).add_auth(signed)
        sent = dict(signed.headers.items()) | self.changes
        service = self.stage.service
        trust = ssl.create_default_context(cafile=str(service.trust))
        connection = http.client.HTTPSConnection("127.0.0.1", service.port, context=trust)
        given = {name: value for name, value in sent.items() if value is not None}
        connection.request("POST", self.path, self.body, given)
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        connection.close()
        return response.status, answer


@pytest.fixture
def request_(stage: enclave.Stage) -> Request:
    return Request(stage)


def test_an_honest_request_reaches_the_policies(request_: Request) -> None:
    status, answer = request_.send()
    assert (status, answer["__type"]) == (400, "AccessDeniedException")


def unsigned(request: Request) -> None:
    request.changes["Authorization"] = None


def another_secret(request: Request) -> None:
    parent = request.who
    request.who = Principal(parent.access_key_id, "guessed", parent.session_token)


def unknown(request: Request) -> None:
    request.who = Principal("ASIAUNKNOWN", "secret", "token")


def another_token(request: Request) -> None:
    parent = request.who
    request.who = Principal(parent.access_key_id, parent.secret_access_key, "token\xe9")


def without_token(request: Request) -> None:
    parent = request.who
    request.who = Principal(parent.access_key_id, parent.secret_access_key)


def another_region(request: Request) -> None:
    request.scope = ("kms", "us-east-1")


def another_service(request: Request) -> None:
    request.scope = ("s3", "eu-central-1")


def another_target(request: Request) -> None:
    request.changes["X-Amz-Target"] = "TrentService.Encrypt"


def one_more_header(request: Request) -> None:
    request.changes["X-Amz-Unsigned"] = "1"


def claimed_hash(request: Request) -> None:
    request.changes["X-Amz-Content-SHA256"] = "UNSIGNED-PAYLOAD"


def no_date(request: Request) -> None:
    request.changes["X-Amz-Date"] = "yesterday"


FORGERIES: dict[str, tuple[Callable[[Request], None], str]] = {
    "not-signed": (unsigned, "MissingAuthenticationTokenException"),
    "with-another-secret": (another_secret, "InvalidSignatureException"),
    "by-somebody-unknown": (unknown, "UnrecognizedClientException"),
    "with-another-token": (another_token, "UnrecognizedClientException"),
    "without-the-token": (without_token, "UnrecognizedClientException"),
    "for-another-region": (another_region, "InvalidSignatureException"),
    "for-another-service": (another_service, "InvalidSignatureException"),
    "with-another-target": (another_target, "InvalidSignatureException"),
    "with-a-header-that-is-not-signed": (one_more_header, "InvalidSignatureException"),
    "with-a-body-that-is-not-signed": (claimed_hash, "InvalidSignatureException"),
    "without-a-date": (no_date, "IncompleteSignatureException"),
}


@pytest.mark.parametrize(("forge", "code"), FORGERIES.values(), ids=FORGERIES)
def test_nobody_is_believed_who_did_not_sign(
    forge: Callable[[Request], None], code: str, request_: Request
) -> None:
    asked = len(request_.stage.service.kms.trail)
    forge(request_)
    status, answer = request_.send()
    assert (status, answer["__type"]) == (400, code)
    assert len(request_.stage.service.kms.trail) == asked


@pytest.mark.parametrize(("minutes", "good"), [(4, True), (6, False), (-6, False)])
def test_a_signature_is_good_for_five_minutes(
    minutes: int, stage: enclave.Stage, tmp_path: Path, *, good: bool
) -> None:
    def later() -> datetime:
        return datetime.now(UTC) + timedelta(minutes=minutes)

    kms = Kms(stage.service.kms.stand_in, stage.authority.root, [HOST], later)
    with contextlib.closing(kms), serve(kms, tmp_path) as service:
        asked = client(service.aws, account_root(HOST))
        question = {"CiphertextBlob": data_key(stage.artifact_of_the_host)}
        if good:
            assert asked.decrypt(**question)["Plaintext"]
        else:
            with pytest.raises(ClientError, match="Signature expired"):
                asked.decrypt(**question)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param("", "SerializationException", id="empty"),
        pytest.param("[]", "SerializationException", id="an-array"),
        pytest.param("{", "SerializationException", id="half"),
        pytest.param('{"Recipient": null}', "SerializationException", id="no-recipient"),
        pytest.param('{"KeyId": 1}', "SerializationException", id="a-number-for-a-key"),
        pytest.param('{"KeyId": ""}', "SerializationException", id="an-empty-key-id"),
        pytest.param(
            json.dumps({"KeyId": "k" * 2049}), "SerializationException", id="a-long-key-id"
        ),
        pytest.param(
            '{"EncryptionContext": {"a": 1}}', "SerializationException", id="a-number-in-context"
        ),
        pytest.param("{}", "ValidationException", id="no-ciphertext"),
        pytest.param('{"CiphertextBlob": ""}', "ValidationException", id="empty-ciphertext"),
        pytest.param('{"CiphertextBlob": "!"}', "ValidationException", id="no-base64"),
        pytest.param('{"CiphertextBlob": 1}', "ValidationException", id="a-number"),
        pytest.param(
            json.dumps({"CiphertextBlob": base64.b64encode(bytes(6145)).decode()}),
            "ValidationException",
            id="6145-bytes",
        ),
        pytest.param(
            '{"CiphertextBlob": "AAAA", "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}',
            "InvalidKeyUsageException",
            id="another-algorithm",
        ),
    ],
)
def test_a_malformed_body_is_refused(body: str, code: str, request_: Request) -> None:
    request_.body = body
    status, answer = request_.send()
    assert (status, answer["__type"]) == (400, code)


def test_no_other_path_is_served(request_: Request) -> None:
    request_.path = "/key"
    assert request_.send()[1]["__type"] == "SerializationException"


def test_no_other_operation_is_rehearsed(request_: Request) -> None:
    request_.target = "TrentService.GenerateDataKey"
    assert request_.send()[1]["__type"] == "UnsupportedOperationException"


# --- TLS --------------------------------------------------------------------------------------


@pytest.fixture
def openssl() -> str:
    if not (program := shutil.which("openssl")):
        pytest.skip("needs Debian's package openssl")
    return program


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize(
    ("host", "verified"),
    [
        ("kms.eu-central-1.amazonaws.com", True),
        ("kms.eu-central-1.amazonaws.com.cn", True),
        ("kms.us-east-1.amazonaws.com", False),
    ],
)
def test_openssl_trusts_the_service_under_its_own_names(
    host: str, version: str, stage: enclave.Stage, openssl: str, *, verified: bool
) -> None:
    connect = ("-connect", f"127.0.0.1:{stage.service.port}", "-servername", host, version)
    trust = ("-CAfile", stage.service.trust, "-verify_hostname", host, "-verify_return_error")
    result = subprocess.run(
        [openssl, "s_client", *connect, *trust],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert (result.returncode == 0) is verified


def test_a_client_that_says_nothing_keeps_nobody_waiting(stage: enclave.Stage) -> None:
    with socket.create_connection(("127.0.0.1", stage.service.port)):
        assert decrypt(stage, stage.parent, Recipient=recipient(stage))["KeyId"] == stage.key
