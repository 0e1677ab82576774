"""The conformance run finds no difference in the emulator, and each difference once planted."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from conformance import sequence
from conformance.run import Names
from conformance.steps.builds import FILLER_MEBIBYTES, with_filler
from generator.reading import documents
from rehearsal import enclave, service
from rehearsal.attestation import Authority
from rehearsal.aws import REGION, account_root
from rehearsal.kms import Kms
from rehearsal.scenario import FIRST, Scenario
from tests.conformance.amazon import Amazon
from tests.conformance.planted import RUNS, Planted
from tests.support import preloaded
from tests.support.endpoint import serve
from tests.support.paths import PROJECT, TEMPLATES
from tests.support.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rehearsal.aws import Aws, Credentials

ACCOUNTS = itertools.count(610_000_000_000)
TAG = "application-encryptor-conformance"
PROFILES = ("--owner-profile", "owner", "--host-profile", "host")
MADE = [step.name for step in sequence.STEPS if step.found]
"""The steps that later ones need, and whose resources a resumed run finds."""
ASKED = [name for name in sequence.names() if name not in {*MADE, "deletion"}]
OPTIONAL = {"large-build"}


@pytest.fixture(scope="module")
def amazon(
    aws: Aws, interpreter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Amazon]:
    """Both accounts, empty, and AWS's services in front of the emulator."""
    numbers = [str(next(ACCOUNTS)) for _ in range(2)]
    authority = Authority(datetime.now(UTC) - timedelta(days=1))
    with serve(aws) as endpoint, contextlib.closing(Kms(aws, authority.root, numbers)) as kms:
        owner, host = map(account_root, numbers)
        folder = tmp_path_factory.mktemp("amazon")
        amazon = Amazon(aws, endpoint, kms, authority, folder, interpreter, owner, host)
        amazon.install()
        yield amazon


@pytest.fixture(scope="module")
def environment(amazon: Amazon, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Profiles in the AWS CLI's format, and the endpoint."""
    file = tmp_path_factory.mktemp("aws") / "config"
    profiles = {"owner": amazon.owner, "host": amazon.host, "twin": amazon.owner}
    file.write_text(
        "".join(
            f"[profile {name}]\nregion = {REGION}\naws_access_key_id = {who.access_key_id}\n"
            f"aws_secret_access_key = {who.secret_access_key}\n"
            for name, who in profiles.items()
        )
    )
    with file.open("a") as more:
        more.write("[profile nowhere]\naws_access_key_id = 1\naws_secret_access_key = test\n")
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(file.parent),
        "LANG": "C.UTF-8",
        "AWS_ENDPOINT_URL": amazon.endpoint.url,
        "AWS_CONFIG_FILE": str(file),
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }


def start(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "conformance", *PROFILES, *arguments],
        cwd=PROJECT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(
    environment: dict[str, str], *arguments: str, answer: str = ""
) -> subprocess.CompletedProcess[str]:
    return preloaded.run(
        *("-m", "conformance", *PROFILES, *arguments),
        environment=environment,
        answer=answer.encode(),
        directory=PROJECT,
    )


def killed(
    amazon: Amazon, environment: dict[str, str], number: int, at: tuple[str, int], *arguments: str
) -> tuple[str, str, int]:
    """Signal a run before the nth response to an operation; return its id, output and status.

    The operation itself is still performed.
    """
    process = start(environment, "--yes", *arguments)
    operation, count = at
    hooks: list[Callable[[], object]] = [lambda: None] * (count - 1)
    amazon.endpoint.before[operation] = [*hooks, lambda: process.send_signal(number)]
    out, err = process.communicate()
    assert out == ""
    found = re.search(rf"{TAG}=([0-9a-f]{{8}})", err)
    assert found, err
    return found[1], err, process.returncode


def left(amazon: Amazon) -> list[str]:
    """List everything in both accounts, except keys pending deletion."""
    found: list[str] = list(amazon.repositories)
    for who in (amazon.owner, amazon.host):
        found += in_account(amazon.aws, who)
    return found


