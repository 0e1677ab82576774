"""Start a build and follow it to its end.

Phases and log are shown as they come. The last lines are the artifact's
address, size, SHA-256 and commit, which the host needs, or the reason why the
build failed. Ctrl-C asks whether to stop the build.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from generator import terminal
from generator.errors import GeneratorError
from generator.services import aws

if TYPE_CHECKING:
    import argparse

    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_codebuild import CodeBuildClient
    from mypy_boto3_codebuild.type_defs import BuildTypeDef

    from generator.services.builds import Log

EXAMPLES = """\
  application-encryptor build --stack-name my-application
  application-encryptor build --stack-name my-application --source-version v1.2
"""
STACK = "application-encryptor"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("--stack-name", default=STACK, metavar="S", help="default: %(default)s")
    parser.add_argument(
        "--source-version",
        metavar="V",
        help="a branch, tag or commit; default: the repository's default branch",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    aws.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run a build; status 1 if it does not succeed."""
    from generator.services import builds, stacks

    name = options.stack_name
    with aws.failures(f"stack {name}"):
        account = aws.Account(options)
        cloudformation: CloudFormationClient = account.client("cloudformation")
        outputs = stacks.outputs(stacks.existing(cloudformation, name))
        project = outputs.get("ProjectName")
        if project is None:
            raise GeneratorError("it has no output ProjectName: name the code owner's stack")
    version = {"sourceVersion": options.source_version} if options.source_version else {}
    with aws.failures(f"project {project}"):
        codebuild: CodeBuildClient = account.client("codebuild")
        build = codebuild.start_build(projectName=project, **version)["build"]
    terminal.say(f"build {build['id']} started")
    log = builds.Log(account.client("logs"))
    with aws.failures(f"build {build['id']} continues, but"):
        try:
            build = builds.follow(codebuild, build, log)
        except KeyboardInterrupt as interrupt:
            stopped = _stop(codebuild, build, interrupt)
            what = "was stopped" if stopped else "continues"
            interrupt.args = (f"interrupted: build {build['id']} {what}",)
            raise
    if build["buildStatus"] != builds.SUCCEEDED:
        raise GeneratorError(f"build {build['id']}: {builds.failure(build, log)}")
    _report(options, build, log, outputs)
    return 0


def _stop(codebuild: CodeBuildClient, build: BuildTypeDef, interrupt: KeyboardInterrupt) -> bool:
    """Ask whether to stop the build, unless a signal ended the program; return the answer."""
    if isinstance(interrupt, terminal.Stopped):
        return False
    sys.stderr.write("\n")
    try:
        stop = terminal.agreed("Stop the build?")
    except KeyboardInterrupt:  # a second Ctrl-C: leave at once
        return False
    if stop:
        codebuild.stop_build(id=build["id"])
    return stop


def _report(
    options: argparse.Namespace, build: BuildTypeDef, log: Log, outputs: dict[str, str]
) -> None:
    size = log.fact("size")
    facts: dict[str, Any] = {
        "build": build["id"],
        "artifact": log.fact("artifact") or outputs.get("ArtifactUri"),
        "size": int(size.replace(",", "")) if size else None,
        "sha256": log.fact("sha256"),
        "commit": build.get("resolvedSourceVersion"),
        "log": build.get("logs", {}).get("deepLink"),
    }
    if options.format == "json":
        print(json.dumps(facts, indent=2))
    else:
        shown = {**facts, "size": f"{facts['size']:,} bytes" if size else None}
        titles = {"sha256": "SHA-256"}
        rows = ((titles.get(name, name), value) for name, value in shown.items())
        sys.stdout.write(terminal.aligned(row for row in rows if row[1]))
    expected = f" --sha256 {facts['sha256']}" if facts["sha256"] else ""
    terminal.say(f"next, on the host: application-encryptor receive {facts['artifact']}{expected}")
