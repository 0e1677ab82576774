"""Binding images: what the script accepts, shows, asks and changes in a deployed stack."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import signal
import subprocess
import sys
from hashlib import sha384
from typing import TYPE_CHECKING, Any

import pytest

from rehearsal.aws import REGION, account_root
from tests.support import preloaded, stacks, verb
from tests.support.endpoint import serve
from tests.support.image_files import Image
from tests.support.paths import BIND_ENCLAVE_IMAGE, ENCRYPTOR_TEMPLATE, PROJECT
from tests.support.processes import interrupted_at_question

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from rehearsal.aws import Aws, Credentials

TEMPLATE = ENCRYPTOR_TEMPLATE
STACK = "encryptor"
FIRST, SECOND, THIRD = (sha384(name).hexdigest() for name in (b"1", b"2", b"3"))
ZEROS = "0" * 96
NITRO_CLI = """Start building the Enclave Image...
Enclave Image successfully created.
{
  "Measurements": {
    "HashAlgorithm": "Sha384 { ... }",
    "PCR0": "%s",
    "PCR1": "...",
    "PCR2": "..."
  }
}
"""


specification = importlib.util.spec_from_file_location("bind_enclave_image", BIND_ENCLAVE_IMAGE)
assert specification is not None
assert specification.loader is not None
script = importlib.util.module_from_spec(specification)
specification.loader.exec_module(script)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make AWS unreachable."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def bind(
    *arguments: str | Path, environment: Mapping[str, str], answer: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the script as a user does."""
    return preloaded.run(
        *(BIND_ENCLAVE_IMAGE, "--stack-name", STACK, *arguments),
        environment=environment,
        answer=answer.encode(),
        directory=PROJECT,
    )