def in_account(aws: Aws, who: Credentials) -> Iterator[str]:
    for stack in aws.client(who, "cloudformation").describe_stacks()["Stacks"]:
        yield stack["StackName"]
    kms = aws.client(who, "kms")
    for key in kms.list_keys()["Keys"]:
        if kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["KeyState"] != "PendingDeletion":
            yield key["KeyArn"]
    names = (alias["AliasName"] for alias in kms.list_aliases()["Aliases"])
    yield from (name for name in names if not name.startswith("alias/aws/"))
    yield from (bucket["Name"] for bucket in aws.client(who, "s3").list_buckets()["Buckets"])
    yield from (role["Arn"] for role in aws.client(who, "iam").list_roles()["Roles"])
    yield from aws.client(who, "codebuild").list_projects()["projects"]
    for group in aws.client(who, "logs").describe_log_groups()["logGroups"]:
        yield group["logGroupName"]


@pytest.fixture(scope="module")
def kept(
    amazon: Amazon, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any]]:
    """Run the steps in two parts, the first of them killed; return the run's id and report.

    Before the second part, an enclave is started whose image pins the key.
    """
    second_stack = ("ExecuteChangeSet", 2)
    only = ("--only", "owner-stack")
    run_id, _, status = killed(amazon, environment, signal.SIGKILL, second_stack, *only)
    assert status == -signal.SIGKILL
    with enclave_of(amazon, run_id, tmp_path_factory.mktemp("host")) as address:
        result = run(
            *(environment, "--yes", "--resume", run_id, "--keep", "--format", "json"),
            *("--enclave", address, "--image", FIRST, "--only", ",".join(ASKED)),
        )
    assert result.returncode == 0, result.stdout + result.stderr
    return run_id, json.loads(result.stdout)


@contextlib.contextmanager
def enclave_of(amazon: Amazon, run_id: str, folder: Path) -> Iterator[str]:
    """Start an enclave that pins the run's key once it exists; yield its address."""
    client = amazon.aws.client(amazon.owner, "cloudformation")
    stack: dict[str, Any] = {}

    def there() -> bool:
        stack.update(client.describe_stacks(StackName=Names.of(run_id).owner_stack)["Stacks"][0])
        return bool(stack["StackStatus"] == "CREATE_COMPLETE")

    wait_for(there)
    outputs = {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}
    with service.serve(amazon.kms, folder) as serving:
        scenario = Scenario(
            service=serving,
            authority=amazon.authority,
            folder=folder,
            owner=amazon.owner.access_key_id,
            stack=stack["StackName"],
            key=outputs["EnclaveKeyARN"],
            artifact=folder,
            artifact_of_the_host=folder,
            parent=amazon.host,
            administrator=amazon.owner,
            third_party=amazon.owner,
        )
        with enclave.served(scenario, enclave.security_module(scenario)) as address:
            yield address


def test_emulator_behaves_as_expected(kept: tuple[str, dict[str, Any]]) -> None:
    steps = {step["step"]: step for step in kept[1]["steps"]}
    assert list(steps) == [name for name in sequence.names() if name != "deletion"]
    skipped = {name for name, step in steps.items() if step["verdict"] == "skipped"}
    assert skipped == OPTIONAL
    assert {steps[name]["verdict"] for name in steps.keys() - skipped} == {"as expected"}
    assert "--large" in steps["large-build"]["answer"]


def test_report_contains_no_account_ids_and_no_credentials(
    amazon: Amazon, kept: tuple[str, dict[str, Any]]
) -> None:
    text = json.dumps(kept[1])
    for secret in (amazon.owner.access_key_id, amazon.host.access_key_id, "SecretAccessKey"):
        assert secret not in text
    assert "arn:aws:iam::HOST:role/" in text


