"""Builds on CodeBuild's real image, their log, and who may assume the build's role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import yaml

from conformance.programs import verb
from conformance.sources import expecting
from conformance.step import DENIED, DifferentError, SkippedError, differ, refused, step
from conformance.steps.stacks import (
    RETENTION_DAYS,
    find_log_group,
    log_group,
    owner_stack,
    require_whole,
)
from generator import terminal
from generator.limits import BUILDSPEC_MAX
from generator.services import builds

if TYPE_CHECKING:
    from conformance.run import Run

GIBIBYTE: Final = 1024**3
SINGLE_PUT_MAX: Final = 5 * GIBIBYTE
FILLER_MEBIBYTES: Final = 4200
"""Of random bytes, which in base64 become more than SINGLE_PUT_MAX."""
DISK_MIN: Final = 63 * 10**9
"""Bytes that BuildComputeType promises on its smallest machine: 7/3 of 27 GB."""
ASSUME: Final = "AssumeRole"
IMAGE_FACTS: Final = {
    "python": "python3 -I -c 'import platform; print(platform.python_version())'",
    "pip": "python3 -I -m pip --version | cut -d ' ' -f 2",
    "bash": "echo $BASH_VERSION",
    "disk": 'df --block-size=1 --output=avail "$CODEBUILD_SRC_DIR" | tail -n 1',
}
"""Facts about its image that a build prints: a name, and the command that finds each."""
FACT: Final = "image fact "


def _stored(run: Run) -> str | None:
    """Return a description of what an earlier run's build stored, None if it stored nothing."""
    with expecting("404", "403"):
        found = run.host.client("s3").head_object(
            Bucket=run.shared["ExternalBucketName"], Key=run.artifact_key
        )
        run.facts["sha256"] = found["Metadata"].get("sha256")
        return f"an artifact of {found['ContentLength']:,} bytes, built before"
    return None


@step("SUCCEEDED; its log says where the artifact is, and its SHA-256", owner_stack, found=_stored)
def build(run: Run) -> str:
    """A build takes the application, encrypts it and stores it in the host's bucket."""
    _, found = verb(run.owner, "build", "--stack-name", run.names.owner_stack)
    missing = [name for name in ("artifact", "size", "sha256") if not found[name]]
    differ([f"SUCCEEDED, but its log does not say the artifact's {name}" for name in missing])
    run.facts["sha256"] = found["sha256"]
    return f"SUCCEEDED, {found['size']:,} bytes, SHA-256 {found['sha256']}, {found['commit']}"


@step(f"the stack's log group, kept {RETENTION_DAYS} days, with the uploader's lines", build)
def build_log(run: Run) -> str:
    """The build writes its log, with no permission to make a log group."""
    group = log_group(run)
    found = require_whole(find_log_group(run, group), f"log group {group}")
    days = found.get("retentionInDays")
    pages = run.owner.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group)
    lines = [line for page in pages for event in page["events"] for line in _lines(event)]
    stored = [line for line in lines if builds.FACTS["artifact"].match(line)]
    problems = [] if days == RETENTION_DAYS else [f"{group} is kept {days} days"]
    problems += [] if stored else [f"{group} has {len(lines)} lines, none of the uploader's"]
    differ(problems)
    return f"{group}, {days} days, {len(lines)} lines, {stored[-1]}"


def _lines(event: Any) -> list[str]:  # noqa: ANN401 - boto3's
    lines: list[str] = event["message"].splitlines()
    return lines


@step(
    "the Python that the template names, pip, bash, and room for an application of 27 GB",
    owner_stack,
)
def build_image(run: Run) -> str:
    """A build prints what its image has: Python, pip, bash, free disk."""
    phases = yaml.safe_load(run.project["source"]["buildspec"])["phases"]
    python = str(phases["install"]["runtime-versions"]["python"])
    spec = {
        "version": 0.2,
        "env": {"shell": "bash"},
        "phases": {
            "install": {"runtime-versions": {"python": python}},
            "build": {
                "commands": [
                    # As the template's own commands: no Python starts in the source's folder.
                    "cd /",
                    *(f'echo "{FACT}{name} $({tell})"' for name, tell in IMAGE_FACTS.items()),
                ]
            },
        },
    }
    found = _facts(_overridden(run, yaml.safe_dump(spec)))
    problems = [f"no answer to {name}" for name in IMAGE_FACTS if not found.get(name)]
    if not found.get("python", "").startswith(f"{python}."):
        problems.append(f"Python is {found.get('python')}, not {python}")
    free = found.get("disk", "")
    disk = int(free) if free.isdecimal() else 0
    if disk < DISK_MIN:
        problems.append(f"{disk:,} bytes of disk are free, not {DISK_MIN:,}")
    differ(problems)
    return ", ".join(f"{name} {text}" for name, text in found.items())


def _facts(log: builds.Log) -> dict[str, str]:
    """Return what the image printed; CodeBuild's echo of a command begins with a time."""
    lines = [line.removeprefix(FACT) for line in log.lines if line.startswith(FACT)]
    words = (line.partition(" ") for line in lines)
    return {name: text.strip() for name, _, text in words if name in IMAGE_FACTS}


