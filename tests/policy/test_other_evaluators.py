"""Two independent evaluators check ours, on thousands of generated policies.

Ours rarely, and deliberately, answers "cannot prove". Where it decides, the others decide the
same, or ``EXPLAINED`` has the reason why not.
"""

import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from generator.policy.evaluation import Verdict, evaluate
from generator.policy.operators import listed
from generator.policy.request import Attestation, Kind, Principal, Request
from tests.support.machine import lacking
from tests.support.paths import PROJECT

REHEARSAL = PROJECT / ".rehearsal"
SEED, COUNT = 1, 8000

COMMANDS = {
    "ministack": [
        str(REHEARSAL / "venv/bin/python"),
        str(Path(__file__).with_name("ministack_driver.py")),
    ],
    "iam-simulate": [
        "node",
        str(Path(__file__).with_name("iam_simulate_driver.mjs")),
        str(REHEARSAL),
    ],
}
NEEDED = {
    "ministack": (REHEARSAL / "venv/bin/python", "the rehearsal's environment: run `make test`"),
    "iam-simulate": (
        REHEARSAL / "node_modules/@cloud-copilot/iam-simulate",
        "Debian's nodejs and npm",
    ),
}


# --- the questions ---

OWNER, HOST, STRANGER = "111111111111", "222222222222", "333333333333"
KEY_ARN = f"arn:aws:kms:eu-west-1:{OWNER}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
IMAGE, OTHER_IMAGE, ZEROS = "ab" * 48, "cd" * 48, "0" * 96
IMAGE_KEY, PCR_KEY = "kms:RecipientAttestation:ImageSha384", "kms:RecipientAttestation:PCR8"

CALLERS = [
    f"arn:aws:iam::{OWNER}:role/admin",
    f"arn:aws:iam::{OWNER}:user/ann",
    f"arn:aws:iam::{OWNER}:root",
    f"arn:aws:iam::{HOST}:role/parent",
    f"arn:aws:iam::{HOST}:user/bob",
    f"arn:aws:iam::{STRANGER}:role/eve",
    f"arn:aws:sts::{OWNER}:assumed-role/admin/session",
    f"arn:aws:sts::{HOST}:assumed-role/parent/i-1",
    "codebuild.amazonaws.com",
    "*",
]
ACTIONS = ["kms:Decrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:CreateGrant"]

Json = dict[str, Any]

ALLOW_ALL: Json = {
    "Version": "2012-10-17",
    "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"},
}


@dataclass(frozen=True)
class Question:
    """One request, and the policies that decide it."""

    request: Request
    key_policy: Json
    identity_policies: list[Json]

    def for_others(self) -> Json:
        """Return it in the format of the other evaluators' drivers."""
        caller = self.request.principal
        return {
            "principal": caller.names[-1] if caller.names else "*",
            "account": caller.account,
            "action": self.request.action,
            "key_arn": self.request.key_arn,
            "key_account": self.request.key_account,
            "context": self.request.context,
            "key_policy": self.key_policy,
            # The root user has every permission of its account.
            "identity_policies": [ALLOW_ALL]
            if caller.kind is Kind.ROOT
            else self.identity_policies,
        }


def questions(seed: int, count: int) -> list[Question]:
    dice = random.Random(seed)  # noqa: S311  (nothing here is secret)
    return [_question(dice) for _ in range(count)]


def _question(dice: random.Random) -> Question:
    caller = Principal.parse(dice.choice(CALLERS))
    action = dice.choice(ACTIONS)
    attestation = None
    if action in ("kms:Decrypt", "kms:GenerateDataKey") and dice.random() < 0.5:
        image = dice.choice([IMAGE, IMAGE.upper(), OTHER_IMAGE, ZEROS])
        attestation = Attestation({0: image, 8: dice.choice([IMAGE, ZEROS])})
    return Question(
        Request(
            action,
            caller,
            OWNER,
            KEY_ARN,
            attestation,
            _context(dice, caller, attestation),
            context_is_complete=True,
        ),
        {"Version": "2012-10-17", "Statement": _statements(dice, in_key_policy=True)},
        [
            dice.choice(
                [
                    ALLOW_ALL,
                    {"Version": "2012-10-17", "Statement": _statements(dice, in_key_policy=False)},
                ]
            )
            for _ in range(
                dice.choice([0, 1, 1, 2]) if caller.kind in (Kind.USER, Kind.ROLE) else 0
            )
        ],
    )


