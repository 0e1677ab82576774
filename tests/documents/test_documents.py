"""Documents of every format are read; hostile ones are refused in one line, before they grow."""

from __future__ import annotations

import copy
import io
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from generator.explain.report import explain
from generator.reading import documents
from generator.reading.documents import DocumentError, Kind

if TYPE_CHECKING:
    from pathlib import Path

POLICY: dict[str, Any] = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Sid": "Owner",
            "Effect": "Allow",
            "Principal": {"AWS": "arn:aws:iam::111122223333:root"},
            "Action": "kms:*",
            "Resource": "*",
        }
    ],
}
TEXT = json.dumps(POLICY)
PRETTY = json.dumps(POLICY, indent=2)
ESCAPED = json.dumps(PRETTY)[1:-1]
YAML_POLICY = """\
Version: 2012-10-17
Statement:
  - Sid: Owner
    Effect: Allow
    Principal: {AWS: "arn:aws:iam::111122223333:root"}
    Action: kms:*
    Resource: "*"
"""


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TEXT, id="json"),
        pytest.param(YAML_POLICY, id="yaml"),
        pytest.param(json.dumps({"Policy": PRETTY, "PolicyName": "default"}), id="get-key-policy"),
        pytest.param(json.dumps({"KeyId": "k", "Policy": TEXT}), id="put-key-policy"),
        pytest.param(json.dumps({"Policy": POLICY}), id="policy-decoded"),
        pytest.param(json.dumps(PRETTY), id="query-policy"),
        pytest.param(json.dumps(json.dumps(PRETTY)), id="quoted-twice"),
        pytest.param(f"{PRETTY}\tdefault\n", id="output-text"),
        pytest.param(f"Policy: '{TEXT}'\nPolicyName: default\n", id="output-yaml"),
        pytest.param(f"'{TEXT}'\n", id="query-policy-output-yaml"),
        pytest.param(ESCAPED, id="escaped-without-quotes"),
        pytest.param(f"\ufeff{TEXT}", id="byte-order-mark"),
        pytest.param(f"\n\n  {TEXT}\n", id="blanks-around"),
    ],
)
def test_key_policy_is_read_in_every_format(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy"
    path.write_text(text, encoding="utf-8")
    found = documents.load(str(path))
    assert (found.kind, found.content) == (Kind.POLICY, POLICY)


def test_short_form_functions_are_expanded() -> None:
    text = "Resources: {Key: {A: !Ref X, B: !GetAtt K.Arn, C: !Sub '${X}', D: !If [c, 1, 012]}}"
    assert documents.parse(text) == {
        "Resources": {
            "Key": {
                "A": {"Ref": "X"},
                "B": {"Fn::GetAtt": ["K", "Arn"]},
                "C": {"Fn::Sub": "${X}"},
                "D": {"Fn::If": ["c", "1", "012"]},
            }
        }
    }


def test_aliases_and_merges_are_resolved() -> None:
    text = "Base: &base {Effect: Allow}\nResources: {A: *base, B: {<<: *base, Action: x}}"
    assert documents.parse(text)["Resources"] == {
        "A": {"Effect": "Allow"},
        "B": {"Effect": "Allow", "Action": "x"},
    }


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
MERGES = "a0: &a0 {k0: 1, l0: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}], k{n}: 1}}\n" for n in range(1, 10)
)
REFUSED: dict[str, tuple[bytes, str]] = {
    "aliases-of-aliases": (f"{LAUGHS}Resources: *a9\n".encode(), "aliases are expanded"),
    "merges-of-merges": (f"{MERGES}Resources: *a9\n".encode(), "aliases are expanded"),
    "aliases-of-aliases-in-a-policy": (f"Statement: []\n{LAUGHS}".encode(), "aliases are expanded"),
    "holds-itself": (b"Resources: &a {x: *a}\n", "nested more than"),
    "deep-lists": (b"Resources: " + b"[" * 100 + b"]" * 100, "nested more than"),
    "deep-mappings": (b'{"Resources": ' + b'{"a":' * 100 + b"1" + b"}" * 101, "nested more than"),
    "deep-without-end": (b"[" * 1_000_000, "nested more than"),
    "deep-mappings-without-end": (b'{"a":' * 300_000, "nested more than"),
    "deep-blocks": (b"- " * 500_000, "nested more than"),
    "as-text-in-text": (
        json.dumps(json.dumps(json.dumps(json.dumps(json.dumps(json.dumps(TEXT)))))).encode(),
        "neither Resources nor a Statement",
    ),
    "half-a-character": (b'{"Statement": [{"Sid": "\\ud800"}]}', "surrogate"),
    "a-key-twice": (
        b'{"Statement": [{"Effect": "Deny", "Effect": "Allow"}]}',
        "has the key Effect twice",
    ),
    "a-key-twice-in-yaml": (
        b"Statement:\n- Effect: Deny\n  Effect: Allow\n",
        "has the key Effect twice",
    ),
    "latin-1": ("Resources: {Größe: 1}".encode("latin-1"), "is not UTF-8 (at byte 15)"),
    "utf-16": (TEXT.encode("utf-16"), "is not UTF-8 (at byte 1)"),
    "binary": (bytes(range(256)), "is not UTF-8"),
    "a-null": (b"Resources:\0", "neither YAML nor JSON"),
    "empty": (b"", "neither Resources nor a Statement"),
    "a-word": (b"hello", "neither Resources nor a Statement"),
    "not-yaml": (b"Resources: [", "neither YAML nor JSON"),
    "more-behind": (TEXT.encode() + b" and more", "has text after the document"),
    "a-tag-of-python": (b"Resources: !!python/object:os.system x", "neither YAML nor JSON"),
    "two-documents": (b"Resources: {}\n---\nResources: {}\n", "neither YAML nor JSON"),
    "a-huge-number": (b'{"Resources": ' + b"1" * 10_000 + b"}", "neither YAML nor JSON"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_hostile_document_is_refused(tmp_path: Path, case: str) -> None:
    data, reason = REFUSED[case]
    path = tmp_path / "document"
    path.write_bytes(data)
    with pytest.raises(DocumentError) as refused:
        documents.read(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert reason in str(refused.value)


def test_document_larger_than_cloudformation_accepts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "document"
    with path.open("wb") as file:  # sparse: takes no disk
        file.write(b"Resources: {}\n")
        file.truncate(10 << 30)
    with pytest.raises(DocumentError, match="has more than 2,097,152 bytes"):
        documents.read(path)


@pytest.mark.parametrize("name", ["none.yaml", "", "a\0b", "."])
def test_unreadable_file_is_one_line_error(name: str) -> None:
    with pytest.raises(DocumentError, match="pass a template or a policy"):
        documents.read(name)


def test_document_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    found = documents.load("-")
    assert (found.name, found.content) == ("standard input", POLICY)


# --- Terraform ------------------------------------------------------------------------------------


DENY: dict[str, Any] = {
    "Effect": "Deny",
    "Principal": "*",
    "Action": ["kms:Decrypt", "kms:ReEncryptFrom"],
    "Resource": "*",
    "Condition": {"StringNotEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": "ab" * 48}},
}
CLOSED_TEXT = json.dumps({**POLICY, "Statement": [*POLICY["Statement"], DENY]})
FOR_ACCOUNT = copy.deepcopy(POLICY)
FOR_ACCOUNT["Statement"][0]["Principal"] = {
    "AWS": {"Fn::Sub": "arn:aws:iam::${AWS::AccountId}:root"}
}


def planned(*resources: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {
        "format_version": "1.2",
        "terraform_version": "1.9.8",
        "planned_values": {"root_module": {"resources": list(resources)}},
        **more,
    }


def resource(address: str, **values: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    kind = address.split("[", maxsplit=1)[0].split(".")[-2]
    return {"address": address, "mode": "managed", "type": kind, "values": values}


def unknown(address: str, *names: str) -> dict[str, Any]:
    return {"address": address, "change": {"after_unknown": dict.fromkeys(names, True)}}


def test_duplicate_key_in_a_planned_policy_is_refused(tmp_path: Path) -> None:
    policy = '{"Statement": [{"Effect": "Deny", "Effect": "Allow"}]}'
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(planned(resource("aws_kms_key.this", policy=policy))))
    for strict in (True, False):
        with pytest.raises(DocumentError, match=r"policy of aws_kms_key\.this has the key Effect"):
            documents.load(str(path), strict=strict)


def keys(plan: dict[str, Any]) -> dict[str, Any]:
    found = documents.decode(json.dumps(plan))
    assert found.kind is Kind.PLAN
    resources = found.content["Resources"]
    assert isinstance(resources, dict)
    return {name: key["Properties"] for name, key in resources.items()}


def test_a_planned_key_has_its_policy_usage_and_spec() -> None:
    key = resource(
        "aws_kms_key.this",
        policy=TEXT,
        key_usage="ENCRYPT_DECRYPT",
        customer_master_key_spec="SYMMETRIC_DEFAULT",
        multi_region=False,
    )
    assert keys(planned(key, resource("aws_s3_bucket.other", bucket="b"))) == {
        "aws_kms_key.this": {
            "KeyPolicy": FOR_ACCOUNT,
            "KeyUsage": "ENCRYPT_DECRYPT",
            "KeySpec": "SYMMETRIC_DEFAULT",
            "MultiRegion": False,
        }
    }


OUTSIDE = {"Fn::ImportValue": "known after apply"}


def test_policy_known_after_apply_is_unknown() -> None:
    plan = planned(
        resource("aws_kms_key.this", key_usage="ENCRYPT_DECRYPT"),
        resource_changes=[unknown("aws_kms_key.this", "policy", "arn")],
    )
    assert keys(plan)["aws_kms_key.this"]["KeyPolicy"] == OUTSIDE


@pytest.mark.parametrize(
    ("expressions", "policy"), [({"policy": {"references": ["x"]}}, OUTSIDE), ({}, None)]
)
def test_key_without_policy_has_the_default_policy(
    expressions: dict[str, Any], policy: object
) -> None:
    configuration = {"address": "aws_kms_key.this", "expressions": expressions}
    plan = planned(
        resource("aws_kms_key.this", key_usage="ENCRYPT_DECRYPT"),
        resource_changes=[unknown("aws_kms_key.this", "policy")],
        configuration={"root_module": {"resources": [configuration]}},
    )
    assert keys(plan)["aws_kms_key.this"].get("KeyPolicy") == policy


def configured(address: str, key: str) -> dict[str, Any]:
    kind, name = address.split(".")[-2:]
    expressions = {"key_id": {"references": [f"{key}.id", key]}}
    return {"address": f"{kind}.{name}", "expressions": expressions}


def test_key_policy_resource_applies_to_the_key_it_references() -> None:
    policy = "aws_kms_key_policy.this"
    plan = planned(
        resource("aws_kms_key.this", policy="{}"),
        resource("aws_kms_key.other", policy="{}"),
        resource(policy, policy=TEXT),
        resource_changes=[unknown(policy, "key_id")],
        configuration={"root_module": {"resources": [configured(policy, "aws_kms_key.this")]}},
    )
    assert {name: key["KeyPolicy"] for name, key in keys(plan).items()} == {
        "aws_kms_key.this": FOR_ACCOUNT,
        "aws_kms_key.other": "{}",
    }


def test_key_policy_resource_in_a_module_applies_to_each_instance() -> None:
    inside = [
        resource(f'module.enclave.aws_kms_key.this["{name}"]', policy="{}") for name in "ab"
    ] + [
        resource(f'module.enclave.aws_kms_key_policy.this["{name}"]', policy=name) for name in "ab"
    ]
    call = {"module": {"resources": [configured("aws_kms_key_policy.this", "aws_kms_key.this")]}}
    plan = planned(configuration={"root_module": {"module_calls": {"enclave": call}}})
    plan["planned_values"]["root_module"]["child_modules"] = [{"resources": inside}]
    assert {name: key["KeyPolicy"] for name, key in keys(plan).items()} == {
        'module.enclave.aws_kms_key.this["a"]': "a",
        'module.enclave.aws_kms_key.this["b"]': "b",
    }


@pytest.mark.parametrize(
    "kind", ["aws_kms_key", "aws_kms_external_key", "aws_kms_replica_external_key", "awscc_kms_key"]
)
def test_keys_of_every_kind_are_judged(kind: str) -> None:
    name = "key_policy" if kind.startswith("awscc") else "policy"
    key = resource(f"{kind}.this", key_usage="ENCRYPT_DECRYPT", **{name: TEXT})
    assert keys(planned(key))[f"{kind}.this"]["KeyPolicy"] == FOR_ACCOUNT


def test_usage_of_a_replica_is_that_of_its_primary_key() -> None:
    found = keys(planned(resource("aws_kms_replica_key.this", policy=TEXT)))
    assert found["aws_kms_replica_key.this"]["KeyUsage"] == OUTSIDE


@pytest.mark.parametrize(
    ("other", "key_id", "refused"),
    [
        pytest.param("{}", "aws_kms_key.this", True, id="different"),
        pytest.param(TEXT, "aws_kms_key.this", False, id="equal"),
        pytest.param("{}", "aws_kms_key.other", False, id="of-another-key"),
    ],
)
def test_two_policies_of_one_key_are_refused(
    other: str,
    key_id: str,
    refused: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    names = "aws_kms_key_policy.a", "aws_kms_key_policy.b"
    plan = planned(
        resource("aws_kms_key.this", policy=None),
        resource("aws_kms_key.other", policy=None),
        *(resource(name, policy=each) for name, each in zip(names, (other, TEXT), strict=True)),
        configuration={
            "root_module": {
                "resources": [
                    configured(names[0], key_id),
                    configured(names[1], "aws_kms_key.this"),
                ]
            }
        },
    )
    if refused:
        with pytest.raises(ValueError, match=r"both set the policy of aws_kms_key\.this"):
            keys(plan)
    else:
        assert keys(plan)["aws_kms_key.this"]["KeyPolicy"] == FOR_ACCOUNT


def test_policies_of_instances_are_matched_by_the_index_in_the_reference() -> None:
    names = "aws_kms_key_policy.a", "aws_kms_key_policy.b"
    plan = planned(
        *(resource(f"aws_kms_key.this[{number}]", policy=None) for number in (0, 1)),
        *(resource(name, policy=f"of {name}") for name in names),
        configuration={
            "root_module": {
                "resources": [
                    configured(name, f"aws_kms_key.this[{number}]")
                    for number, name in enumerate(names)
                ]
            }
        },
    )
    for each in plan["configuration"]["root_module"]["resources"]:
        each["expressions"]["key_id"]["references"].append("aws_kms_key.this")
    assert {name: key["KeyPolicy"] for name, key in keys(plan).items()} == {
        f"aws_kms_key.this[{number}]": f"of {name}" for number, name in enumerate(names)
    }


@pytest.mark.parametrize(
    ("trusted", "status"),
    [("444455556666", 1), ("arn:aws:iam::111122223333:root", 0)],
    ids=["an-outsider", "the-owner"],
)
def test_role_that_an_outsider_may_assume_is_not_proved_harmless(
    trusted: str, status: int, tmp_path: Path
) -> None:
    trust = {"Effect": "Allow", "Principal": {"AWS": trusted}, "Action": "sts:AssumeRole"}
    plan = planned(
        resource("aws_kms_key.this", policy=CLOSED_TEXT),
        resource("aws_iam_role.host", assume_role_policy=json.dumps({"Statement": [trust]})),
    )
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    found = explain(str(path))
    assert int(found.alarming) == status
    assert any("aws_iam_role.host" in each.caller.name for each in found.controls) is bool(status)


def test_policy_for_a_key_outside_the_plan_is_checked_alone() -> None:
    plan = planned(resource("aws_kms_key_policy.this", policy=TEXT, key_id="1234"))
    assert keys(plan) == {"aws_kms_key_policy.this": {"KeyPolicy": FOR_ACCOUNT}}


def test_policy_for_an_existing_key_is_matched_by_key_id() -> None:
    plan = planned(
        resource("aws_kms_key.this", policy="{}", key_id="1234"),
        resource("aws_kms_key_policy.this", policy=TEXT, key_id="1234"),
    )
    assert keys(plan) == {"aws_kms_key.this": {"KeyPolicy": FOR_ACCOUNT}}


def test_owner_is_the_account_of_aws_caller_identity() -> None:
    caller = {"type": "aws_caller_identity", "values": {"account_id": "111122223333"}}
    prior = {"values": {"root_module": {"resources": [caller]}}}
    plan = planned(resource("aws_kms_key.this", policy=TEXT), prior_state=prior)
    assert documents.decode(json.dumps(plan)).owner == "111122223333"


def test_a_plan_may_be_larger_than_a_template(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan = planned(resource("aws_kms_key.this", policy=TEXT), padding="x" * (3 << 20))
    path.write_text(json.dumps(plan))
    assert documents.load(str(path)).kind is Kind.PLAN


@pytest.mark.parametrize(
    "broken",
    [
        {"planned_values": None},
        {"planned_values": {"root_module": []}},
        {"planned_values": {"root_module": {"resources": {"a": 1}, "child_modules": "x"}}},
        {"resource_changes": {"change": 1}, "configuration": [], "prior_state": "x"},
    ],
)
def test_malformed_plan_causes_no_traceback(broken: dict[str, Any]) -> None:
    plan = {**planned(resource("aws_kms_key_policy.this", policy=TEXT)), **broken}
    assert documents.decode(json.dumps(plan)).kind is Kind.PLAN