def _overridden(run: Run, buildspec: str) -> builds.Log:
    """Run the project once with another buildspec, and return its log.

    Raises:
        DifferentError: it did not succeed.
    """
    codebuild = run.owner.client("codebuild")
    started = codebuild.start_build(
        projectName=run.encryptor["ProjectName"], buildspecOverride=buildspec
    )["build"]
    terminal.say(f"  build {started['id']} started")
    log = builds.Log(run.owner.client("logs"))
    ended = builds.follow(codebuild, started, log)
    if ended["buildStatus"] != builds.SUCCEEDED:
        raise DifferentError(builds.failure(ended, log))
    return log


@step("SUCCEEDED; one object above 5 GiB with a full-object checksum (CRC-64/NVME)", build)
def large_build(run: Run) -> str:
    """A build stores an artifact that one PutObject cannot hold."""
    if not run.large:
        raise SkippedError("it takes 15 more minutes: pass --large")
    _overridden(run, with_filler(run.project["source"]["buildspec"]))
    s3 = run.host.client("s3")
    found = s3.head_object(
        Bucket=run.shared["ExternalBucketName"], Key=run.artifact_key, ChecksumMode="ENABLED"
    )
    size, checksum = found["ContentLength"], found.get("ChecksumCRC64NVME")
    problems = [] if size > SINGLE_PUT_MAX else [f"it has {size:,} bytes"]
    problems += [] if checksum else ["no CRC-64/NVME of the full object"]
    differ(problems)
    # What follows is about the artifact of the first build, which is the older version now.
    s3.delete_object(
        Bucket=run.shared["ExternalBucketName"],
        Key=run.artifact_key,
        VersionId=found["VersionId"],
    )
    return f"SUCCEEDED, {size:,} bytes, CRC-64/NVME {checksum}"


def with_filler(buildspec: str) -> str:
    """Return the deployed buildspec with a first command that makes the application large.

    Raises:
        DifferentError: there is no room for the command.
    """
    fill = (
        f"head -c {FILLER_MEBIBYTES}M /dev/urandom > "
        '"$CODEBUILD_SRC_DIR/$APPLICATION_DIRECTORY/filler"'
    )
    first = " commands:\n"
    longer = buildspec.replace(first, f"{first}  - {fill}\n", 1)
    if len(longer) > BUILDSPEC_MAX:
        raise DifferentError(
            f"the buildspec leaves no room for a command of {len(fill)} characters"
        )
    return longer


@step(f"refused: the role's trust names the stack's project alone ({ASSUME})", owner_stack)
def other_project(run: Run) -> str:
    """Another project of the same account builds with the build's role."""
    codebuild, name = run.owner.client("codebuild"), run.names.other_project
    role = run.project["serviceRole"]
    try:
        answer = _build_elsewhere(run, role)
    finally:
        with expecting("ResourceNotFoundException"):
            codebuild.delete_project(name=name)
    return answer


def _build_elsewhere(run: Run, role: str) -> str:
    """Have a project of no stack build as *role*, and return how that is refused."""
    from botocore.exceptions import ClientError

    codebuild, name = run.owner.client("codebuild"), run.names.other_project
    spec = {"version": 0.2, "phases": {"build": {"commands": ["true"]}}}
    try:
        codebuild.create_project(
            name=name,
            source={"type": "NO_SOURCE", "buildspec": yaml.safe_dump(spec)},
            artifacts={"type": "NO_ARTIFACTS"},
            environment={
                "type": "LINUX_CONTAINER",
                "image": run.project["environment"]["image"],
                "computeType": "BUILD_GENERAL1_SMALL",
            },
            logsConfig={"cloudWatchLogs": {"status": "DISABLED"}},
            serviceRole=role,
            tags=[{"key": key, "value": value} for key, value in run.tags.items()],
        )
        started = codebuild.start_build(projectName=name)["build"]
    except ClientError as error:
        if ASSUME in str(error):
            return str(error)
        raise
    log = builds.Log(run.owner.client("logs"))
    ended = builds.follow(codebuild, started, log)
    answer = (
        "the build succeeded"
        if ended["buildStatus"] == builds.SUCCEEDED
        else builds.failure(ended, log)
    )
    if ended["buildStatus"] == builds.SUCCEEDED or ASSUME not in answer:
        raise DifferentError(answer)
    return answer


@step("AccessDenied: the role trusts CodeBuild, nobody else", owner_stack)
def role_by_hand(run: Run) -> str:
    """An administrator of the owner's account assumes the build's role."""
    assume = run.owner.client("sts").assume_role

    def attempt() -> Any:  # noqa: ANN401 - boto3's
        return assume(RoleArn=run.project["serviceRole"], RoleSessionName="conformance")

    return refused(attempt, *DENIED)


@step("the file has the SHA-256 that the build's log says", build)
def artifact(run: Run) -> str:
    """The host downloads the artifact and verifies it."""
    file = run.folder / "application_code.zip.encrypted"
    digest = ("--sha256", run.facts["sha256"]) if run.facts.get("sha256") else ()
    _, found = verb(run.host, "receive", run.encryptor["ArtifactUri"], "-o", file, *digest)
    run.facts["artifact"] = file
    return f"{found['size']:,} bytes, {'verified' if found['verified'] else 'not verified'}"