@pytest.fixture(scope="module")
def found(
    amazon: Amazon, environment: dict[str, str], kept: tuple[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Run the steps of each group again, with its differences planted; return the reports."""
    reports = {}
    for name, group in RUNS.items():
        amazon.install()
        for planted in group:
            planted.plant(amazon)
        only = ",".join(planted.step for planted in group)
        going_on = ("--resume", kept[0], "--keep", "--patience", "0", "--format", "json")
        result = run(environment, "--yes", *going_on, "--only", only)
        assert result.returncode == 1, result.stdout + result.stderr
        reports[name] = {step["step"]: step for step in json.loads(result.stdout)["steps"]}
    amazon.install()
    return reports


@pytest.mark.parametrize(
    ("group", "planted"),
    [
        pytest.param(group, planted, id=planted.step)
        for group, all_of_it in RUNS.items()
        for planted in all_of_it
    ],
)
def test_a_planted_difference_is_found(
    group: str, planted: Planted, found: dict[str, dict[str, Any]]
) -> None:
    step = found[group][planted.step]
    assert (step["verdict"], planted.says in step["answer"]) == ("different", True), step


@pytest.mark.parametrize("group", RUNS)
def test_only_the_planted_differences_are_found(
    group: str, found: dict[str, dict[str, Any]]
) -> None:
    different = {name for name, step in found[group].items() if step["verdict"] == "different"}
    assert different == {planted.step for planted in RUNS[group]}


def test_interrupt_removes_what_was_created_so_far(
    amazon: Amazon, environment: dict[str, str], kept: tuple[str, dict[str, Any]]
) -> None:
    """Among them a stack that is still being created, and a bucket that is not empty."""
    before = set(left(amazon))
    second_stack = ("ExecuteChangeSet", 2)
    interrupted = killed(amazon, environment, signal.SIGINT, second_stack, "--source", "s3")
    run_id, said, status = interrupted
    assert (status, run_id != kept[0]) == (130, True)
    assert (
        said.splitlines()[-1]
        == f"error: interrupted: run {run_id}: everything it created was removed"
    )
    assert f"removed: bucket conformance-{run_id}-source" in said
    assert set(left(amazon)) == before


def test_interrupted_removal_says_how_to_continue(
    amazon: Amazon, environment: dict[str, str]
) -> None:
    before = left(amazon)
    process = start(environment, "--yes", "--only", "source")
    hooks = amazon.endpoint.before
    hooks["CreateCommit"] = [lambda: process.send_signal(signal.SIGTERM)]
    hooks["ListRoles"] = [lambda: process.send_signal(signal.SIGINT)]
    _, said = process.communicate()
    run_id = re.findall(r"--remove ([0-9a-f]{8})$", said)
    assert (process.returncode, len(run_id)) == (130, 1), said
    assert set(left(amazon)).difference(before) == {f"conformance-{run_id[0]}"}
    assert run(environment, "--yes", "--remove", run_id[0]).returncode == 0
    assert left(amazon) == before


def test_resources_are_removed_although_standard_error_is_closed(
    amazon: Amazon, environment: dict[str, str]
) -> None:
    before = left(amazon)
    with start(environment, "--yes", "--only", "source") as process:
        assert process.stderr
        amazon.endpoint.before["CreateCommit"] = [process.stderr.close]
        assert process.wait() == 1
    assert "DeleteRepository" in amazon.endpoint.calls
    assert left(amazon) == before


def test_expired_credentials_during_a_run_are_one_line_error(
    amazon: Amazon, environment: dict[str, str]
) -> None:
    before = left(amazon)
    amazon.endpoint.refusals["CreateCommit"] = "ExpiredTokenException"
    result = run(environment, "--yes", "--only", "source")
    amazon.install()
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith("error: CreateCommit: ExpiredTokenException")
    assert left(amazon) == before


@pytest.mark.parametrize(
    ("status", "verdict"), [("AVAILABLE", "as expected"), ("PENDING", "different")]
)
def test_existing_connection_must_be_available(
    status: str, verdict: str, amazon: Amazon, environment: dict[str, str]
) -> None:
    amazon.endpoint.played["GetConnection"] = lambda _: {"Connection": {"ConnectionStatus": status}}
    arn = f"arn:aws:codeconnections:{REGION}:{amazon.owner.access_key_id}:connection/1"
    source = ("--connection-arn", arn, "--repository-url", "https://github.com/owner/name")
    result = run(
        *(environment, "--yes", "--format", "json", "--only", "source"),
        *("--source", "connection", *source),
    )
    assert [step["verdict"] for step in json.loads(result.stdout)["steps"]] == [verdict]
    assert status in result.stdout


def test_leftovers_of_a_killed_run_are_removed_by_its_id(
    amazon: Amazon,
    environment: dict[str, str],
    kept: tuple[str, dict[str, Any]],
    found: dict[str, dict[str, Any]],
) -> None:
    """Also a project without a stack, and a key whose stack is gone: only its tag identifies it."""
    assert found
    on_it = ("--resume", kept[0], "--keep", "--only")
    project_made = ("CreateProject", 1)
    at_project = (signal.SIGKILL, project_made, *on_it, "other-project")
    assert killed(amazon, environment, *at_project)[2] == -signal.SIGKILL
    wait_for(lambda: f"conformance-{kept[0]}-other" in left(amazon))
    deleted = run(environment, "--yes", *on_it, "deletion")
    assert deleted.returncode == 0, deleted.stdout + deleted.stderr
    assert "the key is Enabled, all else is gone" in deleted.stdout
    result = run(environment, "--remove", kept[0], answer="y\n")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("will be deleted on") == 3
    assert left(amazon) == []
    again = run(environment, "--yes", "--remove", kept[0])
    assert again.returncode == 0, again.stderr
    assert "removed" not in again.stdout


def test_resources_and_costs_are_shown_before_confirmation(
    amazon: Amazon, environment: dict[str, str]
) -> None:
    amazon.endpoint.calls.clear()
    result = run(environment, answer="n\n")
    assert (result.returncode, result.stdout) == (1, "")
    for words in (amazon.owner.access_key_id, "USD", "kms/pricing", "--remove", "7 days"):
        assert words in result.stderr
    assert result.stderr.splitlines()[-1] == "error: not confirmed, so nothing was changed"
    assert set(amazon.endpoint.calls) == {"GetCallerIdentity"}


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        pytest.param(("--host-profile", "twin"), 1, "both belong to account", id="one-account"),
        pytest.param(("--host-profile", "nobody"), 1, "nobody", id="no-such-profile"),
        pytest.param(("--owner-profile", "nowhere"), 1, "pass --region", id="no-region"),
        pytest.param(("--host-profile", ""), 2, "OWNER_PROFILE=", id="make-without-profiles"),
        pytest.param(("--only", "lockut"), 2, "did you mean lockout?", id="no-such-step"),
        pytest.param(("--remove", "../x"), 2, "8 hexadecimal digits", id="no-run"),
        pytest.param(("--source", "connection"), 2, "--connection-arn", id="no-connection"),
    ],
)
def test_invalid_arguments_are_one_line_error(
    arguments: tuple[str, ...], status: int, reason: str, environment: dict[str, str]
) -> None:
    result = run(environment, *arguments)
    assert (result.returncode, result.stdout) == (status, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert reason in result.stderr


@pytest.mark.parametrize(
    "template",
    sorted(TEMPLATES.glob("Deploy-ApplicationEncryptor*.yaml")),
    ids=lambda template: template.stem,
)
def test_large_build_is_the_deployed_one_with_a_filler_file(template: Path) -> None:
    resources: Any = documents.parse(template.read_text())["Resources"]
    deployed = resources["EncryptorProject"]["Properties"]["Source"]["BuildSpec"]
    spec, longer = yaml.safe_load(deployed), yaml.safe_load(with_filler(deployed))
    filling, *commands = longer["phases"]["install"].pop("commands")
    assert commands == spec["phases"]["install"].pop("commands")
    assert longer == spec
    assert filling.endswith('> "$CODEBUILD_SRC_DIR/$APPLICATION_DIRECTORY/filler"')
    assert FILLER_MEBIBYTES * 2**20 * 4 / 3 > 5 * 2**30
