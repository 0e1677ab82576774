"""Calls to KMS with AWS's own client, shared by the tests of the rehearsal's KMS."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rehearsal.aws import account_root
from rehearsal.enclave import security_module
from rehearsal.scenario import FIRST, Scenario, create_role
from tests.support.artifacts import parts

if TYPE_CHECKING:
    from pathlib import Path

    from rehearsal.aws import Aws, Credentials

OWNER, HOST, THIRD = "111111111111", "222222222222", "333333333333"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def data_key(artifact: Path) -> bytes:
    """Return the encrypted data key of *artifact*."""
    return parts(artifact.read_bytes())[0]


def recipient(scenario: Scenario, image: str = FIRST) -> dict[str, Any]:
    return {
        "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
        "AttestationDocument": security_module(scenario, image)(PUBLIC),
    }


def decrypt(scenario: Scenario, who: Credentials, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401
    """Call Decrypt with boto3, for the artifact's data key unless *parameters* override it."""
    question = {"CiphertextBlob": data_key(scenario.artifact)} | parameters
    answer: dict[str, Any] = client(scenario.service.aws, who).decrypt(**question)
    return answer


@functools.cache
def client(aws: Aws, who: Credentials) -> Any:  # noqa: ANN401
    made = aws.client(who, "kms")
    CLIENTS.append(made)
    return made


CLIENTS: list[Any] = []


def close_clients() -> None:
    """Close all connections: the emulator waits for them when it stops."""
    for made in CLIENTS:
        made.close()


def refusal(scenario: Scenario, who: Credentials, **parameters: Any) -> tuple[str, str]:  # noqa: ANN401
    """Return code and message of the error that `decrypt` must end with."""
    with pytest.raises(ClientError) as error:
        decrypt(scenario, who, **parameters)
    details = error.value.response["Error"]
    return details["Code"], details["Message"]


def member(scenario: Scenario, account: str, name: str, *policies: dict[str, Any]) -> Credentials:
    """Create a role with inline *policies* (statements) and assume it."""
    kms = scenario.service.kms
    arn = create_role(kms.emulator, account, name)
    iam = kms.emulator.client(account_root(account), "iam")
    for number, statement in enumerate(policies):
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_role_policy(RoleName=name, PolicyName=str(number), PolicyDocument=document)
    return kms.act_as(account_root(account), arn)
