"""Closed verdicts hold: random policies, templates and roles, checked with random requests.

`make test` tries a few hundred; `make fuzz` (this module as a program) as many as requested.
The seed is printed, and each document has its own, so that a single case can be reproduced.
"""

import argparse
import collections
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from generator.access.answers import Attests, Counterexample, Outcome
from generator.access.questions import accesses, outcome, policy_access
from generator.policy.evaluation import Verdict
from generator.policy.request import Leads, Principal, Request
from tests.policy import random_roles
from tests.policy.other_errors import FURTHER
from tests.policy.random_policies import Policies
from tests.policy.random_requests import (
    ALLOW_ALL,
    DECRYPTING,
    DERIVING,
    OWNER,
    Attempt,
    attempts,
    is_allowed,
    is_bound,
)
from tests.policy.random_templates import Drawn, Templates, stacks
from tests.policy.test_other_evaluators import COMMANDS, EXPLAINED, Question, answers
from tests.policy.unusual_templates import unusual_template

Json = dict[str, Any]

SEED = os.environ.get("FUZZ_SEED", "1")
POLICIES, TEMPLATES, ROLES = 500, 100, 20
REQUESTS, STACKS, REQUESTS_A_STACK = 120, 24, 10
USAGES = {"ENCRYPT_DECRYPT": DECRYPTING, "KEY_AGREEMENT": DERIVING}


@dataclass
class Tally:
    """The results for many documents."""

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    false: list[str] = field(default_factory=list)
    closed: list[Question] = field(default_factory=list)


def as_template(policy: Json, usage: str = "ENCRYPT_DECRYPT") -> Json:
    """Return a template with one key, which has *policy*."""
    properties = {"KeyPolicy": policy, "KeyUsage": usage}
    return {"Resources": {"Key": {"Type": "AWS::KMS::Key", "Properties": properties}}}


def policy_of(seed: str, number: int) -> tuple[Random, Json]:
    """Return the policy with a number, and the random generator after it."""
    dice = Random(f"policy {seed} {number}")  # noqa: S311 - nothing here is secret
    return dice, Policies(dice).policy()


def try_policy(seed: str, number: int, tally: Tally) -> None:
    """Check one random policy, and look for a request that contradicts the verdict."""
    dice, policy = policy_of(seed, number)
    usage = dice.choice(["ENCRYPT_DECRYPT"] * 9 + ["KEY_AGREEMENT"])
    found = outcome(as_template(policy, usage), "Key", OWNER)
    asked = attempts(dice, policy, OWNER, REQUESTS, USAGES[usage])
    tried = ((each, policy, policy) for each in asked)
    _count(f"policy {number} ({usage})", found, policy, tried, tally)


def template_of(seed: str, number: int) -> tuple[Random, Drawn]:
    """Return the template with a number, and the random generator after it."""
    dice = Random(f"template {seed} {number}")  # noqa: S311 - nothing here is secret
    is_usual = dice.random() < 0.35
    return dice, Templates(dice).template() if is_usual else unusual_template(dice)


def try_template(seed: str, number: int, tally: Tally) -> None:
    """Check one random template, and look for a stack that contradicts the verdict."""
    dice, drawn = template_of(seed, number)
    found = outcome(drawn.decoded(), "Key")
    if drawn.macro and found is Outcome.CLOSED:
        tally.false.append(f"template {number}: a macro\n{json.dumps(drawn.template)}")

    def asked() -> Iterator[tuple[Attempt, Json, Json]]:
        for stack in stacks(dice, drawn, STACKS):
            place = (stack.policy, stack.account, REQUESTS_A_STACK, stack.actions, stack.place)
            for attempt in attempts(dice, *place):
                yield attempt, stack.policy, stack.named

    _count(f"template {number}", found, drawn.template, asked(), tally)


def _count(
    name: str,
    found: Outcome,
    document: Json,
    asked: Iterator[tuple[Attempt, Json, Json]],
    tally: Tally,
) -> None:
    kind = name.split(maxsplit=1)[0]
    tally.outcomes[f"{kind}: {found.value}"] += 1
    if found is Outcome.OPEN:
        return
    for number, (attempt, policy, named) in enumerate(asked):
        request = attempt.request
        if is_allowed(attempt, policy) and not is_bound(named, request):
            tally.outcomes[f"{kind}: {found.value}, though a request is allowed"] += 1
            if found is Outcome.CLOSED:
                tally.false.append(f"{name}: {attempt}\n{json.dumps(document)}")
            return
        is_sample = found is Outcome.CLOSED and number % 40 == 0 and not attempt.grants
        if is_sample and not is_bound(named, request):
            tally.closed.append(Question(_stated(request), policy, _identity(request)))


