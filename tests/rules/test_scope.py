"""Which rules apply to a template: by its resources, never by a word in it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from generator.parameters import CONTRACT_PARAMETERS
from generator.rules._scope import is_application_encryptor, judged_keys

Template = dict[str, Any]

OWNER = {"Effect": "Allow", "Principal": {"AWS": "owner"}, "Action": "kms:*", "Resource": "*"}
ATTESTED = {
    "Effect": "Deny",
    "Principal": "*",
    "Action": "kms:Decrypt",
    "Resource": "*",
    "Condition": {"StringNotEquals": {"KMS:RecipientAttestation:PCR0": "1a" * 48}},
}
AS_TEXT = (
    '{"Statement": [{"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*",'
    ' "Condition": {"StringNotEquals": {"kms:RecipientAttestation:PCR0": "${Image}"}}}]}'
)


def key(*statements: Any, policy: object = None) -> Template:  # noqa: ANN401 - anything
    document = policy or {"Version": "2012-10-17", "Statement": list(statements)}
    return {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": document}}


def buildspec(command: str) -> str:
    return f"version: 0.2\nphases:\n  build:\n    commands:\n      - {command}\n"


def project(command: str = "", **source: object) -> Template:
    source = source or {"BuildSpec": buildspec(command)}
    return {"Type": "AWS::CodeBuild::Project", "Properties": {"Source": source}}


def template(parameters: tuple[str, ...] = (), **resources: Template) -> Template:
    declared = {name: {"Type": "String"} for name in parameters}
    return {"Parameters": declared, "Resources": copy.deepcopy(resources)}


def replica_of(primary: str, *statements: object) -> dict[str, Any]:
    made = key(*(statements or [OWNER]))
    made["Properties"]["PrimaryKeyArn"] = {"Fn::GetAtt": [primary, "Arn"]}
    return {**made, "Type": "AWS::KMS::ReplicaKey"}


def policy_for(resource: object, condition: object) -> Template:
    statement = {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": resource}
    document = {"Statement": [{**statement, "Condition": condition}]}
    return {"Type": "AWS::IAM::Policy", "Properties": {"PolicyDocument": document}}


SEVEN = tuple(parameter.name for parameter in CONTRACT_PARAMETERS)
IMAGES = ("EnclaveImageSha384",)
CONDITION = ATTESTED["Condition"]
RUN = 'python3 "$HOME/x/envelope_encryptor.py" encrypt -d application -k "$KEY"'

KEYS: dict[str, tuple[Template, list[str]]] = {
    "another-key": (template(Key=key(OWNER)), []),
    "no-key": (template(IMAGES), []),
    "its-own-condition": (template(Key=key(OWNER, ATTESTED), Other=key(OWNER)), ["Key"]),
    "as-text": (template(Key=key(policy={"Fn::Sub": AS_TEXT})), ["Key"]),
    "as-text-in-parts": (
        template(Key=key(policy={"Fn::Join": ["", [AS_TEXT[:120], AS_TEXT[120:]]]})),
        ["Key"],
    ),
    "as-json-string": (
        template(Key=key(policy={"Fn::ToJsonString": {"Statement": [ATTESTED]}})),
        ["Key"],
    ),
    "behind-a-condition": (
        template(Key=key({"Fn::If": ["Enclave", ATTESTED, {"Ref": "AWS::NoValue"}]})),
        ["Key"],
    ),
    "a-word-in-a-sid": (template(Key=key({**OWNER, "Sid": "kms:RecipientAttestation"})), []),
    "a-word-in-metadata": (
        {**template(Key=key(OWNER)), "Metadata": {"Note": "kms:RecipientAttestation:PCR0"}},
        [],
    ),
    "a-word-in-a-description": (
        template(Key={**key(OWNER), "Metadata": {"About": "no kms:RecipientAttestation:PCR0 yet"}}),
        [],
    ),
    "the-parameter": (template(IMAGES, Key=key(OWNER), Other=key(OWNER)), ["Key", "Other"]),
    "an-encryptor": (template(Key=key(OWNER), Build=project(RUN)), ["Key"]),
    "seven-parameters": (template(SEVEN, Key=key(OWNER)), ["Key"]),
    "an-identity-policy-that-names-it": (
        template(
            Key=key(OWNER),
            Other=key(OWNER),
            Policy=policy_for({"Fn::GetAtt": ["Key", "Arn"]}, CONDITION),
        ),
        ["Key"],
    ),
    "an-identity-policy-that-names-it-in-text": (
        template(Key=key(OWNER), Policy=policy_for({"Fn::Sub": "${Key.Arn}"}, CONDITION)),
        ["Key"],
    ),
    "an-identity-policy-without-attestation": (
        template(
            Key=key(OWNER), Policy=policy_for({"Fn::GetAtt": ["Key", "Arn"]}, {"Bool": {"a": "b"}})
        ),
        [],
    ),
    "a-replica": (
        template(Key={**key(ATTESTED), "Type": "AWS::KMS::ReplicaKey"}),
        ["Key"],
    ),
    "a-replica-of-a-judged-key": (
        template(Other=key(OWNER), Primary=key(ATTESTED), Key=replica_of("Primary")),
        ["Primary", "Key"],
    ),
    "the-primary-key-of-a-judged-replica": (
        template(
            Key=replica_of("Primary", ATTESTED), Primary=key(OWNER), Second=replica_of("Primary")
        ),
        ["Key", "Primary", "Second"],
    ),
    "keys-in-a-loop": (
        {
            "Resources": {
                "Fn::ForEach::Keys": ["Name", ["A", "B"], {"Key${Name}": key(OWNER, ATTESTED)}]
            }
        },
        ["Fn::ForEach::Keys"],
    ),
    "keys-of-others-in-a-loop": (
        {"Resources": {"Fn::ForEach::Keys": ["Name", ["A"], {"Key${Name}": key(OWNER)}]}},
        [],
    ),
    "not-a-template": ({"Resources": ["Key"], "Parameters": "none"}, []),
}


@pytest.mark.parametrize("case", KEYS)
def test_key_rules_apply_to_the_expected_keys(case: str) -> None:
    judged, expected = KEYS[case]
    assert judged_keys(judged) == expected


ENCRYPTORS: dict[str, tuple[Template, bool]] = {
    "runs-it": (template(Build=project(RUN)), True),
    "runs-it-as-a-program": (template(Build=project("./envelope_encryptor encrypt")), True),
    "runs-it-behind-others": (
        template(Build=project("cd /tmp && python3 envelope_encryptor.py encrypt")),
        True,
    ),
    "runs-it-in-a-substituted-text": (
        template(
            Build=project(BuildSpec={"Fn::Sub": project(RUN)["Properties"]["Source"]["BuildSpec"]})
        ),
        True,
    ),
    "names-it": (template(Build=project("echo envelope_encryptor.py is not used here")), False),
    "tests-it": (template(Build=project("pytest tests/test_envelope_encryptor.py")), False),
    "comments-on-it": (template(Build=project("make  # not envelope_encryptor")), False),
    "copies-it": (template(Build=project("cp envelope_encryptor.py /opt/")), False),
    "has-the-parameter-alone": (template(IMAGES, Key=key(OWNER)), False),
    "has-the-parameter-and-a-project": (template(IMAGES, Build=project("make")), True),
    "has-four-parameters": (template(SEVEN[:4]), True),
    "has-three-parameters": (template(SEVEN[:3], Build=project("make")), False),
    "has-a-condition-on-attestation": (template(Key=key(ATTESTED), Build=project("make")), False),
}


@pytest.mark.parametrize("case", ENCRYPTORS)
def test_application_encryptor_templates_are_recognized(case: str) -> None:
    judged, expected = ENCRYPTORS[case]
    assert is_application_encryptor(judged) is expected
