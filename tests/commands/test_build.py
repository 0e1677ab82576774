"""build: a build's phases and log as they arrive, and its result."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from rehearsal.aws import ENCRYPTOR, SHARING_BUCKET, account_root
from rehearsal.build import publish, start_build
from tests.commands.played_build import COMMIT, ID, PlayedBuild, Step
from tests.support import stacks
from tests.support.example import PARAMETERS
from tests.support.paths import PROJECT, SHARING_TEMPLATE
from tests.support.verb import assert_one_line, run

if TYPE_CHECKING:
    from pathlib import Path

    from rehearsal.aws import Aws, Credentials
    from tests.support.endpoint import Endpoint

STACK = "my-application"
BUILD = ("build", "--stack-name", STACK)
PREFIX = "[Container] 2026/11/28 18:00:00.123456 "
URI = "s3://acme-code-bucket/encrypted/application_code.zip.encrypted"
DIGEST = "ab" * 32
GOOD = [
    Step("SUBMITTED"),
    Step("DOWNLOAD_SOURCE", lines=(f"{PREFIX}Waiting for agent ping",)),
    Step("INSTALL", lines=(f"{PREFIX}Running command mkdir",)),
    Step(
        "BUILD",
        lines=("kms\x1b[2J told", f"stored: {URI}", "size: 1,234 bytes", f"sha256: {DIGEST}"),
    ),
]


@pytest.fixture(scope="module")
def owner_of_stack(aws: Aws) -> Credentials:
    principal = account_root("666666666666")
    stacks.deploy(aws, principal, STACK, ENCRYPTOR, PARAMETERS)
    return principal


@pytest.fixture
def environment(endpoint: Endpoint, owner_of_stack: Credentials) -> dict[str, str]:
    return endpoint.environment(owner_of_stack)


def test_build_is_followed_and_the_next_step_printed(
    endpoint: Endpoint, environment: dict[str, str]
) -> None:
    played = PlayedBuild(GOOD)
    played.install(endpoint)
    result = run(*BUILD, environment=environment)
    assert result.returncode == 0, result.stderr
    said = result.stderr.splitlines()
    assert said[0] == f"build {ID} started"
    order = ["phase SUBMITTED: SUCCEEDED, 7 s", f"{PREFIX}Running command mkdir"]
    order += ["phase INSTALL: SUCCEEDED, 7 s", "kms\\x1b[2J told", f"stored: {URI}"]
    assert [line for line in said if line in order] == order
    assert said[-1] == (f"next, on the host: application-encryptor receive {URI} --sha256 {DIGEST}")
    assert result.stdout == (
        f"build     {ID}\nartifact  {URI}\nsize      1,234 bytes\nSHA-256   {DIGEST}\n"
        f"commit    {COMMIT}\nlog       https://log.example\n"
    )
    assert played.started == [{"projectName": f"{STACK}-ApplicationEncryptor"}]


def test_json_output_has_the_same_fields(endpoint: Endpoint, environment: dict[str, str]) -> None:
    played = PlayedBuild(GOOD)
    played.install(endpoint)
    version = ("--source-version", "v1.2")
    result = run(*BUILD, *version, "--format", "json", environment=environment)
    assert json.loads(result.stdout) == {
        "build": ID,
        "artifact": URI,
        "size": 1234,
        "sha256": DIGEST,
        "commit": COMMIT,
        "log": "https://log.example",
    }
    assert played.started[0]["sourceVersion"] == "v1.2"


def test_results_are_read_from_the_log_of_a_rehearsed_build(  # noqa: PLR0913, PLR0917 - fixtures
    aws: Aws,
    interpreter: Path,
    endpoint: Endpoint,
    owner: Credentials,
    host: Credentials,
    tmp_path: Path,
) -> None:
    """The log is that of a real build: the command must find the uploader's own lines."""
    sharing = {"ThirdPartyIdentifier": "acme", "ThirdPartyAWSAccountNumber": owner.access_key_id}
    shared = stacks.deploy(aws, host, "sharing", SHARING_BUCKET, sharing)
    outputs = stacks.deploy(aws, owner, STACK, ENCRYPTOR, PARAMETERS | shared)
    application = tmp_path / "checkout" / "application"
    application.mkdir(parents=True)
    (application / "print-hello.py").write_text("print('hello')")
    publish(tmp_path / "checkout", tmp_path, "enclave-application")
    project = outputs["ProjectName"]
    built = start_build(aws, owner, project, tmp_path, interpreter=interpreter)
    assert built.succeeded, built.log
    PlayedBuild([Step("BUILD", lines=tuple(built.log.splitlines()))]).install(endpoint)
    result = run(*BUILD, "--format", "json", environment=endpoint.environment(owner))
    found = json.loads(result.stdout)
    stored = aws.client(host, "s3").get_object(
        Bucket=shared["ExternalBucketName"], Key="encrypted/application_code.zip.encrypted"
    )
    content = stored["Body"].read()
    assert found["artifact"] == outputs["ArtifactUri"]
    assert found["size"] == len(content)
    assert found["sha256"] == sha256(content).hexdigest() == stored["Metadata"]["sha256"]
    received = ("receive", found["artifact"], "--sha256", found["sha256"])
    assert run(*received, environment=aws.environment(host), directory=tmp_path).returncode == 0
    inspected = run("inspect", tmp_path / "application_code.zip.encrypted")
    assert "well formed" in inspected.stdout


def failing(*lines: str, context: tuple[str, str] | None = None) -> list[Step]:
    return [*GOOD[:3], Step("BUILD", "FAILED", lines, context)]


