"""audit: the events come from CloudTrail's event history in the key's region."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.trail_events import ARN, BOUND, TODAY, UNBOUND, attested, put_policy
from tests.support.verb import assert_one_line, run

if TYPE_CHECKING:
    from rehearsal.aws import Credentials
    from tests.support.endpoint import Endpoint


class History:
    """CloudTrail's LookupEvents: at most fifty events per page, here one.

    https://docs.aws.amazon.com/awscloudtrail/latest/APIReference/API_LookupEvents.html
    """

    def __init__(
        self, endpoint: Endpoint, events: list[dict[str, Any]], policy: str | None
    ) -> None:
        """Play it at *endpoint*; *policy* is the key's current policy."""
        self.events = events
        self.requests: list[dict[str, Any]] = []
        endpoint.played["LookupEvents"] = self._answer
        if policy is None:
            endpoint.refusals["GetKeyPolicy"] = "AccessDeniedException"
        else:
            endpoint.played["GetKeyPolicy"] = lambda _: {"Policy": policy, "PolicyName": "default"}

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self.requests.append(request)
        (attribute,) = request["LookupAttributes"]
        assert attribute["AttributeKey"] == "ResourceName"
        found = self.events if attribute["AttributeValue"] == ARN else []
        at = int(request.get("NextToken", "0"))
        page = [
            {
                "EventId": each["eventID"],
                "EventName": each["eventName"],
                "EventTime": TODAY.timestamp(),
                "CloudTrailEvent": json.dumps(each),
                "Resources": [{"ResourceType": "AWS::KMS::Key", "ResourceName": ARN}],
            }
            for each in found[at : at + 1]
        ]
        more = {"NextToken": str(at + 1)} if at + 1 < len(found) else {}
        return {"Events": page, **more}


POLICY = put_policy(0, BOUND)["requestParameters"]["policy"]


@pytest.mark.parametrize(
    ("policy", "findings"),
    [(POLICY, ["bound", "unbound"]), (None, ["attested", "attested"])],
    ids=["policy-known", "policy-hidden"],
)
def test_all_pages_of_event_history_are_read_in_the_region_of_the_key(
    policy: str | None, findings: list[str], endpoint: Endpoint, owner: Credentials
) -> None:
    history = History(endpoint, [attested(BOUND), attested(UNBOUND, 1)], policy)
    command = ("audit", "--key", ARN, "--days", "7", "--format", "json")
    result = run(*command, environment=endpoint.environment(owner, AWS_REGION="eu-central-1"))
    found = json.loads(result.stdout)
    assert [each["finding"] for each in found["decryptions"]] == findings
    assert result.returncode == 1
    assert ("warning: the key's policy cannot be read" in result.stderr) is (policy is None)
    start = history.requests[0]["StartTime"]
    assert abs(TODAY.timestamp() - 7 * 86400 - start) < 600


def test_missing_key_is_an_error(endpoint: Endpoint, owner: Credentials) -> None:
    History(endpoint, [], None)
    endpoint.refusals["GetKeyPolicy"] = "NotFoundException"
    environment = endpoint.environment(owner)
    assert_one_line(
        run("audit", "--key", ARN, environment=environment), f"error: {ARN}: KMS has no"
    )
    deleted = run("audit", "--key", ARN, "--images", BOUND, environment=environment)
    assert (deleted.returncode, deleted.stderr) == (0, "")


@pytest.mark.parametrize("code", ["ThrottlingException", "ExpiredTokenException", "AccessDenied"])
@pytest.mark.parametrize("operation", ["GetKeyPolicy", "LookupEvents"])
def test_refusal_of_any_call_is_one_line_error(
    operation: str, code: str, endpoint: Endpoint, owner: Credentials
) -> None:
    History(endpoint, [], POLICY)
    endpoint.refusals[operation] = code
    result = run("audit", "--key", ARN, environment=endpoint.environment(owner))
    assert_one_line(result, f"error: {ARN}: {operation}: {code}: ")