CONTEXT: dict[str, Sequence[str | list[str]]] = {
    "aws:PrincipalTag/team": ["Blue", "blue", "red", "a*b", "bl?e", ""],
    "aws:MultiFactorAuthAge": ["0", "60", "3600", "-1", "1e3"],
    "aws:TokenIssueTime": ["2026-01-01T00:00:00Z", "2026-06-01T12:00:00Z", "1767225600"],
    "aws:MultiFactorAuthPresent": ["true", "false"],
    "aws:SourceIp": ["10.0.0.1", "10.1.2.3", "192.0.2.7", "2001:db8::1"],
    "aws:SourceArn": ["arn:aws:s3:::bucket/a/b", "arn:aws:sns:eu-west-1:222222222222:topic"],
    "kms:EncryptionContextKeys": [["app"], ["app", "stage"], ["Stage"]],
}
"""Values for a request, by condition key: one key of each type."""


def _context(
    dice: random.Random, caller: Principal, attestation: Attestation | None
) -> dict[str, str | list[str]]:
    """Return every condition key of the request: the other evaluators derive none themselves."""
    context: dict[str, str | list[str]] = {
        key: dice.choice(values) for key, values in CONTEXT.items() if dice.random() < 0.6
    }
    context["aws:SecureTransport"] = "true"
    if caller.account:
        context["aws:PrincipalArn"] = caller.names[0]
        context["aws:PrincipalAccount"] = caller.account
        context["kms:CallerAccount"] = caller.account
    if attestation:
        context[IMAGE_KEY] = attestation.pcrs[0]
        context[PCR_KEY] = attestation.pcrs[8]
    return context


# --- policies ------------------------------------------------------------------------------------


def _one_or_more(dice: random.Random, values: Sequence[str]) -> str | list[str]:
    several = [dice.choice(values) for _ in range(dice.choice([1, 1, 2, 3]))]
    return several[0] if len(several) == 1 and dice.random() < 0.5 else several


def _statements(dice: random.Random, *, in_key_policy: bool) -> Json | list[Json]:
    several = [
        _statement(dice, number, in_key_policy=in_key_policy)
        for number in range(dice.choice([1, 2, 3, 4]))
    ]
    return several[0] if len(several) == 1 and dice.random() < 0.5 else several


def _statement(dice: random.Random, number: int, *, in_key_policy: bool) -> Json:
    statement: Json = {"Sid": f"S{number}", "Effect": dice.choice(["Allow", "Allow", "Deny"])}
    if in_key_policy:
        negated = dice.random() < 0.1
        statement["NotPrincipal" if negated else "Principal"] = _principals(
            dice, everybody=not negated
        )
    action = "NotAction" if dice.random() < 0.12 else "Action"
    statement[action] = _one_or_more(dice, ACTION_PATTERNS)
    resource = "NotResource" if dice.random() < 0.06 else "Resource"
    statement[resource] = _one_or_more(dice, RESOURCE_PATTERNS)
    if dice.random() < 0.5:
        statement["Condition"] = _condition(dice)
    return statement


ACTION_PATTERNS = [
    *("*", "kms:*", "kms:Decrypt", "KMS:decrypt", "kms:De*", "kms:??crypt", "kms:*Data*"),
    *("kms:GenerateDataKey*", "kms:ReEncrypt*", "kms:CreateGrant", "kms:Describe*", "s3:*"),
]
RESOURCE_PATTERNS = [
    *("*", "*", "*", KEY_ARN, "arn:aws:kms:*:111111111111:key/*", "arn:aws:kms:*:*:key/9*"),
    *("arn:aws:s3:::bucket", f"{KEY_ARN[:-1]}?", "arn:aws:kms:eu-west-?:*"),
]


def _principals(dice: random.Random, *, everybody: bool) -> str | Json:
    if everybody and dice.random() < 0.25:
        return "*" if dice.random() < 0.5 else {"AWS": "*"}
    if dice.random() < 0.1:
        return {"Service": dice.choice(["codebuild.amazonaws.com", "s3.amazonaws.com"])}
    named = [name for name in CALLERS if name.startswith("arn:")]
    accounts = [f"arn:aws:iam::{HOST}:root", f"arn:aws:iam::{OWNER}:root", HOST, OWNER]
    return {"AWS": _one_or_more(dice, named + 2 * accounts)}


