"""The signals that end the command, and how they are held where they must not interrupt.

Only signals that the command line has taken over with `handle` are touched here: a program that
uses the package as a library keeps its own handlers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

HELD = (*ENDING, signal.SIGALRM)  # SIGALRM: see _swallowed
SOON = 0.001  # seconds

_handled: set[int] = set()
_ended_by: list[int] = []


def handle() -> None:
    """From now on, end the program with a cleanup at every signal of ENDING."""
    # A signal that is ignored at the start stays ignored, as nohup expects.
    _handled.update(n for n in ENDING if signal.getsignal(n) is not signal.SIG_IGN)
    redirect(_end)
    signal.signal(signal.SIGALRM, lambda *_: check())
    sys.unraisablehook = _swallowed


def redirect(handler: Callable[[int, FrameType | None], None]) -> None:
    """Have *handler* called at the signals that `handle` has taken over."""
    for number in _handled:
        signal.signal(number, handler)


def disregard() -> None:
    """Ignore the ending signals until the program has ended."""
    # SIG_IGN alone would do, but Python reports an error for a signal that is already pending.
    redirect(lambda *_: None)
    # At its end Python restores the default handlers, which would kill the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, _handled)


def check() -> None:
    """Exit if a signal was to end the program, but Python has swallowed the exit."""
    if _ended_by:
        sys.exit(128 + _ended_by[0])


def _swallowed(what: sys.UnraisableHookArgs) -> None:
    """Exit again, soon: Python prints and drops exceptions in finalizers and callbacks.

    The import system runs such callbacks, so an early interrupt often happens in one.
    """
    if _ended_by and what.exc_type is SystemExit:
        signal.setitimer(signal.ITIMER_REAL, SOON)
    else:
        sys.__unraisablehook__(what)


@contextlib.contextmanager
def held() -> Iterator[set[int]]:
    """Hold ending signals back, and yield the previous signal mask.

    Processes that are started meanwhile never receive them, unless they restore the mask.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield {int(number) for number in mask}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def restore(mask: set[int]) -> None:
    """In a child, before exec: restore the default handlers and *mask*."""
    for number in _handled:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _end(number: int, _frame: FrameType | None) -> None:
    """Exit with a cleanup, which a second signal does not interrupt."""
    disregard()
    _ended_by.append(number)
    with contextlib.suppress(OSError):
        name = signal.Signals(number).name
        os.write(2, f"error: terminated by {name}, nothing is left behind\n".encode())
    sys.exit(128 + number)
