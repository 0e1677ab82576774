"""CodeBuild on this machine: runs a project's buildspec, unmodified, as the project's role.

The project is read back from the emulator, so what runs is what was deployed. This knows
the part of the buildspec language that the project uses, and refuses the rest.

Sources: https://docs.aws.amazon.com/codebuild/latest/userguide/build-spec-ref.html,
build-env-ref-env-vars.html and view-build-details-phases.html in the same guide.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
import uuid
import zipfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from botocore.exceptions import ClientError

from generator.templates.buildspec import pins
from rehearsal.aws import PROJECT, REGION, RehearsalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rehearsal.aws import Aws, Credentials

WHEELS = PROJECT / ".rehearsal" / "wheels"
REQUIREMENTS = PROJECT / "requirements" / "rehearsed-build.txt"
"""The build's requirements with the hashes of the same wheels for other Pythons, too."""
INTERPRETER = PROJECT / ".rehearsal" / "python" / "bin"
BUILDSPEC_VERSION = 0.2
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
MEMORY_MIN = 1024**3
ENDS_AT_FAILURE = {"install": True, "pre_build": True, "build": False, "post_build": True}
"""The phases in their order, and whether the build ends where one fails."""

# Commands of version 0.2 share one shell's state: its directory and its variables.
# CodeBuild hands them from one shell to the next; a variable need not be exported.
COMMAND = """\
cd -- "$(cat "{state}/directory")" || exit
. "{state}/variables"
set -a
{command}
CODEBUILD_LAST_EXIT=$?
export -p > "{state}/variables"
pwd > "{state}/directory"
exit "$CODEBUILD_LAST_EXIT"
"""


# CodeBuild's Python is a shim of pyenv, which obeys a .python-version in or above the working
# directory. Source: https://github.com/aws/aws-codebuild-docker-images/issues/513
PYTHON_SHIM = """\
#!/bin/sh
folder=$PWD
while [ "$folder" ] && ! [ -e "$folder/.python-version" ]; do folder=${{folder%/*}}; done
if [ "$folder" ]; then
  echo "pyenv: version '$(cat "$folder/.python-version")' is not installed"
  exit 1
fi
exec "{python}" "$@"
"""


@dataclass(frozen=True)
class Build:
    """The outcome of a build."""

    id: str
    succeeded: bool
    log: str


def start_build(  # noqa: PLR0913 - the options of `aws codebuild start-build`
    aws: Aws,
    owner: Credentials,
    project: str,
    repositories: Path,
    *,
    overrides: Mapping[str, str] | None = None,
    region: str = REGION,
    listener: Callable[[str], None] = lambda _: None,
    interpreter: Path = INTERPRETER,
) -> Build:
    """Run *project* once, as `aws codebuild start-build` would have CodeBuild do.

    Args:
        aws: where the project is deployed.
        owner: root of the project's account.
        project: the project's name.
        repositories: stands for CodeCommit: holds a bare repository NAME.git for each.
        overrides: environment variables, as `--environment-variables-override` sets them.
        region: the project's.
        listener: gets every line of the log as it appears.
        interpreter: the folder with the build's Python.

    Raises:
        RehearsalError: the project is not deployed, or its buildspec uses what is not
            supported here. A build that fails raises nothing.
    """
    found = aws.client(owner, "codebuild", region).batch_get_projects(names=[project])["projects"]
    if not interpreter.exists():
        raise RehearsalError(f"{interpreter} has no Python for builds: `make demo` makes it")
    if not found:
        raise RehearsalError(f"CodeBuild project {project}: not deployed in {region}")
    role_arn = found[0]["serviceRole"]
    principal = aws.act_as(owner, role_arn)
    role = aws.environment(principal, region)
    with tempfile.TemporaryDirectory(prefix="build-", dir=_memory()) as folder:
        container = _Container(Path(folder), found[0], listener, interpreter)
        succeeded = (
            container.allowed(partial(_may, aws, owner, role_arn))
            and container.download(repositories, aws.client(principal, "s3", region))
            and container.run(_parse(found[0]["source"]["buildspec"]), role, overrides or {})
        )
        container.say(f"Build {'SUCCEEDED' if succeeded else 'FAILED'}")
    return Build(container.build_id, succeeded, "\n".join(container.log))


