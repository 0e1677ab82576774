"""Keys that exist: their account and ARN are known; policy and grants decide the rest."""

import pytest

from generator.access.answers import Attests, Outcome
from generator.access.questions import policy_access
from generator.policy.evaluation import Verdict
from generator.policy.request import Leads
from tests.policy.drafts import ACCOUNT, ARN, OWNER, allow, stored, unless


def test_the_owner_of_a_live_key_is_the_account_of_its_arn() -> None:
    host, owner = (
        allow({"AWS": f"arn:aws:iam::{each}:root"}, "kms:*") for each in (ACCOUNT, OWNER)
    )
    found = policy_access(stored(host, owner, unless()), OWNER, arn=ARN)
    assert found.verdict is Outcome.CLOSED
    controls = [a for a in found.answers if a.leads is Leads.TO_CONTROL and a.caller.outsider]
    assert Verdict.ALLOWED in {answer.verdict for answer in controls}


def test_resource_of_a_live_key_is_matched_by_its_arn() -> None:
    own = {**allow({"AWS": OWNER}, "kms:*"), "Resource": ARN}
    spared = unless(StringNotEquals={"kms:CallerAccount": [OWNER]})
    assert policy_access(stored(own, spared), OWNER, arn=ARN).verdict is Outcome.OPEN
    other = {**own, "Resource": ARN.replace("eu-west-1", "eu-west-2")}
    assert policy_access(stored(other, spared), OWNER, arn=ARN).verdict is Outcome.CLOSED


ANONYMOUS, SERVICE = "somebody without credentials", "an AWS service"


@pytest.mark.parametrize(
    ("operator", "value", "callers"),
    [
        ("StringEquals", "Anonymous", {ANONYMOUS, SERVICE}),
        ("StringEquals", "AssumedRole", {SERVICE}),
        ("StringNotEquals", ["Anonymous", "AWSService"], {SERVICE}),
        ("Null", "true", {SERVICE}),
        ("Null", "false", {ANONYMOUS, SERVICE}),
    ],
)
def test_principal_type_is_known_for_all_callers_except_services(
    operator: str, value: object, callers: set[str]
) -> None:
    condition = {operator: {"aws:PrincipalType": value}}
    found = policy_access(stored(allow("*", "kms:Decrypt", **condition)), OWNER)
    names = {answer.caller.name for answer in found.answers if answer.verdict is Verdict.ALLOWED}
    assert names & {ANONYMOUS, SERVICE} == callers


def test_hundreds_of_principals_are_summarized() -> None:
    names = [f"arn:aws:iam::4444{number:08}:role/r{number}" for number in range(400)]
    policy = stored(allow({"AWS": OWNER}, "kms:*"), allow({"AWS": names}, "kms:Decrypt"), unless())
    found = policy_access(policy, OWNER)
    assert found.verdict is Outcome.CLOSED
    bound = [a for a in found.answers if a.attests is Attests.BOUND and a.caller.outsider]
    described = {answer.caller.name for answer in bound if answer.verdict is Verdict.ALLOWED}
    assert described == {"one of the 400 accounts that the policy names"}
