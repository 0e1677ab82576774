"""Closed verdicts hold: random policies and templates, checked with random requests.

`make test` tries a few hundred; `make fuzz` (this module as a program) as many as requested.
The seed is printed, and each policy has its own, so that a single case can be reproduced.
"""

import argparse
import collections
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from generator.access.answers import Attests, Counterexample, Outcome
from generator.access.questions import outcome, policy_access
from generator.policy.evaluation import Verdict, evaluate
from generator.policy.request import Leads, Request
from tests.policy.random_policies import (
    OWNER,
    Policies,
    Templates,
    deployments,
    is_bound,
    requests,
)
from tests.policy.test_other_evaluators import EXPLAINED, Question, answers

Json = dict[str, Any]

SEED = os.environ.get("FUZZ_SEED", "1")
POLICIES, TEMPLATES = 500, 100
REQUESTS, STACKS, REQUESTS_A_STACK = 120, 20, 12
ALLOW_ALL: Json = {
    "Version": "2012-10-17",
    "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"},
}


@dataclass
class Tally:
    """The results for many documents."""

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    false: list[str] = field(default_factory=list)
    closed: list[Question] = field(default_factory=list)


def as_template(policy: Json) -> Json:
    """Return a template with one key, which has *policy*."""
    key = {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": policy}}
    return {"Resources": {"Key": key}}


def is_open(request: Request, policy: Json) -> bool:
    """Return whether *request* decrypts unattested, according to the evaluator."""
    allowed = evaluate(request, policy, [ALLOW_ALL]).verdict is Verdict.ALLOWED
    return allowed and not is_bound(policy, request)


def try_policy(seed: str, number: int, tally: Tally) -> None:
    """Check one random policy, and look for a request that contradicts the verdict."""
    dice = Random(f"policy {seed} {number}")  # noqa: S311 - nothing here is secret
    policy = Policies(dice).policy()
    found = outcome(as_template(policy), "Key", OWNER)
    asked = [*requests(dice, policy, OWNER, REQUESTS)]
    _count(f"policy {number}", found, policy, ((each, policy) for each in asked), tally)


def try_template(seed: str, number: int, tally: Tally) -> None:
    """Check one random template, and look for a deployment that contradicts the verdict."""
    dice = Random(f"template {seed} {number}")  # noqa: S311 - nothing here is secret
    template = Templates(dice).template()
    found = outcome(template, "Key")

    def asked() -> Iterator[tuple[Request, Json]]:
        for stack, policy in deployments(dice, template, STACKS):
            account = str(stack.parameters["AWS::AccountId"])
            place = [stack.parameters["AWS::Partition"], "kms", stack.parameters["AWS::Region"]]
            for request in requests(dice, policy, account, REQUESTS_A_STACK):
                if request.key_arn.split(":")[1:4] == place:
                    yield request, policy

    _count(f"template {number}", found, template, asked(), tally)


def _count(
    name: str, found: Outcome, document: Json, asked: Iterator[tuple[Request, Json]], tally: Tally
) -> None:
    tally.outcomes[found.value] += 1
    for number, (request, policy) in enumerate(asked):
        if found is not Outcome.OPEN and is_open(request, policy):
            tally.outcomes[f"{found.value}, though a request is allowed"] += 1
            if found is Outcome.CLOSED:
                tally.false.append(f"{name}: {request}\n{json.dumps(document)}")
            return
        unbound = not is_bound(policy, request)
        if found is Outcome.CLOSED and number % 40 == 0 and unbound and request.key_account:
            tally.closed.append(Question(_stated(request), policy, _identity(request)))


def _identity(request: Request) -> list[Json]:
    return [ALLOW_ALL] if request.principal.account else []


def _stated(request: Request) -> Request:
    """Add every condition key, for evaluators that derive none themselves."""
    context = {key: value for key, value in request.context.items() if value != ()}
    context["aws:SecureTransport"] = "true"
    caller = request.principal
    if caller.account:
        context |= {"aws:PrincipalArn": caller.names[0], "aws:PrincipalAccount": caller.account}
        context["kms:CallerAccount"] = caller.account
    if caller.kind.name != "SERVICE":
        context["aws:PrincipalType"] = caller.kind.value
    service = str(caller.kind.name == "SERVICE").lower()
    context["aws:PrincipalIsAWSService"] = service
    if request.attestation is not None and request.action == "kms:Decrypt":
        for number, digest in request.attestation.pcrs.items():
            context[f"kms:RecipientAttestation:PCR{number}"] = digest
        for number, digest in request.attestation.nitrotpm.items():
            context[f"kms:RecipientAttestation:NitroTPMPCR{number}"] = digest
        if 0 in request.attestation.pcrs:
            context["kms:RecipientAttestation:ImageSha384"] = request.attestation.pcrs[0]
    return Request(
        request.action,
        caller,
        request.key_account,
        request.key_arn,
        request.attestation,
        {key: [*value] if isinstance(value, tuple) else value for key, value in context.items()},
        context_is_complete=True,
    )


@pytest.fixture(scope="module")
def tally() -> Tally:
    print(f"seed {SEED}")  # noqa: T201 - so that a failure can be reproduced
    made = Tally()
    for number in range(POLICIES):
        try_policy(SEED, number, made)
    for number in range(TEMPLATES):
        try_template(SEED, number, made)
    return made


def test_no_closed_verdict_is_wrong(tally: Tally) -> None:
    assert tally.false == []


def test_all_three_verdicts_occur_and_few_are_undecided(tally: Tally) -> None:
    total = POLICIES + TEMPLATES
    assert tally.outcomes["closed"] > total / 8
    assert tally.outcomes["open"] > total / 8
    assert tally.outcomes["cannot prove"] < total / 20


@pytest.mark.parametrize("evaluator", ["ministack", "iam-simulate"])
def test_other_evaluators_also_deny_what_is_proved_closed(evaluator: str, tally: Tally) -> None:
    _agree(evaluator, tally.closed, "denied")


@pytest.mark.parametrize("evaluator", ["ministack", "iam-simulate"])
def test_other_evaluators_confirm_the_counterexamples(evaluator: str) -> None:
    asked = []
    for number in range(60):
        dice = Random(f"policy {SEED} {number}")  # noqa: S311 - nothing here is secret
        policy = Policies(dice).policy()
        for answer in policy_access(policy, OWNER).answers:
            example = answer.counterexample
            of_interest = answer.leads is Leads.TO_PLAINTEXT and answer.attests is not Attests.BOUND
            if example and of_interest and not example.grants:
                asked.append(Question(_of(example), policy, _identity(_of(example))))
    assert len(asked) > 60
    _agree(evaluator, asked, "allowed")


def _of(example: Counterexample) -> Request:
    from generator.policy.request import Principal

    return _stated(
        Request(
            example.action,
            Principal.parse(example.principal),
            OWNER,
            example.key_arn,
            example.attestation,
            example.context,
        )
    )


FURTHER: dict[str, list[tuple[str, Callable[[Question], bool]]]] = {
    "ministack": [
        ("it has no federated users", lambda q: "federated-user" in str(q.request.principal)),
    ],
    "iam-simulate": [],
}


def _agree(evaluator: str, asked: list[Question], expected: str) -> None:
    """Assert that another evaluator answers as *expected*, or is known to be wrong."""
    wrong = []
    for question, answer in zip(asked, answers(evaluator, asked), strict=True):
        reasons = [e.why for e in EXPLAINED if e.evaluator == evaluator and e.concerns(question)]
        reasons += [why for why, concerns in FURTHER[evaluator] if concerns(question)]
        if answer != expected and not reasons:
            wrong.append(f"{answer}: {json.dumps(question.for_others())}")
    assert not wrong, f"{len(wrong)} of {len(asked)}, the first: {wrong[0]}"


def main() -> int:
    """Check as many random documents as requested; return 1 if a verdict is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=int, default=10_000)
    parser.add_argument("--templates", type=int, default=2_000)
    parser.add_argument("--seed", default=str(time.time_ns()))
    options = parser.parse_args()
    made, began = Tally(), time.monotonic()
    for attempt, count in ((try_policy, options.policies), (try_template, options.templates)):
        for number in range(count):
            attempt(options.seed, number, made)
            made.closed.clear()
    seconds = time.monotonic() - began
    print(f"seed {options.seed}: {dict(made.outcomes)}, {seconds:.0f} s")  # noqa: T201
    for found in made.false:
        print(found)  # noqa: T201
    return int(bool(made.false))


if __name__ == "__main__":
    sys.exit(main())
