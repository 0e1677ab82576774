"""What a check is: its context, what it found, and what to do about it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from generator.errors import GeneratorError
from generator.services import aws

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

VERSION_SECONDS: Final = 20
"""How long a program may take to print its version."""


class Status(Enum):
    """How a check ended."""

    OK = "ok"
    LOOK = "look"  # cannot be determined from here, or is unusual: somebody should look
    FIX = "fix"


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do about it."""

    name: str
    status: Status
    text: str
    todo: str | None = None


@dataclass
class Context:
    """What is checked: an account, a stack's name, and the parameters it has or is to have."""

    account: aws.Account
    stack_name: str
    identity: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)

    def client(self, service: str, region: str | None = None) -> Any:  # noqa: ANN401 - as boto3's
        """Return a client of *service*."""
        return self.account.client(service, region)


def ok(name: str, text: str) -> Finding:
    """Return that the check passed."""
    return Finding(name, Status.OK, text)


def look(name: str, text: str, todo: str | None = None) -> Finding:
    """Return what cannot be determined from here."""
    return Finding(name, Status.LOOK, text, todo)


def fix(name: str, text: str, todo: str) -> Finding:
    """Return what would fail, and what to do."""
    return Finding(name, Status.FIX, text, todo)


def run(check: Callable[[Context], Iterator[Finding]], context: Context) -> Iterator[Finding]:
    """Yield what a check finds; if AWS refuses the check's requests, that is the finding."""
    from botocore.exceptions import BotoCoreError, ClientError

    name = check.__name__.replace("_", " ")
    try:
        yield from check(context)
    except (BotoCoreError, ClientError) as error:
        yield look(name, f"cannot be determined: {aws.reason(error)}")
    except GeneratorError as error:
        yield (
            fix(name, *str(error).rsplit(": ", 1)) if ": " in str(error) else look(name, str(error))
        )


def credentials(context: Context) -> Finding:
    """Report whose credentials are used; without any, nothing else can be checked.

    Raises:
        GeneratorError: there are no credentials, or AWS refuses them.
    """
    with aws.failures("credentials"):
        found = context.client("sts").get_caller_identity()
    context.identity = {"account": found["Account"], "arn": found["Arn"]}
    text = f"account {found['Account']} as {found['Arn']}, region {context.account.region}"
    return ok("credentials", text)


def program(name: str, purpose: str, install: str) -> Iterator[Finding]:
    """Report which version of a program is installed."""
    if shutil.which(name) is None:
        yield fix(name, f"is not installed; {purpose}", install)
        return
    try:
        found = subprocess.run(
            [name, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERSION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        yield fix(name, f"does not start: {error}", install)
        return
    lines = (found.stdout or found.stderr).strip().splitlines()
    if found.returncode or not lines:
        yield fix(name, f"--version ends with status {found.returncode}", install)
    else:
        yield ok(name, lines[0])
