"""What other evaluators cannot check: grants, undecided requests, reasons."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from generator.policy.evaluation import Decision, Verdict, evaluate
from generator.policy.operators import UNKNOWN, Values
from generator.policy.request import ACTIONS, Attestation, Grant, Leads, Principal, Request

OWNER, HOST, STRANGER = "111111111111", "222222222222", "333333333333"
IMAGE = "ab" * 48
MINE = Attestation({0: IMAGE})
ALLOWED, DENIED, CANNOT_PROVE = Verdict.ALLOWED, Verdict.DENIED, Verdict.CANNOT_PROVE

Json = dict[str, Any]


def statement(effect: str, principal: object, action: object, **more: object) -> Json:
    return {"Effect": effect, "Principal": principal, "Action": action, "Resource": "*", **more}


def root(account: str) -> Json:
    return {"AWS": f"arn:aws:iam::{account}:root"}


def unless(*images: str, operator: str = "StringNotEqualsIgnoreCase") -> Json:
    return {operator: {"kms:RecipientAttestation:ImageSha384": [*images]}}


def spare(*names: str) -> Json:
    return {"Effect": "Deny", "NotPrincipal": {"AWS": [*names]}, "Action": "*", "Resource": "*"}


DELEGATE = statement("Allow", root(OWNER), "kms:*", Sid="Owner")
ALLOW_HOST = statement("Allow", root(HOST), "kms:Decrypt", Sid="Host")
DENY = statement("Deny", "*", ["kms:Decrypt", "kms:ReEncryptFrom"], Condition=unless(IMAGE))
POLICY = {"Version": "2012-10-17", "Statement": [DELEGATE, ALLOW_HOST, DENY]}
CLASSIC = {"Statement": [DELEGATE, ALLOW_HOST, {**DENY, "Principal": root(HOST)}]}
EVERYTHING: Json = {"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}

ADMIN = f"arn:aws:iam::{OWNER}:role/admin"
PARENT = f"arn:aws:sts::{HOST}:assumed-role/parent/i-0123"
EVE = f"arn:aws:iam::{STRANGER}:user/eve"


def decide(  # noqa: PLR0913 - a row of a table names what differs from the usual request
    caller: str,
    policy: Json = POLICY,
    action: str = "kms:Decrypt",
    *,
    attestation: Attestation | None = None,
    identity: Json | None = EVERYTHING,
    grants: tuple[Grant, ...] = (),
) -> Decision:
    request = Request(action, Principal.parse(caller), OWNER, attestation=attestation)
    return evaluate(request, policy, [identity] if identity else [], grants)


def of_type(kind: str) -> Json:
    """Return a policy that allows callers of a type."""
    condition = {"StringEquals": {"aws:PrincipalType": kind}}
    return {"Statement": statement("Allow", "*", "kms:*", Condition=condition)}


GRANT = Grant(EVE, ["Decrypt", "DescribeKey"])


def asked(*arguments: Any, **named: Any) -> Callable[[], Decision]:  # noqa: ANN401 - as `decide`
    """Return a row's request, to be evaluated in its test and not during collection."""
    return partial(decide, *arguments, **named)


