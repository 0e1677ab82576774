"""The rehearsal runs a buildspec as CodeBuild does, or says that it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rehearsal.aws import RehearsalError
from rehearsal.build import Build, publish, start_build

if TYPE_CHECKING:
    from pathlib import Path

    from rehearsal.aws import Aws, Credentials

PULL_AND_LOG = """{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Resource": "*",
    "Action": ["codecommit:GitPull", "logs:CreateLogStream", "logs:PutLogEvents"]}]}"""


def play(
    aws: Aws, owner: Credentials, folder: Path, spec: str, policy: str = PULL_AND_LOG, **more: str
) -> Build:
    """Build a small repository in a project with *spec*, whose environment has WHO=project."""
    (folder / "checkout").mkdir()
    (folder / "checkout" / "file").touch()
    publish(folder / "checkout", folder, "code")
    iam = aws.client(owner, "iam")
    role = iam.create_role(RoleName="builder", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    iam.put_role_policy(RoleName="builder", PolicyName="own-part", PolicyDocument=policy)
    location = "https://git-codecommit.eu-central-1.amazonaws.com/v1/repos/code"
    aws.client(owner, "codebuild").create_project(
        name="small",
        source={"type": "CODECOMMIT", "location": location, "buildspec": spec},
        artifacts={"type": "NO_ARTIFACTS"},
        environment={
            "type": "LINUX_CONTAINER",
            "image": "any",
            "computeType": "BUILD_GENERAL1_SMALL",
            "environmentVariables": [{"name": "WHO", "value": "project"}],
        },
        serviceRole=role,
    )
    return start_build(aws, owner, "small", folder, overrides=more)


def spec(*commands: str, phase: str = "build", shell: str = "bash") -> str:
    lines = "".join(f"      - |\n        {command}\n" for command in commands)
    return (
        f"version: 0.2\nenv: {{shell: {shell}, variables: {{WHO: buildspec, HOW: buildspec}}}}\n"
        f"phases:\n  {phase}:\n    commands:\n{lines}"
    )


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        pytest.param(("mkdir a", "cd a", "pwd"), "/src/code/a", id="the-directory"),
        pytest.param(("A='$(x)  b'", 'echo "<$A>"'), "<$(x)  b>", id="a-variable"),
        pytest.param(('echo "$WHO $HOW"',), "project buildspec", id="precedence"),
        pytest.param(("python3 -c 'import sys; print(sys.version_info >= (3, 11))'",), "True"),
        pytest.param(('echo "${HOME##*/} $(ls -A "$HOME" | wc -l)"',), "home 0", id="clean-home"),
        pytest.param(('ls "$CODEBUILD_SRC_DIR"',), "file", id="the-source"),
        pytest.param(('git cat-file -t "$CODEBUILD_RESOLVED_SOURCE_VERSION"',), "commit"),
    ],
)
def test_commands_run_in_the_expected_environment(
    aws: Aws, owner: Credentials, tmp_path: Path, commands: tuple[str, ...], said: str
) -> None:
    build = play(aws, owner, tmp_path, spec(*commands))
    assert build.succeeded
    assert [line for line in build.log.splitlines() if line.endswith(said)], build.log


def test_variables_of_the_build_override_those_of_the_project(
    aws: Aws, owner: Credentials, tmp_path: Path
) -> None:
    build = play(aws, owner, tmp_path, spec('echo "by $WHO"'), WHO="$(touch x)")
    assert "by $(touch x)" in build.log.splitlines()


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("false", id="a-status"),
        pytest.param("exit 3", id="an-exit"),
        pytest.param("set -e; false; true", id="a-strict-shell"),
        pytest.param("no-such-program", id="a-program-that-is-missing"),
    ],
)
def test_failing_command_ends_the_build(
    aws: Aws, owner: Credentials, tmp_path: Path, command: str
) -> None:
    build = play(aws, owner, tmp_path, spec(command, "echo not reached"))
    assert not build.succeeded
    assert "not reached" not in build.log.replace("Running command echo not reached", "")


AFTERWARDS = {
    "build": ("", "cleaned up, succeeding 0"),
    "build-that-aborts": ("on-failure: ABORT", ""),
    "build-that-continues": ("on-failure: CONTINUE", "cleaned up, succeeding 1"),
}


@pytest.mark.parametrize(("rule", "said"), AFTERWARDS.values(), ids=AFTERWARDS)
def test_phases_after_a_failed_build_phase_follow_on_failure(
    aws: Aws, owner: Credentials, tmp_path: Path, rule: str, said: str
) -> None:
    text = (
        f"version: 0.2\nphases:\n  build:\n    {rule}\n    commands: ['false']\n"
        "    finally: ['echo finally']\n  post_build:\n    commands:\n"
        '      - echo "cleaned up, succeeding $CODEBUILD_BUILD_SUCCEEDING"\n'
    )
    build = play(aws, owner, tmp_path, text)
    lines = build.log.splitlines()
    assert "finally" in lines
    assert [line for line in lines if line.startswith("cleaned up")] == ([said] if said else [])
    assert build.succeeded == (rule == "on-failure: CONTINUE")


def test_buildspec_with_unsupported_features_is_refused(
    aws: Aws, owner: Credentials, tmp_path: Path
) -> None:
    wants = spec("true").replace("variables:", "secrets-manager: {A: b}, variables:")
    with pytest.raises(RehearsalError, match="secrets-manager"):
        play(aws, owner, tmp_path, wants)


@pytest.mark.parametrize(
    "action", ["codecommit:GitPull", "logs:CreateLogStream", "logs:PutLogEvents"]
)
def test_role_without_permissions_of_codebuild_itself_fails_the_build(
    aws: Aws, owner: Credentials, tmp_path: Path, action: str
) -> None:
    policy = PULL_AND_LOG.replace(action, "sts:GetCallerIdentity")
    build = play(aws, owner, tmp_path, spec("true"), policy)
    assert not build.succeeded
    assert f"does not allow {action}" in build.log


def test_missing_repository_fails_the_build(aws: Aws, owner: Credentials, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert play(aws, owner, tmp_path, spec("true")).succeeded
    assert not start_build(aws, owner, "small", empty).succeeded


def test_trust_policy_of_the_role_is_restored(aws: Aws, owner: Credentials, tmp_path: Path) -> None:
    play(aws, owner, tmp_path, spec("true"))
    role = aws.client(owner, "iam").get_role(RoleName="builder")["Role"]
    assert role["AssumeRolePolicyDocument"] == {}
