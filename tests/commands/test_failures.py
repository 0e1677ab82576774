"""Every verb that calls AWS fails with one line when AWS, or the connection to it, fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.example import PARAMETERS
from tests.support.verb import assert_one_line, run

if TYPE_CHECKING:
    from rehearsal.aws import Credentials
    from tests.support.endpoint import Endpoint

ADDRESS = "s3://bucket/encrypted/application_code.zip.encrypted"


class Call(NamedTuple):
    """A command, the beginning of its error line, and an operation that it calls."""

    command: tuple[str, ...]
    subject: str
    operation: str


FIRST = {
    "build": Call(("build", "--stack-name", "s"), "stack s", "DescribeStacks"),
    "deploy": Call(
        ("deploy", "--stack-name", "s", *(f"{name}={value}" for name, value in PARAMETERS.items())),
        "stack s",
        "DescribeStacks",
    ),
    "doctor": Call(("doctor", "--stack-name", "s"), "credentials", "GetCallerIdentity"),
    "inspect": Call(("inspect", ADDRESS), ADDRESS, "HEAD object"),
    "receive": Call(("receive", ADDRESS), ADDRESS, "HEAD object"),
}
"""The first operation of each verb."""


@pytest.fixture(params=FIRST)
def first(request: pytest.FixtureRequest) -> Call:
    return FIRST[request.param]


@pytest.fixture
def environment(endpoint: Endpoint, owner: Credentials) -> dict[str, str]:
    return endpoint.environment(owner)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            "Unable to locate credentials: run aws configure, or pass --profile",
            id="no-credentials",
        ),
        pytest.param({"AWS_SECRET_ACCESS_KEY": ""}, "Partial credentials", id="half-credentials"),
        pytest.param({"AWS_PROFILE": "absent"}, "(absent) could not be found", id="no-profile"),
        pytest.param({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "network", id="unreachable"),
        pytest.param({"AWS_REGION": "eu west"}, "pass --region", id="not-a-region"),
    ],
)
def test_missing_access_to_aws_is_one_line_error(
    first: Call,
    change: dict[str, str],
    reason: str,
    environment: dict[str, str],
    endpoint: Endpoint,
) -> None:
    changed = {name: value for name, value in (environment | change).items() if value}
    result = run(*first.command, environment=changed)
    assert_one_line(result, f"error: {first.subject}: ", reason)
    assert endpoint.calls == []


@pytest.mark.parametrize(
    ("codes", "hint"),
    [
        pytest.param(("AccessDenied", "AccessDeniedException"), "permission", id="denied"),
        pytest.param(("ExpiredToken", "ExpiredTokenException"), "sign in again", id="expired"),
        pytest.param(("SlowDown", "Throttling"), "wait a minute", id="throttled"),
    ],
)
def test_refusal_by_aws_is_one_line_error(
    first: Call,
    codes: tuple[str, str],
    hint: str,
    environment: dict[str, str],
    endpoint: Endpoint,
) -> None:
    endpoint.refusals[first.operation] = codes[" " not in first.operation]
    result = run(*first.command, environment=environment)
    assert_one_line(result, f"error: {first.subject}: ", hint)
    assert first.operation in endpoint.calls
