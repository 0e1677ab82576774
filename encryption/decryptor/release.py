"""What both ways to get a data key share: credentials, tries, time limits, the error message."""

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
TRIES = 3  # for temporary failures: a call that hangs, an internal error of KMS, a lost connection
PAUSE = 0.5  # seconds before another try, if KMS or the network failed
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# They go into an argument list or into HTTP headers, where a line break would begin another one.
CREDENTIAL = re.compile("[!-~]+")


class Trouble(NamedTuple):
    """Why a call returned no key.

    Attributes:
        what: went wrong; it contains no secret.
        advice: what the user can do.
        retries: how often the call may be repeated for this reason.
        pause: seconds before it is repeated.
    """

    what: str
    advice: str
    retries: int = 0
    pause: float = PAUSE


class CallError(Exception):
    """A call returned no key; *trouble* says why."""

    def __init__(self, what: str, advice: str, retries: int = 0) -> None:
        """Take the attributes of a `Trouble`."""
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
            f"KMS needs credentials, but {', '.join(missing)} is not in the environment: "
            "pass the parent role's three values to the enclave"
        )
    for name in CREDENTIALS:
        if not CREDENTIAL.fullmatch(credentials[name]):
            raise KeyReleaseError(
                f"{name} has a space, a line break or another character that is not valid in it: "
                "pass the parent role's value to the enclave unchanged"
            )
    access_key, secret_key, session_token = (credentials[name] for name in CREDENTIALS)
    return access_key, secret_key, session_token


def tried(call: Callable[[float], Result | Trouble], timeout: float, who: str = "") -> Result:
    """Return what *call* returns, calling it again after temporary failures.

    Args:
        call: takes a deadline by `time.monotonic`.
        timeout: seconds that a call may take.
        who: precedes the failures in the message, unless they are whole sentences.

    Raises:
        KeyReleaseError: names the failures of all calls.
    """
    deadline = time.monotonic() + TRIES * (timeout + PAUSE)
    troubles: Counter[Trouble] = Counter()
    while True:
        outcome = call(min(deadline, time.monotonic() + timeout))
        if not isinstance(outcome, Trouble):
            return outcome
        troubles[outcome] += 1
        # Failures with different limits on retries are counted separately.
        alike = sum(n for other, n in troubles.items() if other.retries == outcome.retries)
        if alike > outcome.retries or time.monotonic() >= deadline:
            raise KeyReleaseError(_line(troubles, outcome.advice, who))
        time.sleep(min(outcome.pause, max(0, deadline - time.monotonic())))


def _line(troubles: Counter[Trouble], advice: str, who: str) -> str:
    times = [
        f"{trouble.what}, {n} times" if n > 1 else trouble.what for trouble, n in troubles.items()
    ]
    return f"KMS released no data key: {who}{'; '.join(times)}: {advice}"
