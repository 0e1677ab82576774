"""KMS with attestation, called by AWS's own clients: what its policies allow them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rehearsal import cms
from rehearsal.aws import PROJECT, CommandError, account_root
from rehearsal.enclave import security_module
from rehearsal.scenario import PARENT_ROLE, SECOND, Scenario
from tests.enclave.kms_client import (
    HOST,
    KEY,
    OWNER,
    THIRD,
    client,
    data_key,
    decrypt,
    member,
    recipient,
    refusal,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# --- the response -----------------------------------------------------------------------------


def test_attested_response_is_encrypted_for_the_enclave(scenario: Scenario) -> None:
    answer = decrypt(scenario, scenario.parent, Recipient=recipient(scenario))
    assert "Plaintext" not in answer
    assert answer["KeyId"] == scenario.key
    assert len(cms.unwrap(answer["CiphertextForRecipient"], KEY)) == 32


def test_unattested_response_is_plaintext_if_the_policy_allows_it(
    scenario: Scenario,
) -> None:
    own = data_key(scenario.artifact_of_the_host)
    answer = decrypt(scenario, account_root(HOST), CiphertextBlob=own)
    assert len(answer["Plaintext"]) == 32
    assert "CiphertextForRecipient" not in answer


def test_trail_records_caller_key_image_and_reason(scenario: Scenario) -> None:
    refusal(scenario, scenario.parent, Recipient=recipient(scenario, SECOND))
    event = scenario.service.kms.trail[-1]
    assert event.caller == f"arn:aws:sts::{HOST}:assumed-role/{PARENT_ROLE}/rehearsal"
    assert event.key == scenario.key
    assert event.image == SECOND
    assert event.error == "AccessDeniedException"
    assert "DenyDecryptUnlessAttested" in event.reason


# --- the policies -----------------------------------------------------------------------------


def test_aws_cli_on_the_parent_reports_the_explicit_deny(
    scenario: Scenario, tmp_path: Path
) -> None:
    extract = PROJECT / "scripts" / "extract_decryption_key.py"
    subprocess.run([sys.executable, extract, "-f", scenario.artifact], cwd=tmp_path, check=True)
    command = ("kms", "decrypt", "--ciphertext-blob", f"fileb://{tmp_path}/data_key.encrypted")
    with pytest.raises(CommandError, match="AccessDeniedException") as error:
        scenario.service.aws.run(scenario.parent, *command, "--key-id", scenario.key)
    assert str(error.value).endswith("with an explicit deny in a resource-based policy")


def test_refusal_without_key_id_does_not_reveal_the_key(scenario: Scenario) -> None:
    code, message = refusal(scenario, scenario.parent)
    assert code == "AccessDeniedException"
    assert message.startswith("The ciphertext refers to a customer master key that does not exist")


def test_another_account_also_needs_an_identity_based_policy(scenario: Scenario) -> None:
    iam = scenario.service.kms.emulator.client(account_root(HOST), "iam")
    name = {"RoleName": PARENT_ROLE, "PolicyName": "Decrypt"}
    policy = iam.get_role_policy(**name)["PolicyDocument"]
    iam.delete_role_policy(**name)
    try:
        answer = refusal(
            scenario, scenario.parent, KeyId=scenario.key, Recipient=recipient(scenario)
        )
    finally:
        iam.put_role_policy(**name, PolicyDocument=json.dumps(policy))
    assert answer[0] == "AccessDeniedException"
    assert answer[1].endswith("because no identity-based policy allows the kms:Decrypt action")


def test_another_role_of_the_host_is_not_the_parent(scenario: Scenario) -> None:
    anything = {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}
    other = member(scenario, HOST, "Other", anything)
    code, message = refusal(scenario, other, KeyId=scenario.key, Recipient=recipient(scenario))
    assert code == "AccessDeniedException"
    assert message.endswith("because no resource-based policy allows the kms:Decrypt action")


def test_deny_in_an_identity_based_policy_is_enforced(scenario: Scenario) -> None:
    statement = {"Action": "kms:*", "Resource": "*"}
    allow, deny = ({"Effect": effect} | statement for effect in ("Allow", "Deny"))
    torn = member(scenario, OWNER, "Torn", allow, deny)
    code, message = refusal(scenario, torn, KeyId=scenario.key, Recipient=recipient(scenario))
    assert code == "AccessDeniedException"
    assert message.endswith("with an explicit deny in an identity-based policy")


def test_condition_on_the_encryption_context_is_evaluated(
    scenario: Scenario,
) -> None:
    condition = {"StringEquals": {"kms:EncryptionContext:purpose": "test"}}
    allow = {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*", "Condition": condition}
    role = member(scenario, OWNER, "Contextual", allow)
    context = {"EncryptionContext": {"purpose": "test"}}
    owner = client(scenario.service.kms.emulator, account_root(OWNER))
    blob = owner.encrypt(KeyId=scenario.key, Plaintext=b"plaintext", **context)["CiphertextBlob"]
    question = {"CiphertextBlob": blob, "Recipient": recipient(scenario)}
    envelope = decrypt(scenario, role, **question, **context)["CiphertextForRecipient"]
    assert cms.unwrap(envelope, KEY) == b"plaintext"
    assert refusal(scenario, role, **question)[0] == "AccessDeniedException"


def test_attached_policy_has_the_effect_of_an_inline_one(scenario: Scenario) -> None:
    role = member(scenario, OWNER, "Attached")
    iam = scenario.service.kms.emulator.client(account_root(OWNER), "iam")
    allow = {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": scenario.key}
    policy = iam.create_policy(
        PolicyName="Decrypt",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allow]}),
    )
    question = {"KeyId": scenario.key, "Recipient": recipient(scenario)}
    assert refusal(scenario, role, **question)[0] == "AccessDeniedException"
    iam.attach_role_policy(RoleName="Attached", PolicyArn=policy["Policy"]["Arn"])
    assert decrypt(scenario, role, **question)["KeyId"] == scenario.key


def test_grant_does_not_override_a_deny_in_the_key_policy(scenario: Scenario) -> None:
    owner = client(scenario.service.kms.emulator, account_root(OWNER))
    grantee = f"arn:aws:iam::{OWNER}:role/Grantee"
    role = member(scenario, OWNER, "Grantee")
    owner.create_grant(KeyId=scenario.key, GranteePrincipal=grantee, Operations=["Decrypt"])
    code, message = refusal(scenario, role, KeyId=scenario.key)
    assert code == "AccessDeniedException"
    assert message.endswith("with an explicit deny in a resource-based policy")
    assert decrypt(scenario, role, Recipient=recipient(scenario))["KeyId"] == scenario.key


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
def test_only_the_key_named_by_key_id_is_used(key_id: str, code: str, scenario: Scenario) -> None:
    owner = client(scenario.service.kms.emulator, account_root(OWNER))
    other = owner.create_key()["KeyMetadata"]["Arn"] if "other" in key_id else ""
    identifier = scenario.key.rpartition("/")[2]
    named = key_id.format(key=scenario.key, id=identifier, other=other, owner=OWNER, third=THIRD)
    question = {"KeyId": named, "Recipient": recipient(scenario)}
    if code:
        assert refusal(scenario, scenario.administrator, **question)[0] == code
    else:
        assert decrypt(scenario, scenario.administrator, **question)["KeyId"] == scenario.key


@pytest.mark.parametrize(
    "blob",
    [
        pytest.param(b"x", id="noise"),
        pytest.param(b"1234abcd-12ab-34cd-56ef-1234567890ab" + bytes(80), id="no-such-key"),
        pytest.param(b"\xff" * 100, id="no-text"),
    ],
)
def test_ciphertext_of_an_unknown_key_is_refused(blob: bytes, scenario: Scenario) -> None:
    assert refusal(scenario, scenario.parent, CiphertextBlob=blob)[0] == "AccessDeniedException"


def test_wrong_encryption_context_is_refused(scenario: Scenario) -> None:
    question = {"EncryptionContext": {"a": "b"}, "Recipient": recipient(scenario)}
    assert refusal(scenario, scenario.parent, **question)[0] == "InvalidCiphertextException"


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
            lambda scenario: {"AttestationDocument": security_module(scenario)(small_key())},
            "2048, 3072 or 4096",
            id="a-small-key",
        ),
        pytest.param(
            lambda scenario: {"AttestationDocument": security_module(scenario)(b"key")},
            "not contain a readable public key",
            id="no-key",
        ),
    ],
)
def test_recipient_without_valid_attestation_is_refused(
    change: Callable[[Scenario], dict[str, Any]], complaint: str, scenario: Scenario
) -> None:
    unproven = recipient(scenario) | change(scenario)
    code, message = refusal(scenario, scenario.parent, Recipient=unproven)
    assert code == "ValidationException"
    assert complaint in message


def test_invalid_document_is_refused_even_where_none_is_required(scenario: Scenario) -> None:
    own = data_key(scenario.artifact_of_the_host)
    unproven = recipient(scenario) | {"AttestationDocument": b"?"}
    answer = refusal(scenario, account_root(HOST), CiphertextBlob=own, Recipient=unproven)
    assert answer[0] == "ValidationException"
