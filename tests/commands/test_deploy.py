"""deploy: what it checks, shows, asks and changes, on the emulator."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rehearsal.aws import ENCRYPTOR, REGION, SHARING_BUCKET
from tests.support import stacks
from tests.support.example import PARAMETERS
from tests.support.paths import PROJECT
from tests.support.processes import interrupted_at_question
from tests.support.verb import assert_one_line, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rehearsal.aws import Aws, Credentials
    from tests.support.endpoint import Endpoint

STACK = "my-application"
GIVEN = [f"{name}={value}" for name, value in PARAMETERS.items()]
IMAGE = "ab" * 48


class Owner:
    """The owner at a terminal."""

    def __init__(self, aws: Aws, endpoint: Endpoint, owner: Credentials) -> None:
        """Use the account, which has no stack yet."""
        self.environment = endpoint.environment(owner)
        self._cloudformation = aws.client(owner, "cloudformation")

    def deploy(self, *arguments: str | Path, answer: str = "") -> subprocess.CompletedProcess[str]:
        """Deploy the encryptor, or the template that the arguments name."""
        command = ("deploy", "--stack-name", STACK, *arguments)
        return run(*command, environment=self.environment, answer=answer)

    def stacks(self) -> dict[str, str]:
        """Return the stacks and their status."""
        found = self._cloudformation.describe_stacks()["Stacks"]
        return {each["StackName"]: each["StackStatus"] for each in found}

    def parameters(self) -> dict[str, str]:
        """Return the stack's parameters."""
        (stack,) = self._cloudformation.describe_stacks(StackName=STACK)["Stacks"]
        return {each["ParameterKey"]: each["ParameterValue"] for each in stack["Parameters"]}


@pytest.fixture
def owner_at_terminal(aws: Aws, endpoint: Endpoint, owner: Credentials) -> Owner:
    return Owner(aws, endpoint, owner)


def test_new_stack_is_explained_confirmed_and_followed(owner_at_terminal: Owner) -> None:
    result = owner_at_terminal.deploy(*GIVEN, answer="y\n")
    assert result.returncode == 0, result.stderr
    explained, question, followed = re.split(r"(Deploy stack .*\] )", result.stderr)
    assert "Nobody decrypts without attesting a bound image." in explained
    assert "  ExternalBucketName: acme-code-bucket\n" in explained
    assert "  + EnclaveKey  AWS::KMS::Key\n" in explained
    assert re.fullmatch(
        rf"Deploy stack {STACK} in account \d+, region {REGION}\? \[y/N\] ", question
    )
    assert re.search(r"CREATE_COMPLETE +EnclaveKey\n", followed)
    assert followed.endswith(
        f"next: application-encryptor build --stack-name {STACK}\n"
        "nobody may decrypt until an enclave image is bound: "
        "see scripts/bind_enclave_image.py --help\n"
    )
    outputs = dict(line.split(None, 1) for line in result.stdout.splitlines())
    assert outputs["ProjectName"] == f"{STACK}-ApplicationEncryptor"
    assert outputs["EnclaveKeyARN"].startswith(f"arn:aws:kms:{REGION}:")


@pytest.mark.parametrize("answer", ["", "maybe\n"])
def test_without_confirmation_nothing_is_created(answer: str, owner_at_terminal: Owner) -> None:
    result = owner_at_terminal.deploy(*GIVEN, answer=answer)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == (
        f"error: stack {STACK}: not confirmed, so nothing was changed"
    )
    assert owner_at_terminal.stacks() == {}


def test_update_shows_changes_and_keeps_other_parameters(
    aws: Aws, owner: Credentials, owner_at_terminal: Owner
) -> None:
    stacks.deploy(aws, owner, STACK, ENCRYPTOR, PARAMETERS)
    before = owner_at_terminal.parameters()
    changed = ("EnclaveImageSha384=" + IMAGE, "--yes", "--format", "json")
    result = owner_at_terminal.deploy(*changed)
    assert result.returncode == 0, result.stderr
    assert f"  EnclaveImageSha384: none → {IMAGE}\n" in result.stderr
    assert "  ~ EnclaveKey  AWS::KMS::Key" in result.stderr
    assert "Nobody gains or loses access, and the key's policy and images" in result.stderr
    found = json.loads(result.stdout)
    assert (found["changed"], found["status"]) == (True, "UPDATE_COMPLETE")
    assert owner_at_terminal.parameters() == before | {"EnclaveImageSha384": IMAGE}

    again = owner_at_terminal.deploy("--format", "json")
    assert (again.returncode, json.loads(again.stdout)["changed"]) == (0, False)
    assert f"stack {STACK}: nothing to change\n" in again.stderr


