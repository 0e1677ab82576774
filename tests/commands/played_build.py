"""CodeBuild and CloudWatch Logs for one build, which the emulator records but does not run.

Each request for the build advances it by one step. Formats:
https://docs.aws.amazon.com/codebuild/latest/APIReference/API_BatchGetBuilds.html,
https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_GetLogEvents.html
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.support.endpoint import Refused

if TYPE_CHECKING:
    from tests.support.endpoint import Endpoint

ID = "my-application-ApplicationEncryptor:00000000-1111-2222-3333-444444444444"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
STREAM = "00000000-1111-2222-3333-444444444444"
TIME = datetime(2026, 11, 28, 18, tzinfo=UTC)


@dataclass(frozen=True)
class Step:
    """What happens between two requests: a phase ends, lines are logged."""

    phase: str
    status: str = "SUCCEEDED"
    lines: tuple[str, ...] = ()
    context: tuple[str, str] | None = None


@dataclass
class PlayedBuild:
    """A build that goes through its steps, and then ends."""

    steps: list[Step]
    status: str = "SUCCEEDED"
    asked: int = 0
    stopped: bool = False
    started: list[dict[str, Any]] = field(default_factory=list)

    def install(self, endpoint: Endpoint) -> None:
        """Play the operations at *endpoint*."""
        endpoint.played |= {
            "StartBuild": self._start,
            "BatchGetBuilds": self._get,
            "StopBuild": self._stop,
            "GetLogEvents": self._log,
        }

    def _start(self, request: dict[str, Any]) -> dict[str, Any]:
        self.started.append(request)
        return {"build": self._build([], "IN_PROGRESS")}

    def _get(self, request: dict[str, Any]) -> dict[str, Any]:
        assert request == {"ids": [ID]}
        self.asked += 1
        ended = self.asked > len(self.steps)
        return {"builds": [self._build(self._past, self.status if ended else "IN_PROGRESS")]}

    def _stop(self, request: dict[str, Any]) -> dict[str, Any]:
        assert request == {"id": ID}
        self.stopped = True
        return {"build": self._build(self._past, "STOPPED")}

    @property
    def _past(self) -> list[Step]:
        return self.steps[: self.asked]

    def _build(self, past: list[Step], status: str) -> dict[str, Any]:
        phases = [
            {
                "phaseType": step.phase,
                "phaseStatus": step.status,
                "startTime": TIME,
                "endTime": TIME,
                "durationInSeconds": 7,
                "contexts": [{"statusCode": step.context[0], "message": step.context[1]}]
                if step.context
                else [],
            }
            for step in past
        ]
        logs = {"groupName": f"/aws/codebuild/{ID.partition(':')[0]}", "streamName": STREAM}
        return {
            "id": ID,
            "buildStatus": status,
            "currentPhase": past[-1].phase if past else "QUEUED",
            "phases": phases,
            # The stream's name is known once the build's machine has started.
            "logs": {**logs, "deepLink": "https://log.example"} if past else {"deepLink": "-"},
            "resolvedSourceVersion": COMMIT,
        }

    def _log(self, request: dict[str, Any]) -> dict[str, Any]:
        assert (request["logStreamName"], request["startFromHead"]) == (STREAM, True)
        lines = [line for step in self._past for line in step.lines]
        if not lines:
            raise Refused("ResourceNotFoundException", "The specified log stream does not exist.")
        first = int(request.get("nextToken", "f/0")[2:])
        events = [
            {"timestamp": 0, "ingestionTime": 0, "message": f"{line}\n"} for line in lines[first:]
        ]
        # A page has one event, so that every test follows pages.
        last = min(first + 1, len(lines))
        return {
            "events": events[:1],
            "nextForwardToken": f"f/{last}",
            "nextBackwardToken": f"b/{first}",
        }
