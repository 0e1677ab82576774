"""CodeBuild builds as the verb `build` uses them: following one, and why it failed.

Source: https://docs.aws.amazon.com/codebuild/latest/APIReference/API_Build.html
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from generator import terminal

if TYPE_CHECKING:
    from mypy_boto3_codebuild import CodeBuildClient
    from mypy_boto3_codebuild.type_defs import BuildTypeDef

POLL_SECONDS: Final = 2
LATE_POLLS: Final = 5  # a log's last lines may arrive seconds after the build has ended
IN_PROGRESS: Final = "IN_PROGRESS"
SUCCEEDED: Final = "SUCCEEDED"
PREFIX: Final = r"^(?:\[Container\] [\d/]+ [\d:.]+ )?"
"""CodeBuild's agent prefixes its own lines with this; a command's output has no prefix."""
ERROR: Final = re.compile(rf"{PREFIX}(?:error|ERROR|Error): *(.+)")
FACTS: Final = {
    "artifact": re.compile(rf"{PREFIX}stored:? (s3://\S+)"),
    "size": re.compile(rf"{PREFIX}size:? ([\d,]+) bytes"),
    "sha256": re.compile(rf"{PREFIX}sha-?256:? ([0-9a-f]{{64}})", re.IGNORECASE),
}
"""What the uploader in the build prints about the artifact that it stored."""
HINTS: Final = (
    ("ACCESS_DENIED", "deploy the stack again, which restores the role's policy"),
    ("AccessDenied", "compare bucket, key and account with the host's outputs"),
    ("COMMAND_EXECUTION_ERROR", "read the log above"),
    ("YAML_FILE_ERROR", "deploy the stack again, which restores the buildspec"),
    ("reference not found", "correct --source-version, or push that branch"),
    ("repository", "correct CodeCommitRepositoryName, or push the application"),
    ("timed out", "choose a larger compute type, or encrypt less"),
)


@dataclass
class Log:
    """The log of one build; each call continues where the last one stopped."""

    client: Any
    lines: list[str] = field(default_factory=list)
    refusal: str | None = None
    _token: str | None = None

    def follow(self, build: BuildTypeDef) -> bool:
        """Print the lines that are new since the last call; return whether there were any.

        If reading the log is denied, that is printed once, and phases are still shown.
        """
        from botocore.exceptions import ClientError

        from generator.services import aws

        where = build.get("logs", {})
        if self.refusal or "streamName" not in where or "groupName" not in where:
            return False
        try:
            new = self._new_lines(where["groupName"], where["streamName"])
        except ClientError as error:
            if aws.code(error) == "ResourceNotFoundException":  # nothing was written yet
                return False
            self.refusal = f"the log cannot be read: {aws.reason(error)}"
            terminal.say(self.refusal)
            return False
        for line in new:
            terminal.say(line)
        self.lines += new
        return bool(new)

    def _new_lines(self, group: str, stream: str) -> list[str]:
        found: list[str] = []
        while True:
            more = {"nextToken": self._token} if self._token else {}
            page = self.client.get_log_events(
                logGroupName=group, logStreamName=stream, startFromHead=True, **more
            )
            for event in page["events"]:
                found += event["message"].splitlines()
            # At the end of a stream the token that was passed comes back.
            if page["nextForwardToken"] == self._token:
                return found
            self._token = page["nextForwardToken"]

    def fact(self, name: str) -> str | None:
        """Return the last value of *name* in the log."""
        matches = (FACTS[name].match(line) for line in reversed(self.lines))
        return next((match[1] for match in matches if match), None)


def follow(codebuild: CodeBuildClient, build: BuildTypeDef, log: Log) -> BuildTypeDef:
    """Print a build's phases and log until it has ended; return its last description."""
    shown: set[str] = set()
    while True:
        build = codebuild.batch_get_builds(ids=[build["id"]])["builds"][0]
        log.follow(build)
        for phase in build.get("phases", []):
            name, status = phase["phaseType"], phase.get("phaseStatus", IN_PROGRESS)
            if name not in shown and status != IN_PROGRESS:
                shown.add(name)
                seconds = phase.get("durationInSeconds")
                took = f", {seconds} s" if seconds is not None else ""
                terminal.say(f"phase {name}: {status}{took}")
        if build["buildStatus"] != IN_PROGRESS:
            break
        time.sleep(POLL_SECONDS)
    for _ in range(LATE_POLLS):
        time.sleep(POLL_SECONDS)
        if not log.follow(build):
            break
    return build


def failure(build: BuildTypeDef, log: Log) -> str:
    """Return why a build did not succeed: its log's last error, else its phase's, and a hint."""
    failed = [
        phase
        for phase in build.get("phases", [])
        if phase.get("phaseStatus", SUCCEEDED) not in (SUCCEEDED, IN_PROGRESS)
        and phase["phaseType"] != "COMPLETED"
    ]
    phase = failed[0]["phaseType"] if failed else build.get("currentPhase", "an unknown phase")
    what = f"{build['buildStatus'].lower().replace('_', ' ')} in {phase}"
    errors = [match[1] for line in log.lines if (match := ERROR.match(line))]
    contexts = [
        f"{context.get('statusCode', '')}: {context['message']}"
        for each in failed
        for context in each.get("contexts", [])
        if context.get("message")
    ]
    if errors:  # this project's errors end with what to do
        return f"{what}: {errors[-1]}"
    why = contexts[0].removeprefix(": ") if contexts else "CodeBuild gives no reason"
    hint = next((hint for word, hint in HINTS if word in why), "read the log above")
    return f"{what}: {why.rstrip('.')}: {hint}"