def test_weakened_template_shows_who_gains_access(
    aws: Aws, owner: Credentials, owner_at_terminal: Owner, tmp_path: Path
) -> None:
    stacks.deploy(aws, owner, STACK, ENCRYPTOR, PARAMETERS)
    weakened = tmp_path / "weakened.yaml"
    # The classic form of the Deny does not cover the owner's administrators, which is a warning.
    kept, denial, rest = ENCRYPTOR.read_text().partition("Sid: DenyDecryptUnlessAttested")
    host = "!Sub 'arn:${AWS::Partition}:iam::${ExternalBucketAWSAccountNumber}:root'"
    narrowed = rest.replace("Principal: '*'", f"Principal: {{AWS: {host}}}", 1)
    assert narrowed != rest
    weakened.write_text(kept + denial + narrowed)
    result = owner_at_terminal.deploy("--template", weakened, answer="n\n")
    assert "gains" in result.stderr
    assert "  ~ EnclaveKey  AWS::KMS::Key" in result.stderr
    assert (result.returncode, owner_at_terminal.stacks()) == (1, {STACK: "CREATE_COMPLETE"})


def test_parameters_file_is_written_once_and_then_read(
    owner_at_terminal: Owner, tmp_path: Path
) -> None:
    file = tmp_path / "my.json"
    first = owner_at_terminal.deploy(*GIVEN, "--parameters", file, "--yes")
    assert f"wrote {file}" in first.stderr
    written = file.read_text()
    assert json.loads(written)["Parameters"] == PARAMETERS
    more = ("ExternalBucketPath=v2", "--parameters", file, "--yes")
    assert owner_at_terminal.deploy(*more).returncode == 0
    assert owner_at_terminal.parameters()["ExternalBucketPath"] == "v2"
    assert file.read_text() == written


def test_parameters_are_read_from_standard_input(owner_at_terminal: Owner) -> None:
    listed = [f"{name}={value}" for name, value in PARAMETERS.items()]
    result = owner_at_terminal.deploy("--parameters", "-", "--yes", answer=json.dumps(listed))
    assert result.returncode == 0, result.stderr
    assert owner_at_terminal.parameters().items() >= PARAMETERS.items()
    assert_one_line(owner_at_terminal.deploy("--parameters", "-"), "add --yes")


def test_sharing_template_prints_the_next_step_of_the_owner(owner_at_terminal: Owner) -> None:
    result = owner_at_terminal.deploy(
        *("--template", SHARING_BUCKET, "--yes"),
        *("ThirdPartyIdentifier=acme", "ThirdPartyAWSAccountNumber=444455556666"),
    )
    assert result.returncode == 0, result.stderr
    assert "ExternalBucketEncryptionKeyArn" in result.stdout
    # The rules about keys do not apply to the key of the host's own bucket.
    assert "New stack. No key policy in it names an attestation.\n" in result.stderr
    assert "Somebody decrypts" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("next: send these outputs to the code owner")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param([], "the template needs CodeCommitRepositoryName, App", id="nothing-given"),
        pytest.param(
            [*GIVEN, "ExternalBucketNam=x"], "did you mean ExternalBucketName?", id="misspelt"
        ),
        pytest.param(
            [*GIVEN, "EnclaveImageSha384=" + "0" * 96], "zeros (debug mode) are", id="debug-mode"
        ),
        pytest.param(
            [*GIVEN, "ExternalBucketPath=/a"], "/a is not allowed: it must be", id="pattern"
        ),
        pytest.param([*GIVEN, "--stack-name", "a b"], "a b: is not a stack name", id="stack"),
        pytest.param(["--template", "absent.yaml"], "absent.yaml: ", id="no-template"),
        pytest.param(["--template", "README.md"], "README.md: ", id="not-a-template"),
        pytest.param(["--parameters", "pyproject.toml"], "not a parameters file", id="not-one"),
    ],
)
def test_invalid_parameters_are_one_line_error_before_any_change(
    arguments: list[str], reason: str, owner_at_terminal: Owner, endpoint: Endpoint
) -> None:
    assert_one_line(owner_at_terminal.deploy(*arguments), reason)
    assert set(endpoint.calls) <= {"DescribeStacks"}