@dataclass
class _Container:
    """The machine of one build: its folders, and its log so far."""

    folder: Path
    project: dict[str, Any]
    listener: Callable[[str], None]
    interpreter: Path
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.build_id = f"{self.project['name']}:{uuid.uuid4()}"
        self.source = self.folder / "src" / _source_name(self.project["source"])
        self.commit = ""
        for name in ("src", "home", "tmp", "state", "shims"):
            (self.folder / name).mkdir()
        shim = self.folder / "shims" / "python3"
        shim.write_text(PYTHON_SHIM.format(python=self.interpreter / "python3"))
        shim.chmod(0o755)

    def say(self, line: str) -> None:
        """Add a line to the log."""
        self.log.append(line)
        self.listener(line)

    def allowed(self, may: Callable[[str, str], bool]) -> bool:
        """Whether the role allows CodeBuild its own part: to read the source and write the log."""
        arn = self.project["arn"].removesuffix(f":project/{self.project['name']}")
        group = f"log-group:/aws/codebuild/{self.project['name']}:log-stream:{uuid.uuid4()}"
        stream = f"{arn.replace(':codebuild:', ':logs:')}:{group}"
        needed = {"logs:CreateLogStream": stream, "logs:PutLogEvents": stream}
        source = self.project["source"]
        if source["type"] == "CODECOMMIT":
            codecommit = arn.replace(":codebuild:", ":codecommit:")
            needed["codecommit:GitPull"] = f"{codecommit}:{self.source.name}"
        elif source["type"] != "S3":  # which the emulator has, so the download itself is refused
            connection = source["auth"]["resource"]
            needed["codeconnections:GetConnectionToken"] = connection
            needed["codeconnections:GetConnection"] = connection
        refused = [f"{action} on {on}" for action, on in needed.items() if not may(action, on)]
        for what in refused:
            self.say(f"ACCESS_DENIED: the service role does not allow {what}")
        return not refused

    def download(self, repositories: Path, s3: Any) -> bool:  # noqa: ANN401 - boto3's
        """Fetch the project's source, as the role: a repository, or what is in S3."""
        self.say("Entering phase DOWNLOAD_SOURCE")
        if self.project["source"]["type"] == "S3":
            return self._copy(s3)
        repository = repositories / f"{self.source.name}.git"
        depth = self.project["source"].get("gitCloneDepth", 0)
        limit = [f"--depth={depth}"] if depth else []
        clone = _git("clone", "--quiet", *limit, repository.as_uri(), str(self.source))
        self.commit = _git("-C", str(self.source), "rev-parse", "HEAD").stdout.strip()
        if clone.returncode:
            self.say(clone.stderr.strip())
        return clone.returncode == 0

    def _copy(self, s3: Any) -> bool:  # noqa: ANN401 - boto3's
        """Unpack the one archive, or copy all below the prefix: a location that ends in a slash."""
        bucket, _, key = self.project["source"]["location"].partition("/")
        self.source.mkdir()
        try:
            if not key.endswith("/"):
                body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
                zipfile.ZipFile(io.BytesIO(body)).extractall(self.source)
                return True
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
            for name in [each["Key"] for page in pages for each in page.get("Contents", ())]:
                target = self.source / name.removeprefix(key)
                target.parent.mkdir(parents=True, exist_ok=True)
                if not name.endswith("/"):
                    s3.download_file(bucket, name, str(target))
        except ClientError as error:
            self.say(f"ACCESS_DENIED, or it does not exist: {error}")
            return False
        return True

    def run(
        self, spec: dict[str, Any], environment: dict[str, str], overrides: Mapping[str, str]
    ) -> bool:
        """Run the buildspec's phases, and return whether all succeeded."""
        shell = spec.get("env", {}).get("shell", "sh")
        variables = {
            item["name"]: item["value"]
            for item in self.project["environment"].get("environmentVariables", ())
        }
        # Of a name set more than once, the build's value counts, then the project's.
        environment |= spec.get("env", {}).get("variables", {}) | variables | overrides
        environment |= self._surroundings(environment["AWS_DEFAULT_REGION"])
        state = self.folder / "state"
        (state / "directory").write_text(str(self.source))
        succeeding = True
        for phase, ends in ENDS_AT_FAILURE.items():
            steps = spec["phases"].get(phase)
            if steps is None:
                continue
            self.say(f"Entering phase {phase.upper()}")
            with (state / "variables").open("a") as variables_so_far:
                variables_so_far.write(f"export CODEBUILD_BUILD_SUCCEEDING={succeeding:d}\n")
            passed = self._commands(shell, steps.get("commands", ()), environment)
            passed &= self._commands(shell, steps.get("finally", ()), environment)
            self.say(
                f"Phase complete: {phase.upper()} State: {'SUCCEEDED' if passed else 'FAILED'}"
            )
            if passed or steps.get("on-failure") == "CONTINUE":
                continue
            succeeding = False
            if ends or steps.get("on-failure") == "ABORT":
                break
        return succeeding

    def _commands(self, shell: str, commands: list[str], environment: dict[str, str]) -> bool:
        """Run *commands* until one fails; return whether none did."""
        state = self.folder / "state"
        for command in commands:
            first, *more = command.strip().splitlines()
            self.say(f"Running command {first}{' …' if more else ''}")
            script = state / "script"
            script.write_text(COMMAND.format(state=state, command=command))
            status = self._execute([shell, str(script)], environment)
            if status:
                self.say(f"Command did not exit successfully, exit status {status}")
                return False
        return True

    def _execute(self, command: list[str], environment: dict[str, str]) -> int:
        """Run one program, copy its output to the log line by line, and return its exit status."""
        with subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            for line in process.stdout or ():
                self.say(line.rstrip("\n"))
        return process.returncode

    def _surroundings(self, region: str) -> dict[str, str]:
        """Return what the image and CodeBuild put into the environment of every build."""
        return {
            # Whatever `runtime-versions` picks: a Python that has pip and nothing else.
            "PATH": f"{self.folder / 'shims'}:{self.interpreter}:{SYSTEM_PATH}",
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "AWS_REGION": region,
            "CODEBUILD_BUILD_ID": self.build_id,
            # Of a source in S3 there is no commit, and no variable.
            **({"CODEBUILD_RESOLVED_SOURCE_VERSION": self.commit} if self.commit else {}),
            "CODEBUILD_SRC_DIR": str(self.source),
            # No network: pip's own environment variables say where wheels are.
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(WHEELS),
            "PIP_NO_COMPILE": "1",
        }