# --- refused before any call to AWS -----------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        pytest.param(ZEROS, "debug mode", id="zeros"),
        pytest.param("a" * 95, "neither 96 hexadecimal digits nor a readable file", id="95-digits"),
        pytest.param("none", "neither 96 hexadecimal digits nor a readable file", id="none"),
        pytest.param("/", "Is a directory", id="a-directory"),
    ],
)
@pytest.mark.usefixtures("nowhere")
def test_invalid_measurement_is_refused(
    argument: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--stack-name", STACK, "add", argument, "--yes"]) == 1
    assert_one_line(reason, capsys)


def assert_one_line(reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert reason in printed.err
    if "connect" not in reason:
        assert STACK not in printed.err  # the stack is not the cause
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("", "contains no PCR0", id="empty"),
        pytest.param('{"Measurements": {"PCR0": "ab"}}', "not 96", id="a-short-PCR0"),
        pytest.param(json.dumps({"Measurements": {"PCR0": ZEROS}}), "debug mode", id="zeros"),
        pytest.param(".eif", "of the header's", id="a-damaged-image"),
    ],
)
@pytest.mark.usefixtures("nowhere")
def test_file_without_a_valid_measurement_is_refused(
    content: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "measurements.json"
    file.write_text(content)
    assert script.main(["--stack-name", STACK, "add", str(file), "--yes"]) == 1
    assert_one_line(reason, capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("add",), id="add-nothing"),
        pytest.param(("promote", FIRST, SECOND), id="promote-two"),
        pytest.param(("bind", FIRST), id="unknown-verb"),
        pytest.param((), id="no-verb"),
        pytest.param(("add", "-"), id="standard-input-for-both"),
        pytest.param(("list", FIRST), id="list-takes-none"),
        pytest.param(("list", "--reg", "eu-west-1"), id="an-abbreviation"),
    ],
)
@pytest.mark.usefixtures("nowhere")
def test_invalid_command_line_is_a_usage_error(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        script.main(["--stack-name", STACK, *arguments])
    assert error.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.endswith(": see bind_enclave_image.py --help\n")
    assert printed.err.count("\n") == 1


def test_help_has_examples_and_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for option, printed in (
        ("--help", "bind_enclave_image.py --stack-name S add"),
        ("--version", "0"),
    ):
        with pytest.raises(SystemExit) as end:
            script.main([option])
        assert end.value.code == 0
        assert printed in capsys.readouterr().out


@pytest.mark.usefixtures("nowhere")
def test_unreachable_aws_is_one_line_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--stack-name", STACK, "list"]) == 1
    assert_one_line("Could not connect", capsys)


# --- on a stack -------------------------------------------------------------------------------


class Stack:
    """The owner's stack on the emulator, and the script on it."""

    def __init__(self, aws: Aws) -> None:
        """Deploy it."""
        owner = account_root("444444444444")
        given = {
            "EncryptionKeyAlias": "alias/another",
            "CodeCommitRepositoryName": "repository",
            "ApplicationCodeDirectoryName": "application",
            "ExternalBucketName": "bucket-of-the-host",
            "ExternalBucketEncryptionKeyArn": (
                "arn:aws:kms:eu-central-1:555555555555:key/1234abcd-12ab-34cd-56ef-1234567890ab"
            ),
            "ExternalBucketAWSAccountNumber": "555555555555",
        }
        self.environment = aws.environment(owner)
        self.key = stacks.deploy(aws, owner, STACK, TEMPLATE, given)["EnclaveKeyARN"]
        self._cloudformation = aws.client(owner, "cloudformation")
        self._kms = aws.client(owner, "kms")

    def bind(self, *arguments: str | Path, answer: str = "") -> subprocess.CompletedProcess[str]:
        """Run the script as the owner."""
        return bind(*arguments, environment=self.environment, answer=answer)

    def reset(self, *images: str) -> None:
        """Bind exactly *images*, without the script."""
        parameters = self.parameters() | {"EnclaveImageSha384": ",".join(images) or "none"}
        if parameters == self.parameters():
            return
        self._cloudformation.update_stack(
            StackName=STACK,
            UsePreviousTemplate=True,
            Parameters=[
                {"ParameterKey": name, "ParameterValue": value}
                for name, value in parameters.items()
            ],
            Capabilities=["CAPABILITY_IAM"],
        )
        self._cloudformation.get_waiter("stack_update_complete").wait(StackName=STACK)

    def close(self) -> None:
        """Close all connections: the emulator waits for them when it stops."""
        self._cloudformation.close()
        self._kms.close()

    def parameters(self) -> dict[str, str]:
        """Return the stack's parameters."""
        stack = self._cloudformation.describe_stacks(StackName=STACK)["Stacks"][0]
        return {each["ParameterKey"]: each["ParameterValue"] for each in stack["Parameters"]}

    def images(self) -> set[str]:
        """Return the images in the key's own policy."""
        text = self._kms.get_key_policy(KeyId=self.key, PolicyName="default")["Policy"]
        policy: dict[str, Any] = json.loads(text)
        (deny,) = (each for each in policy["Statement"] if each["Effect"] == "Deny")
        (images,) = deny["Condition"]["StringNotEqualsIgnoreCase"].values()
        return {images} if isinstance(images, str) else set(images)


@pytest.fixture(scope="module")
def stack(aws: Aws) -> Iterator[Stack]:
    with contextlib.closing(Stack(aws)) as deployed:
        yield deployed


def test_images_are_added_promoted_and_retired(stack: Stack) -> None:
    stack.reset()
    others = stack.parameters() | {"EnclaveImageSha384": ""}
    empty = stack.bind("list")
    assert (empty.stdout, empty.stderr) == ("", "no image is bound: nobody may decrypt\n")

    added = stack.bind("add", FIRST, "--yes")
    assert added.returncode == 0, added.stderr
    assert f"\n  + {FIRST}\n" in added.stderr
    # The stack's events are shown in order, the last one that of the stack itself.
    assert re.search(r"UPDATE_COMPLETE +EnclaveKey\n", added.stderr)
    assert re.search(rf"UPDATE_COMPLETE +{STACK}\n", added.stderr)
    assert stack.images() == {FIRST}

    assert stack.bind("add", SECOND.upper(), THIRD, "--yes").returncode == 0
    assert stack.images() == {FIRST, SECOND, THIRD}
    assert stack.bind("list").stdout.split() == [FIRST, SECOND, THIRD]

    retired = stack.bind("retire", FIRST, "--yes")
    assert f"\n  - {FIRST}\n    {SECOND}\n" in retired.stderr
    assert stack.images() == {SECOND, THIRD}

    assert stack.bind("promote", THIRD, "--yes").returncode == 0
    assert stack.images() == {THIRD}
    assert stack.parameters() | {"EnclaveImageSha384": ""} == others


def test_last_image_is_retired_only_with_allow_none(stack: Stack) -> None:
    stack.reset(FIRST)
    refused = stack.bind("retire", FIRST, "--yes")
    assert refused.returncode == 1
    assert "--allow-none" in refused.stderr
    assert stack.images() == {FIRST}
    assert stack.bind("retire", FIRST, "--yes", "--allow-none").returncode == 0
    assert stack.images() == {"none"}


@pytest.mark.parametrize(("answer", "changes"), [("y\n", True), ("n\n", False), ("", False)])
def test_changes_are_shown_before_confirmation(answer: str, stack: Stack, *, changes: bool) -> None:
    stack.reset(SECOND)
    result = stack.bind("add", FIRST, answer=answer)
    assert result.stderr.index(FIRST) < result.stderr.index("Update the stack? [y/N]")
    assert (result.returncode == 0) is changes
    assert stack.images() == ({FIRST, SECOND} if changes else {SECOND})


def test_output_of_nitro_cli_is_read(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "build.log"
    stack.reset(THIRD)
    file.write_text(NITRO_CLI % FIRST)
    assert stack.bind("add", file, "--yes").returncode == 0
    printed = json.dumps({"Measurements": {"PCR0": SECOND}})
    assert stack.bind("add", "-", "--yes", answer=printed).returncode == 0
    assert stack.images() == {FIRST, SECOND, THIRD}


def test_image_file_is_measured_and_named(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "application.eif"
    file.write_bytes(Image().written())
    stack.reset(FIRST)
    result = stack.bind("add", file, "--yes")
    assert result.returncode == 0, result.stderr
    (measured,) = stack.images() - {FIRST}
    assert f"\n  + {measured}  {file}\n" in result.stderr


def test_options_may_follow_the_verb(stack: Stack) -> None:
    stack.reset(FIRST)
    elsewhere = stack.environment | {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [
        sys.executable,
        str(BIND_ENCLAVE_IMAGE),
        "list",
        "--region",
        REGION,
        "--stack-name",
        STACK,
    ]
    result = subprocess.run(command, env=elsewhere, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == (f"{FIRST}\n", "")
    command = [sys.executable, str(BIND_ENCLAVE_IMAGE), "list", "--stack-name", STACK]
    result = subprocess.run(command, env=elsewhere, capture_output=True, text=True, check=False)
    assert "does not exist in us-east-1" in result.stderr


def test_interrupt_at_the_confirmation_changes_nothing(stack: Stack) -> None:
    stack.reset(SECOND)
    command = [sys.executable, str(BIND_ENCLAVE_IMAGE), "--stack-name", STACK, "add", FIRST]
    ended = interrupted_at_question(command, stack.environment)
    assert ended == (130, "error: interrupted: nothing was changed")
    assert stack.images() == {SECOND}


def test_interrupt_during_the_update_says_that_it_continues(aws: Aws, stack: Stack) -> None:
    stack.reset(SECOND)
    with serve(aws) as endpoint:
        command = [
            sys.executable,
            str(BIND_ENCLAVE_IMAGE),
            "--stack-name",
            STACK,
            "add",
            FIRST,
            "--yes",
        ]
        environment = endpoint.environment(account_root("444444444444"))
        process = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        # Between the update's start and its first events.
        endpoint.before["DescribeStackEvents"] = [
            lambda: None,
            lambda: process.send_signal(signal.SIGINT),
        ]
        _, said = process.communicate()
    assert process.returncode == 130
    assert said.splitlines()[-1] == (
        "error: interrupted: the update continues: follow the stack's events"
    )


def test_refused_update_is_one_line_error(aws: Aws, stack: Stack) -> None:
    stack.reset(SECOND)
    with serve(aws) as endpoint:
        endpoint.refusals["UpdateStack"] = "AccessDenied"
        environment = endpoint.environment(account_root("444444444444"))
        result = bind("add", FIRST, "--yes", environment=environment)
    assert result.returncode == 1
    (error,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert error.startswith(f"error: stack {STACK}: UpdateStack: AccessDenied: User: ")
    assert stack.images() == {SECOND}


@pytest.mark.parametrize("verb", ["promote", "retire"])
def test_only_bound_images_can_be_promoted_or_retired(verb: str, stack: Stack) -> None:
    stack.reset(SECOND)
    result = stack.bind(verb, FIRST, "--yes", "--allow-none")
    assert (result.returncode, result.stdout) == (1, "")
    assert f"{FIRST} is not bound" in result.stderr


def test_adding_a_bound_image_changes_nothing(stack: Stack) -> None:
    stack.reset(FIRST)
    result = stack.bind("add", FIRST)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "nothing to change\n")


def test_output_explains_who_can_decrypt_afterwards(stack: Stack) -> None:
    stack.reset()
    result = stack.bind("add", FIRST, "--yes")
    explained = verb.run("explain", "--key", stack.key, environment=stack.environment)
    assert result.stdout == explained.stdout
    assert explained.stdout


def test_missing_stack_is_named(aws: Aws, owner: Credentials) -> None:
    result = bind("list", environment=aws.environment(owner))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: stack {STACK}: ")
    assert "does not exist" in result.stderr


def test_another_kind_of_stack_is_refused(aws: Aws, owner: Credentials, tmp_path: Path) -> None:
    template = tmp_path / "topic.yaml"
    template.write_text(
        "Parameters: {Name: {Type: String}}\n"
        "Resources: {Topic: {Type: 'AWS::SNS::Topic', Properties: {TopicName: !Ref Name}}}\n"
    )
    stacks.deploy(aws, owner, STACK, template, {"Name": "topic"})
    result = bind("add", FIRST, "--yes", environment=aws.environment(owner))
    assert result.returncode == 1
    assert "no parameter EnclaveImageSha384" in result.stderr
