"""What both ways to a data key share: credentials, tries, time limits, the line of a failure."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from .errors import KeyReleaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Result = TypeVar("Result")

DATA_KEY = 32  # bytes
TRIES = 3  # of what fails in passing: a hanging call, an error of KMS itself, a lost connection
PAUSE = 0.5  # seconds before another try, where KMS or the network failed
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# They go into an argument list or into HTTP headers, where a line break would begin another one.
CREDENTIAL = re.compile("[!-~]+")


class Trouble(NamedTuple):
    """Why a call gave no key.

    Attributes:
        what: went wrong; no secret is in it.
        advice: what a person can do.
        retries: how often it may be tried again for that.
        pause: seconds before that.
    """

    what: str
    advice: str
    retries: int = 0
    pause: float = PAUSE


class CallError(Exception):
    """A call gave no key; *trouble* says why."""

    def __init__(self, what: str, advice: str, retries: int = 0) -> None:
        """Take what a `Trouble` has."""
        super().__init__(what)
        self.trouble = Trouble(what, advice, retries)


def host(region: str) -> str:
    """Return the name of KMS in *region*."""
    suffix = ".cn" if region.startswith("cn-") else ""
    return f"kms.{region}.amazonaws.com{suffix}"


def usable(credentials: Mapping[str, str]) -> tuple[str, str, str]:
    """Return access key id, secret access key and session token.

    Raises:
        KeyReleaseError: one is missing, or cannot be one; its value is not shown.
    """
    missing = [name for name in CREDENTIALS if not credentials.get(name)]
    if missing:
        raise KeyReleaseError(
            f"KMS needs credentials, and {', '.join(missing)} is not in the environment: "
            "hand the parent role's three values to the enclave"
        )
    for name in CREDENTIALS:
        if not CREDENTIAL.fullmatch(credentials[name]):
            raise KeyReleaseError(
                f"{name} has a space, a line break or another character that AWS's have not: "
                "hand the parent role's value to the enclave as it is"
            )
    access_key, secret_key, session_token = (credentials[name] for name in CREDENTIALS)
    return access_key, secret_key, session_token


def tried(call: Callable[[float], Result | Trouble], timeout: float, who: str = "") -> Result:
    """Return what *call* does, which is called again after troubles that may pass.

    Args:
        call: takes a deadline by `time.monotonic`.
        timeout: seconds that a call may take.
        who: begins each trouble in the message, if it is not the whole sentence already.

    Raises:
        KeyReleaseError: with all troubles of all calls.
    """
    deadline = time.monotonic() + TRIES * (timeout + PAUSE)
    troubles: Counter[Trouble] = Counter()
    while True:
        outcome = call(min(deadline, time.monotonic() + timeout))
        if not isinstance(outcome, Trouble):
            return outcome
        troubles[outcome] += 1
        # Troubles that may be tried again more often than others are counted by themselves.
        alike = sum(n for other, n in troubles.items() if other.retries == outcome.retries)
        if alike > outcome.retries or time.monotonic() >= deadline:
            raise KeyReleaseError(_line(troubles, outcome.advice, who))
        time.sleep(min(outcome.pause, max(0, deadline - time.monotonic())))


def _line(troubles: Counter[Trouble], advice: str, who: str) -> str:
    times = [
        f"{trouble.what}, {n} times" if n > 1 else trouble.what for trouble, n in troubles.items()
    ]
    return f"KMS released no data key: {who}{'; '.join(times)}: {advice}"