def _source_name(source: Mapping[str, Any]) -> str:
    """Name the folder of a source: a repository's address ends with the repository's name."""
    last: str = source["location"].rsplit("/", 1)[1].removesuffix(".git")
    return last if source["type"] != "S3" else "s3"


def _memory() -> str | None:
    """A memory file system for builds, if there is a good one: they mostly write small files."""
    room = Path("/dev/shm")  # noqa: S108 - a mount; names in it are still made up by tempfile
    if "TMPDIR" in os.environ or not os.access(room, os.W_OK):
        return None
    executable = not os.statvfs(room).f_flag & os.ST_NOEXEC
    return str(room) if executable and shutil.disk_usage(room).free > MEMORY_MIN else None


def publish(application: Path, repositories: Path, name: str) -> Path:
    """Commit everything in *application* to the new bare repository *name*; return its folder."""
    repository = repositories / f"{name}.git"
    author = ("-c", "user.name=Code Owner", "-c", "user.email=owner@example.com")
    here = (f"--git-dir={repository}", f"--work-tree={application}")
    for command in (
        ("init", "--quiet", "--bare", "--initial-branch=main", str(repository)),
        (*here, "add", "--all", "--force"),
        (*here, *author, "commit", "--quiet", "--message=The application"),
    ):
        _git(*command).check_returncode()
    return repository


def _git(*command: str) -> subprocess.CompletedProcess[str]:
    """Run git without anybody's configuration."""
    environment = {"PATH": SYSTEM_PATH, "HOME": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(
        ["git", *command], env=environment, capture_output=True, text=True, check=False
    )


def _parse(text: str) -> dict[str, Any]:
    """Read a buildspec; refuse what this rehearsal would not do as CodeBuild does.

    One thing differs from what was deployed: the hashes, which are those of this Python's wheels.
    """
    spec: dict[str, Any] = yaml.safe_load(text)
    for phase in spec["phases"].values():
        commands = phase.get("commands", ())
        phase["commands"] = [each.replace(pins(), REQUIREMENTS.read_text()) for each in commands]
    steps = {"commands", "finally", "on-failure", "runtime-versions"}
    unknown = (
        (spec.keys() - {"version", "env", "phases"})
        | (spec.get("env", {}).keys() - {"shell", "variables"})
        | (spec["phases"].keys() - ENDS_AT_FAILURE.keys())
        | {name for phase in spec["phases"].values() for name in phase.keys() - steps}
    )
    if spec["version"] != BUILDSPEC_VERSION or unknown:
        raise RehearsalError(f"buildspec: {sorted(unknown) or 'its version'}: not supported here")
    return spec


def _may(aws: Aws, owner: Credentials, role_arn: str, action: str, resource: str) -> bool:
    """Whether IAM allows the role *action*, for services that the emulator does not have."""
    answer = aws.client(owner, "iam").simulate_principal_policy(
        PolicySourceArn=role_arn, ActionNames=[action], ResourceArns=[resource]
    )
    return bool(answer["EvaluationResults"][0]["EvalDecision"] == "allowed")