@pytest.mark.parametrize(
    ("steps", "status", "reason"),
    [
        pytest.param(
            failing("error: 'a b': not in the repository: correct it", f"{PREFIX}Phase complete"),
            "FAILED",
            "failed in BUILD: 'a b': not in the repository: correct it",
            id="ours-with-what-to-do",
        ),
        pytest.param(
            failing("ERROR: Could not find a version that satisfies", "exit status 1"),
            "FAILED",
            "failed in BUILD: Could not find a version that satisfies",
            id="pips",
        ),
        pytest.param(
            failing(context=("COMMAND_EXECUTION_ERROR", "Error while executing command: x")),
            "FAILED",
            "COMMAND_EXECUTION_ERROR: Error while executing command: x: read the log above",
            id="only-the-phase-knows",
        ),
        pytest.param(
            [
                GOOD[0],
                Step(
                    "DOWNLOAD_SOURCE",
                    "FAILED",
                    context=("CLIENT_ERROR", "authorization failed for primary repository"),
                ),
            ],
            "FAILED",
            "failed in DOWNLOAD_SOURCE: CLIENT_ERROR: authorization failed for primary "
            "repository: correct CodeCommitRepositoryName",
            id="no-repository",
        ),
        pytest.param(
            [
                *GOOD[:3],
                Step("BUILD", "TIMED_OUT", context=("BUILD_TIMED_OUT", "Build has timed out.")),
            ],
            "TIMED_OUT",
            "timed out in BUILD: BUILD_TIMED_OUT: Build has timed out: choose a larger",
            id="timed-out",
        ),
        pytest.param(GOOD[:2], "STOPPED", "stopped in DOWNLOAD_SOURCE", id="stopped-by-another"),
    ],
)
def test_failed_build_is_reported_with_its_reason(
    steps: list[Step],
    status: str,
    reason: str,
    endpoint: Endpoint,
    environment: dict[str, str],
) -> None:
    PlayedBuild(steps, status).install(endpoint)
    result = run(*BUILD, environment=environment)
    assert (result.returncode, result.stdout) == (1, "")
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"error: build {ID}: ")
    assert reason in last


def test_phases_are_shown_without_access_to_the_log(
    endpoint: Endpoint, environment: dict[str, str]
) -> None:
    PlayedBuild(GOOD).install(endpoint)
    endpoint.refusals["GetLogEvents"] = "AccessDeniedException"
    result = run(*BUILD, environment=environment)
    assert result.returncode == 0
    assert result.stderr.count("the log cannot be read: GetLogEvents: ") == 1
    assert "phase BUILD: SUCCEEDED" in result.stderr
    assert f"artifact  {URI}\n" in result.stdout


@pytest.mark.parametrize(
    ("operation", "subject", "code"),
    [
        ("DescribeStacks", f"stack {STACK}: ", "ExpiredTokenException"),
        ("StartBuild", f"project {STACK}-ApplicationEncryptor: ", "AccessDeniedException"),
        ("BatchGetBuilds", f"build {ID} continues, but: ", "ExpiredTokenException"),
        ("BatchGetBuilds", f"build {ID} continues, but: ", "Throttling"),
    ],
)
def test_refusal_of_any_call_is_one_line_error(
    operation: str,
    subject: str,
    code: str,
    endpoint: Endpoint,
    environment: dict[str, str],
) -> None:
    PlayedBuild(GOOD).install(endpoint)
    endpoint.refusals[operation] = code
    result = run(*BUILD, environment=environment)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith(f"error: {subject}{operation}: {code}: ")
    assert result.stderr.count("error: ") == 1


@pytest.mark.parametrize(
    ("answer", "stopped", "said"),
    [("y\n", True, "was stopped"), ("n\n", False, "continues"), ("", False, "continues")],
)
def test_interrupt_asks_whether_to_stop_the_build(
    answer: str, said: str, endpoint: Endpoint, environment: dict[str, str], *, stopped: bool
) -> None:
    played = PlayedBuild(GOOD)
    played.install(endpoint)
    process = subprocess.Popen(
        [sys.executable, "-m", "generator", *BUILD],
        cwd=PROJECT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    endpoint.before["BatchGetBuilds"] = [lambda: process.send_signal(signal.SIGINT)]
    out, err = process.communicate(answer)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-2:] == [
        "Stop the build? [y/N] ",
        f"error: interrupted: build {ID} {said}",
    ]
    assert played.stopped is stopped


def test_sigterm_leaves_the_build_running_without_asking(
    endpoint: Endpoint, environment: dict[str, str]
) -> None:
    played = PlayedBuild(GOOD)
    played.install(endpoint)
    command = [sys.executable, "-m", "generator", *BUILD]
    process = subprocess.Popen(
        command, cwd=PROJECT, env=environment, stderr=subprocess.PIPE, text=True
    )
    endpoint.before["BatchGetBuilds"] = [lambda: process.send_signal(signal.SIGTERM)]
    _, said = process.communicate()
    assert process.returncode == 143
    assert said.splitlines()[1:] == [f"error: interrupted: build {ID} continues"]
    assert not played.stopped


def test_missing_or_unrelated_stack_is_one_line_error(
    aws: Aws, owner: Credentials, endpoint: Endpoint
) -> None:
    environment = endpoint.environment(owner)
    assert_one_line(run(*BUILD, environment=environment), "does not exist in eu-central-1")
    template = SHARING_TEMPLATE
    given = {"ThirdPartyIdentifier": "acme", "ThirdPartyAWSAccountNumber": "444455556666"}
    stacks.deploy(aws, owner, STACK, template, given)
    result = run(*BUILD, environment=environment)
    assert_one_line(result, f"error: stack {STACK}: ", "no output ProjectName")