def _condition(dice: random.Random) -> Json:
    condition: Json = {}
    for _ in range(dice.choice([1, 1, 2])):
        key, operators, values = dice.choice(TESTS)
        name = dice.choice(operators)
        if name != "Null":
            name += "IfExists" if dice.random() < 0.2 else ""
            multivalued = key == "kms:EncryptionContextKeys"
            if dice.random() < (0.9 if multivalued else 0.1):
                name = dice.choice(["ForAllValues:", "ForAnyValue:"]) + name
        else:
            values = ["true", "false"]
        key = dice.choice([key, key, key.lower()])
        condition.setdefault(name, {})[key] = _one_or_more(dice, values)
    return condition


STRING = ["StringEquals", "StringNotEquals", "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase"]
LIKE = ["StringLike", "StringNotLike"]
NUMERIC = [
    *("NumericEquals", "NumericNotEquals", "NumericLessThan", "NumericLessThanEquals"),
    *("NumericGreaterThan", "NumericGreaterThanEquals"),
]
DATE = [name.replace("Numeric", "Date") for name in NUMERIC]
ARN = ["ArnEquals", "ArnNotEquals", "ArnLike", "ArnNotLike"]

DATES = ["2026-01-01T00:00:00Z", "2026-03-01", "1767225600"]
TESTS: list[tuple[str, list[str], list[str]]] = [
    # Frequent enough to cover each known difference.
    ("aws:TokenIssueTime", ["DateNotEquals"], DATES[:2]),
    ("aws:SourceIp", ["NotIpAddress"], ["10.0.0.0/8", "192.0.2.7"]),
    ("aws:PrincipalTag/team", ["StringEquals"], ["a${*}b", "bl${?}e", "red"]),
    (IMAGE_KEY, [*STRING, *LIKE, "Null"], [IMAGE, IMAGE.upper(), ZEROS, "none", "*", "ab*"]),
    (PCR_KEY, [*STRING, "Null"], [IMAGE, ZEROS]),
    ("kms:CallerAccount", [*STRING, *LIKE], [OWNER, HOST, "1*", "*"]),
    ("aws:PrincipalArn", ARN, [*CALLERS[:5], "arn:aws:iam::*:role/*", f"arn:aws:iam::{HOST}:*"]),
    ("aws:PrincipalAccount", [*STRING, "Null"], [OWNER, HOST, STRANGER]),
    (
        "aws:PrincipalTag/team",
        [*STRING, *LIKE, "Null"],
        ["Blue", "blue", "b*", "?lue", "${*}", "a${*}b"],
    ),
    ("aws:MultiFactorAuthAge", [*NUMERIC, "Null"], ["0", "60", "1000", "3600.0"]),
    ("aws:TokenIssueTime", [*DATE, "Null"], DATES),
    ("aws:MultiFactorAuthPresent", ["Bool", "Null"], ["true", "false", "True"]),
    ("aws:SecureTransport", ["Bool"], ["true", "false"]),
    ("aws:SourceIp", ["IpAddress", "NotIpAddress"], ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]),
    (
        "aws:SourceArn",
        [*ARN, "Null"],
        ["arn:aws:s3:::bucket/*", "arn:aws:*:*:*:topic", "arn:*:s3:*"],
    ),
    ("kms:EncryptionContextKeys", [*STRING, *LIKE, "Null"], ["app", "stage", "s*"]),
]
"""Condition key, its operators, values that a policy may compare it with."""


# --- where the others differ ---


@dataclass(frozen=True)
class Explained:
    """A class of questions that another evaluator answers differently, and why ours is right."""

    evaluator: str
    why: str
    concerns: Callable[[Question], bool]


def _conditions(question: Question) -> Iterator[tuple[str, str, object]]:
    """Yield (operator, key, values) of every condition of the question's policies."""
    for policy in (question.key_policy, *question.identity_policies):
        statements = policy["Statement"]
        for statement in statements if isinstance(statements, list) else [statements]:
            for name, keys in statement.get("Condition", {}).items():
                for key, values in keys.items():
                    yield name, key.lower(), values


def _several(values: object) -> bool:
    return isinstance(values, list) and len(values) > 1