@pytest.mark.parametrize("argument", ["ExternalBucketPath", "=v", "--bogus"])
def test_usage_error_is_status_2(argument: str, owner_at_terminal: Owner) -> None:
    assert_one_line(owner_at_terminal.deploy(argument), "error: ", status=2)


def test_a_template_with_errors_is_not_deployed(
    owner_at_terminal: Owner, endpoint: Endpoint
) -> None:
    template = PROJECT / "tests/rules/templates/E9101.bad.yaml"
    result = owner_at_terminal.deploy("--template", template, "Host=444455556666", "--yes")
    assert (result.returncode, result.stdout) == (1, "")
    assert "E9101" in result.stderr
    assert result.stderr.splitlines()[-1].endswith(
        "has errors: fix those above; nothing was deployed"
    )
    assert endpoint.calls == ["DescribeStacks"]


def test_failed_creation_reports_the_first_reason_and_the_remedy(
    aws: Aws, owner: Credentials, owner_at_terminal: Owner
) -> None:
    kms = aws.client(owner, "kms")
    taken = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/enclavekey", TargetKeyId=taken)
    result = owner_at_terminal.deploy(*GIVEN, "--yes")
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"error: stack {STACK}: the deployment ended in ROLLBACK_COMPLETE: ")
    assert "alias/enclavekey already exists: choose another EncryptionKeyAlias" in last
    again = owner_at_terminal.deploy(*GIVEN, "--yes")
    assert "delete it (aws cloudformation delete-stack" in again.stderr


def refuse(operation: str, code: str = "AccessDenied") -> Callable[[Endpoint], None]:
    return lambda endpoint: endpoint.refusals.update({operation: code})


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        ("CreateChangeSet", "AccessDenied"),
        ("DescribeChangeSet", "Throttling"),
        ("ExecuteChangeSet", "ExpiredToken"),
        ("DescribeStackEvents", "AccessDenied"),
    ],
)
def test_refusal_of_any_call_leaves_nothing(
    operation: str, code: str, owner_at_terminal: Owner, endpoint: Endpoint
) -> None:
    endpoint.refusals[operation] = code
    result = owner_at_terminal.deploy(*GIVEN, "--yes")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith(f"error: stack {STACK}: {operation}: {code}: ")
    assert result.stderr.count("error: ") == 1
    assert owner_at_terminal.stacks() == {}


def test_interrupt_at_the_confirmation_leaves_nothing(owner_at_terminal: Owner) -> None:
    command = [sys.executable, "-m", "generator", "deploy", "--stack-name", STACK, *GIVEN]
    ended = interrupted_at_question(command, owner_at_terminal.environment, PROJECT)
    assert ended == (130, "error: interrupted")
    assert owner_at_terminal.stacks() == {}


def test_interrupt_during_deployment_says_that_it_continues(
    owner_at_terminal: Owner, endpoint: Endpoint
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "generator", "deploy", "--stack-name", STACK, *GIVEN, "--yes"],
        cwd=PROJECT,
        env=owner_at_terminal.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    endpoint.before["DescribeStackEvents"] = [
        lambda: None,  # before the execution
        lambda: process.send_signal(signal.SIGINT),
    ]
    _, said = process.communicate()
    assert process.returncode == 130
    assert said.splitlines()[-1] == (
        f"error: interrupted: the deployment of stack {STACK} continues: follow its events"
    )
    assert STACK in owner_at_terminal.stacks()