def try_roles(seed: str, number: int, tally: Tally) -> None:
    """Check who controls a key through roles that assume each other."""
    dice = Random(f"roles {seed} {number}")  # noqa: S311 - nothing here is secret
    drawn = random_roles.roles(dice)
    expected = random_roles.reachable(drawn) & {role.name for role in drawn if role.controls}
    template = random_roles.template(drawn)
    found = {
        answer.caller.name.split()[1].rstrip(",")
        for answer in accesses(template)[0].answers
        if answer.caller.name.startswith("role ") and answer.verdict is Verdict.ALLOWED
    }
    tally.outcomes[f"roles: {len(expected)} control the key"] += 1
    if found != expected:
        tally.false.append(f"roles {number}: {found}, not {expected}\n{json.dumps(template)}")


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
    if request.attestation is not None and request.action != "kms:ReEncryptFrom":
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
    for attempt, count in ((try_policy, POLICIES), (try_template, TEMPLATES), (try_roles, ROLES)):
        for number in range(count):
            attempt(SEED, number, made)
    return made


def test_no_closed_verdict_is_wrong(tally: Tally) -> None:
    assert tally.false == []


def test_all_three_verdicts_occur_and_few_are_undecided(tally: Tally) -> None:
    outcomes = tally.outcomes
    for kind, total in (("policy", POLICIES), ("template", TEMPLATES)):
        assert outcomes[f"{kind}: closed"] > total / 16
        assert outcomes[f"{kind}: open"] > total / 8
    assert outcomes["policy: cannot prove"] < POLICIES / 10
    # Of the templates, some leave the policy to others: nothing can be proved about those.
    assert outcomes["template: cannot prove"] < TEMPLATES / 2


@pytest.mark.parametrize("evaluator", ["ministack", "iam-simulate"])
def test_other_evaluators_also_deny_what_is_proved_closed(evaluator: str, tally: Tally) -> None:
    _agree(evaluator, tally.closed, "denied")


@pytest.fixture(scope="module")
def counterexamples() -> list[Question]:
    return [each for number in range(45) for each in counterexamples_of(SEED, number)]


def counterexamples_of(seed: str, number: int) -> list[Question]:
    """Return the requests that are said to decrypt unattested under a random policy."""
    _, policy = policy_of(seed, number)
    asked = []
    for answer in policy_access(policy, OWNER).answers:
        example = answer.counterexample
        of_interest = answer.leads is Leads.TO_PLAINTEXT and answer.attests is not Attests.BOUND
        if example and of_interest and not example.grants:
            asked.append(Question(_of(example), policy, _identity(_of(example))))
    return asked


@pytest.mark.parametrize("evaluator", ["ministack", "iam-simulate"])
def test_other_evaluators_confirm_the_counterexamples(
    evaluator: str, counterexamples: list[Question]
) -> None:
    assert len(counterexamples) > 60
    _agree(evaluator, counterexamples, "allowed")


def _of(example: Counterexample) -> Request:
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


def _agree(evaluator: str, asked: list[Question], expected: str) -> None:
    """Assert that another evaluator answers as *expected*, or is known to be wrong."""
    wrong = _disagreements(evaluator, asked, expected)
    assert not wrong, f"{len(wrong)} of {len(asked)}, the first: {wrong[0]}"


def _disagreements(evaluator: str, asked: list[Question], expected: str) -> list[str]:
    known = [each for each in (*EXPLAINED, *FURTHER) if each.evaluator == evaluator]
    return [
        f"{evaluator}: {answer}, not {expected}: {json.dumps(question.for_others())}"
        for question, answer in zip(asked, answers(evaluator, asked), strict=True)
        if answer != expected and not any(each.concerns(question) for each in known)
    ]


def main() -> int:
    """Check as many random documents as requested; return 1 if a verdict is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=int, default=10_000)
    parser.add_argument("--templates", type=int, default=2_000)
    parser.add_argument("--roles", type=int, default=200)
    parser.add_argument("--seed", default=str(time.time_ns()))
    options = parser.parse_args()
    made, began = Tally(), time.monotonic()
    counts = (options.policies, options.templates, options.roles)
    for attempt, count in zip((try_policy, try_template, try_roles), counts, strict=True):
        for number in range(count):
            attempt(options.seed, number, made)
    shown = [
        each for n in range(0, options.policies, 20) for each in counterexamples_of(options.seed, n)
    ]
    for evaluator in COMMANDS:
        made.false += _disagreements(evaluator, made.closed, "denied")
        made.false += _disagreements(evaluator, shown, "allowed")
    made.outcomes |= {"asked of other evaluators": len(made.closed) + len(shown)}
    seconds = time.monotonic() - began
    print(f"seed {options.seed}: {dict(made.outcomes)}, {seconds:.0f} s")  # noqa: T201
    for found in made.false:
        print(found)  # noqa: T201
    return int(bool(made.false))


if __name__ == "__main__":
    sys.exit(main())