ROWS = [
    ("the parent attests the image", ALLOWED, asked(PARENT, attestation=MINE)),
    ("in capitals", ALLOWED, asked(PARENT, attestation=Attestation({0: IMAGE.upper()}))),
    ("nobody attests", DENIED, asked(PARENT)),
    ("a debug enclave", DENIED, asked(PARENT, attestation=Attestation.debug())),
    ("an image of which only PCR8 is known", CANNOT_PROVE, asked(
        PARENT, attestation=Attestation({8: IMAGE}))),
    ("the parent's role has no policy", DENIED, asked(PARENT, attestation=MINE, identity=None)),
    ("an administrator", DENIED, asked(ADMIN)),
    ("an administrator, classic policy", ALLOWED, asked(ADMIN, CLASSIC)),
    ("ReEncrypt takes no attestation", DENIED, asked(
        ADMIN, action="kms:ReEncryptFrom", attestation=MINE)),
    ("an action in other letters", DENIED, asked(ADMIN, action="KMS:decrypt")),
    ("a grantee of another account, classic policy", ALLOWED, asked(
        EVE, CLASSIC, grants=(GRANT,))),
    ("a Deny for everybody holds against the grant", DENIED, asked(EVE, grants=(GRANT,))),
    ("a grant of another operation", DENIED, asked(
        EVE, CLASSIC, grants=(Grant(EVE, ["Encrypt"]),))),
    ("a grant to another principal", DENIED, asked(
        EVE, CLASSIC, grants=(Grant(ADMIN, ["Decrypt"]),))),
    ("a grant with a constraint", CANNOT_PROVE, asked(
        EVE, CLASSIC, grants=(Grant(EVE, ["Decrypt"], {"EncryptionContextEquals": {}}),))),
    ("a grant in the key's account needs no other policy", ALLOWED, asked(
        ADMIN, {"Statement": [ALLOW_HOST]}, grants=(Grant(ADMIN, ["Decrypt"]),), identity=None)),
    ("a grant without an Allow of the grantee's account", CANNOT_PROVE, asked(
        EVE, CLASSIC, grants=(GRANT,), identity=None)),
    ("a Deny of the caller's own policy", DENIED, asked(
        PARENT, attestation=MINE, identity={"Statement": [
            EVERYTHING["Statement"], {"Effect": "Deny", "Action": "kms:*", "Resource": "*"}]})),
    ("an unknown principal is allowed", CANNOT_PROVE, asked(
        EVE, {"Statement": statement("Allow", {"AWS": f"arn:aws:iam::{UNKNOWN}:root"}, "kms:*")})),
    ("an unknown principal of another name", DENIED, asked(
        EVE, {"Statement": statement(
            "Allow", {"AWS": f"arn:aws:iam::{UNKNOWN}:role/parent"}, "kms:*")})),
    ("an unknown that changes nothing", DENIED, asked(
        EVE, {"Statement": [DENY, statement("Allow", {"AWS": UNKNOWN}, "kms:*")]})),
    ("an address that is not stated", CANNOT_PROVE, asked(EVE, {"Statement": statement(
        "Allow", "*", "kms:*", Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}})})),
    ("a policy variable", CANNOT_PROVE, asked(PARENT, attestation=MINE, policy={"Statement": [
        ALLOW_HOST, {**DENY, "Condition": unless("${aws:PrincipalTag/image}")}]})),
    ("an operator of the future", CANNOT_PROVE, asked(PARENT, attestation=MINE, policy={
        "Statement": [ALLOW_HOST, {**DENY, "Condition": unless(IMAGE, operator="StringNear")}]})),
    ("an effect that KMS does not know", CANNOT_PROVE, asked(PARENT, attestation=MINE, policy={
        "Statement": [ALLOW_HOST, {**DENY, "Effect": "DENY"}]})),
    ("two principals in one statement", CANNOT_PROVE, asked(EVE, {"Statement": {
        **ALLOW_HOST, "NotPrincipal": "*"}})),
    ("no known statements", CANNOT_PROVE, asked(EVE, {})),
    ("an unknown list", CANNOT_PROVE, asked(EVE, {"Statement": UNKNOWN})),
    ("a role with a path, named without", DENIED, partial(
        evaluate,
        Request("kms:Decrypt", Principal.session(f"arn:aws:iam::{HOST}:role/a/parent", "s"), OWNER),
        {"Statement": statement("Allow", {"AWS": f"arn:aws:iam::{HOST}:role/parent"}, "kms:*")},
        [EVERYTHING])),
    ("a deleted principal", DENIED, asked(
        EVE, {"Statement": statement("Allow", {"AWS": "AROAEXAMPLEID"}, "kms:*")})),
    ("the type of a caller without credentials", ALLOWED, asked("*", of_type("Anonymous"))),
    ("the type of a service", CANNOT_PROVE, asked("s3.amazonaws.com", of_type("Service"))),
    ("NotPrincipal lists caller and account", ALLOWED, asked(ADMIN, {"Statement": [
        DELEGATE, spare(f"arn:aws:iam::{OWNER}:root", ADMIN)]})),
    ("NotPrincipal lists the caller alone", CANNOT_PROVE, asked(ADMIN, {"Statement": [
        DELEGATE, spare(ADMIN)]})),
    ("NotPrincipal lists another principal", DENIED, asked(ADMIN, {"Statement": [
        DELEGATE, spare(f"arn:aws:iam::{HOST}:root")]})),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "ask"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS])
def test_request_has_the_expected_verdict(expected: Verdict, ask: Callable[[], Decision]) -> None:
    decision = ask()
    assert decision.verdict is expected, decision


def test_reason_names_the_deciding_statement() -> None:
    denied = decide(ADMIN)
    assert (denied.policy, denied.statement, denied.sid) == ("key policy", 2, None)
    assert denied.reason == "statement 3 of the key policy denies it"
    allowed = decide(PARENT, attestation=MINE)
    assert (allowed.statement, allowed.sid) == (1, "Host")
    assert allowed.reason == "statement 2 (Host) of the key policy allows it"


def test_reason_names_the_missing_permission() -> None:
    alone = decide(PARENT, attestation=MINE, identity=None)
    assert alone.statement is None
    assert "delegates to the caller's identity policies, and none allows it" in alone.reason
    stranger = decide(EVE, {"Statement": [ALLOW_HOST]})
    assert stranger.reason == "no statement of the key policy and no grant allows it"


def test_given_condition_keys_are_decided() -> None:
    policy = {
        "Statement": statement(
            "Allow", "*", "kms:*", Condition={"IpAddress": {"aws:sourceip": "10.0.0.0/8"}}
        )
    }
    caller = Principal.parse(EVE)
    rows: list[tuple[dict[str, Values], Verdict]] = [
        ({"aws:SourceIp": "10.1.2.3"}, ALLOWED),
        ({"AWS:SOURCEIP": "192.0.2.1"}, DENIED),
        ({"aws:SourceIp": ()}, DENIED),
    ]
    for context, expected in rows:
        request = Request("kms:Decrypt", caller, OWNER, context=context)
        assert evaluate(request, policy, [EVERYTHING]).verdict is expected
    complete = Request("kms:Decrypt", caller, OWNER, context_is_complete=True)
    assert evaluate(complete, policy, [EVERYTHING]).verdict is DENIED


@pytest.mark.parametrize("action", ACTIONS)
def test_attestation_counts_only_for_actions_with_a_recipient(action: str) -> None:
    """AWS KMS developer guide, cryptographic attestation: only these operations."""
    takes = {"Decrypt", "DeriveSharedSecret", "GenerateDataKey", "GenerateDataKeyPair"}
    policy = {
        "Statement": statement(
            "Allow", root(HOST), "kms:*", Condition=unless(IMAGE, operator="StringEquals")
        )
    }
    allowed = decide(PARENT, policy, action, attestation=MINE).verdict is ALLOWED
    assert allowed is (action.partition(":")[2] in takes)


def test_actions_cover_every_kind_of_risk() -> None:
    assert {facts.leads for facts in ACTIONS.values()} == set(Leads)


@pytest.mark.parametrize(
    "name", ["", "eve", "arn:aws:s3:::bucket", "arn:aws:iam::1:root", "222222222222"]
)
def test_invalid_principal_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a principal"):
        Principal.parse(name)
