"""A step: an operation on AWS, its expected result, and how a difference is reported."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from generator import terminal
from generator.services import aws

if TYPE_CHECKING:
    from collections.abc import Callable

    from conformance.run import Run

    Answer = TypeVar("Answer")

DENIED: Final = ("AccessDenied", "AccessDeniedException", "403")
RETRY_SECONDS: Final = 3


class DifferentError(Exception):
    """AWS did something else than expected; the message says what."""


class SkippedError(Exception):
    """The step cannot run here; the message says why."""


class Verdict(Enum):
    """How a step ended."""

    AS_EXPECTED = "as expected"
    DIFFERENT = "different"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Result:
    """How a step ended, and what AWS answered."""

    step: str
    expected: str
    answer: str
    verdict: Verdict
    seconds: float


@dataclass(frozen=True)
class Step:
    """One question to AWS, or something that later steps need.

    ``run`` returns what AWS answered if that is as expected. ``found`` returns what this step left
    in an earlier run with the same id, None if the step must be run.
    """

    name: str
    expected: str
    run: Callable[[Run], str]
    needs: tuple[str, ...]
    found: Callable[[Run], str | None] | None = None

    @property
    def question(self) -> str:
        """Return what the step does, in a sentence."""
        return (self.run.__doc__ or "").partition("\n")[0].rstrip(".")


def step(
    expected: str,
    *needs: Step,
    found: Callable[[Run], str | None] | None = None,
) -> Callable[[Callable[[Run], str]], Step]:
    """Turn a function into a step of the same name that must be run after *needs*."""

    def made(function: Callable[[Run], str]) -> Step:
        name = function.__name__.replace("_", "-")
        return Step(name, expected, function, tuple(need.name for need in needs), found)

    return made


def tell(line: str) -> None:
    """Print a line, if anybody can see it: removal continues after the terminal was closed."""
    try:
        terminal.say(line)
    except OSError:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - until the program ends


def said(error: Exception) -> str:
    """Return an error as AWS said it."""
    answer = (getattr(error, "response", None) or {}).get("Error", {})
    message = answer.get("Message") or str(error)
    code = answer.get("Code")
    return f"{code}: {message}" if code and code not in message else message


def refused(call: Callable[[], object], *codes: str, because: str = "") -> str:
    """Make a call that AWS must refuse, and return what AWS said.

    Args:
        call: what is tried.
        codes: of the refusals that are expected.
        because: must be in the message.

    Raises:
        DifferentError: it was accepted, or refused for another reason.
    """
    from botocore.exceptions import ClientError

    try:
        call()
    except ClientError as error:
        answer = said(error)
        if aws.code(error) in codes and because in answer:
            return answer
        raise DifferentError(answer) from error
    raise DifferentError("it was accepted")


def patiently(run: Run, call: Callable[[], Answer], *codes: str) -> Answer:
    """Make a call again while AWS refuses it with one of *codes*, for `Run.patience`.

    "Changes … are eventually consistent": a role that was just made may not be known to all of
    AWS's servers. Source:
    https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot.html#troubleshoot_general_eventual-consistency
    """
    from botocore.exceptions import ClientError

    deadline = time.monotonic() + run.patience
    while True:
        try:
            return call()
        except ClientError as error:
            if aws.code(error) not in (codes or DENIED) or time.monotonic() >= deadline:
                raise
            time.sleep(RETRY_SECONDS)


def until(run: Run, condition: Callable[[], Any]) -> bool:
    """Wait until *condition* holds, for `Run.patience` at most; return whether it does."""
    deadline = time.monotonic() + run.patience
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(RETRY_SECONDS)
    return True


def differ(problems: list[str]) -> None:
    """Raise DifferentError if there are any *problems*."""
    if problems:
        raise DifferentError("; ".join(problems))