EXPLAINED = [
    Explained(
        "ministack",
        "it knows only IAM's principals, neither services nor anonymous callers",
        lambda question: question.request.principal.kind in (Kind.SERVICE, Kind.ANONYMOUS),
    ),
    Explained(
        "ministack",
        "it applies no statement with NotPrincipal, as its documentation says",
        lambda question: '"NotPrincipal"' in json.dumps(question.key_policy),
    ),
    Explained(
        "ministack",
        "a session's aws:PrincipalArn is the role's ARN (AWS, global condition keys), not STS's",
        lambda question: (
            len(question.request.principal.names) > 1
            and any(key == "aws:principalarn" for _, key, _ in _conditions(question))
        ),
    ),
    Explained(
        "ministack",
        "it reads only the first of several values of Null; any of them may match",
        lambda question: any(
            name == "Null" and _several(values) for name, _, values in _conditions(question)
        ),
    ),
    Explained(
        "ministack",
        "it knows no escapes such as ${*}",
        lambda question: any("${" in str(values) for _, _, values in _conditions(question)),
    ),
    Explained(
        "iam-simulate",
        "a negated operator must match none of several values (AWS: NOR); for dates it needs one",
        lambda question: any(
            "DateNotEquals" in name and _several(values)
            for name, _, values in _conditions(question)
        ),
    ),
    Explained(
        "iam-simulate",
        "anonymous requests have an aws:PrincipalAccount: anonymous (AWS, global condition keys)",
        lambda question: (
            question.request.principal.kind is Kind.ANONYMOUS
            and any(key == "aws:principalaccount" for _, key, _ in _conditions(question))
        ),
    ),
    Explained(
        "iam-simulate",
        "an IPv6 address is in no IPv4 network, which satisfies NotIpAddress",
        lambda question: (
            ":" in str(question.request.context.get("aws:SourceIp"))
            and any("NotIpAddress" in name for name, _, _ in _conditions(question))
        ),
    ),
    Explained(
        "iam-simulate",
        "escapes such as ${*} are allowed wherever variables are (AWS), not only with wildcards",
        lambda question: any(
            "Like" not in name and "${" in str(values) for name, _, values in _conditions(question)
        ),
    ),
    Explained(
        "iam-simulate",
        "it does not read seconds since 1970, which AWS accepts for a date",
        lambda question: any(
            key == "aws:tokenissuetime"
            and "1767225600"
            in (*listed(values), question.request.context.get("aws:TokenIssueTime"))
            for _, key, values in _conditions(question)
        ),
    ),
]


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return questions(SEED, COUNT)


def answers(evaluator: str, asked: list[Question]) -> list[str]:
    command = COMMANDS[evaluator]
    needed, package = NEEDED[evaluator]
    if not (needed.exists() and shutil.which(command[0])):
        lacking(package)
    lines = "".join(json.dumps(question.for_others()) + "\n" for question in asked)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("evaluator", COMMANDS)
def test_other_evaluator_agrees_or_the_difference_is_explained(
    evaluator: str, asked: list[Question]
) -> None:
    theirs = answers(evaluator, asked)
    assert len(theirs) == len(asked)
    unexplained = []
    used = set()
    for question, answer in zip(asked, theirs, strict=True):
        assert answer in ("allowed", "denied"), question
        ours = evaluate(question.request, question.key_policy, question.identity_policies)
        if ours.verdict is Verdict.CANNOT_PROVE or ours.verdict.value == answer:
            continue
        reasons = [e.why for e in EXPLAINED if e.evaluator == evaluator and e.concerns(question)]
        used.update(reasons)
        if not reasons:
            unexplained.append(
                f"theirs: {answer}, ours: {ours}\n{json.dumps(question.for_others())}"
            )
    assert not unexplained, f"{len(unexplained)} disagreements, the first:\n{unexplained[0]}"
    stale = {e.why for e in EXPLAINED if e.evaluator == evaluator} - used
    assert not stale, f"no disagreement of this kind any more: {stale}"


def test_few_requests_are_undecided_and_both_verdicts_are_common(asked: list[Question]) -> None:
    verdicts = [evaluate(q.request, q.key_policy, q.identity_policies).verdict for q in asked]
    assert verdicts.count(Verdict.CANNOT_PROVE) < 0.02 * len(asked)
    assert verdicts.count(Verdict.ALLOWED) > 0.1 * len(asked)
    assert verdicts.count(Verdict.DENIED) > 0.1 * len(asked)
