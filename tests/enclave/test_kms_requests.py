"""Requests to the rehearsal's KMS that no valid client sends: forged, malformed, over bad TLS."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore import credentials
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError

from rehearsal.aws import Credentials, account_root
from rehearsal.kms import Kms
from rehearsal.service import serve
from tests.enclave.kms_client import HOST, client, data_key, decrypt, recipient

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rehearsal.scenario import Scenario


class Request:
    """A signed request that a test may tamper with before it is sent."""

    def __init__(self, scenario: Scenario) -> None:
        """Request the data key as the parent."""
        self.scenario = scenario
        self.who = scenario.parent
        self.body = json.dumps({"CiphertextBlob": base64.b64encode(b"x").decode()})
        self.host = "kms.eu-central-1.amazonaws.com"
        self.target = "TrentService.Decrypt"
        self.scope = ("kms", "eu-central-1")
        self.changes: dict[str, str | None] = {}
        self.path = "/"

    def send(self) -> tuple[int, dict[str, Any]]:
        """Return the response's status and fields."""
        who = self.who
        signer = credentials.Credentials(
            who.access_key_id, who.secret_access_key, who.session_token
        )
        headers = {"Host": self.host, "X-Amz-Target": self.target}
        signed = AWSRequest("POST", f"https://{self.host}/", headers=headers, data=self.body)
        SigV4Auth(signer, *self.scope).add_auth(signed)
        sent = dict(signed.headers.items()) | self.changes
        service = self.scenario.service
        trust = ssl.create_default_context(cafile=str(service.trust))
        connection = http.client.HTTPSConnection("127.0.0.1", service.port, context=trust)
        given = {name: value for name, value in sent.items() if value is not None}
        connection.request("POST", self.path, self.body, given)
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        connection.close()
        return response.status, answer


@pytest.fixture
def request_(scenario: Scenario) -> Request:
    return Request(scenario)


def test_signed_request_reaches_policy_evaluation(request_: Request) -> None:
    status, answer = request_.send()
    assert (status, answer["__type"]) == (400, "AccessDeniedException")


def unsigned(request: Request) -> None:
    request.changes["Authorization"] = None


def another_secret(request: Request) -> None:
    parent = request.who
    request.who = Credentials(parent.access_key_id, "guessed", parent.session_token)


def unknown(request: Request) -> None:
    request.who = Credentials("ASIAUNKNOWN", "secret", "token")


def another_token(request: Request) -> None:
    parent = request.who
    request.who = Credentials(parent.access_key_id, parent.secret_access_key, "token\xe9")


def without_token(request: Request) -> None:
    parent = request.who
    request.who = Credentials(parent.access_key_id, parent.secret_access_key)


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
    "by-an-unknown-principal": (unknown, "UnrecognizedClientException"),
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
def test_request_with_an_invalid_signature_is_refused(
    forge: Callable[[Request], None], code: str, request_: Request
) -> None:
    asked = len(request_.scenario.service.kms.trail)
    forge(request_)
    status, answer = request_.send()
    assert (status, answer["__type"]) == (400, code)
    assert len(request_.scenario.service.kms.trail) == asked


@pytest.mark.parametrize(("minutes", "good"), [(4, True), (6, False), (-6, False)])
def test_signature_is_valid_for_five_minutes(
    minutes: int, scenario: Scenario, tmp_path: Path, *, good: bool
) -> None:
    def later() -> datetime:
        return datetime.now(UTC) + timedelta(minutes=minutes)

    kms = Kms(scenario.service.kms.emulator, scenario.authority.root, [HOST], later)
    with contextlib.closing(kms), serve(kms, tmp_path) as service:
        asked = client(service.aws, account_root(HOST))
        question = {"CiphertextBlob": data_key(scenario.artifact_of_the_host)}
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


def test_other_operations_are_unsupported(request_: Request) -> None:
    request_.target = "TrentService.GenerateDataKey"
    assert request_.send()[1]["__type"] == "UnsupportedOperationException"


# --- TLS --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize(
    ("host", "verified"),
    [
        ("kms.eu-central-1.amazonaws.com", True),
        ("kms.eu-central-1.amazonaws.com.cn", True),
        ("kms.us-east-1.amazonaws.com", False),
    ],
)
def test_openssl_trusts_the_service_under_its_own_names_only(
    host: str, version: str, scenario: Scenario, openssl: str, *, verified: bool
) -> None:
    connect = ("-connect", f"127.0.0.1:{scenario.service.port}", "-servername", host, version)
    trust = ("-CAfile", scenario.service.trust, "-verify_hostname", host, "-verify_return_error")
    result = subprocess.run(
        [openssl, "s_client", *connect, *trust],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert (result.returncode == 0) is verified


def test_silent_client_does_not_block_others(scenario: Scenario) -> None:
    with socket.create_connection(("127.0.0.1", scenario.service.port)):
        assert (
            decrypt(scenario, scenario.parent, Recipient=recipient(scenario))["KeyId"]
            == scenario.key
        )
