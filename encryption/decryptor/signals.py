"""The signals that end the command, and how they are held back where they must not interrupt.

Nothing here touches a signal that the command line has not asked for with `handle`: whoever calls
the rooms as a library keeps their own handlers.
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

HELD = (*ENDING, signal.SIGALRM)  # the last is ours, see _swallowed
SOON = 0.001  # seconds

_handled: set[int] = set()
_ended_by: list[int] = []


def handle() -> None:
    """End the program, cleaning up on the way, at every signal of ENDING."""
    # What is ignored at the start stays so, as nohup wants it.
    _handled.update(n for n in ENDING if signal.getsignal(n) is not signal.SIG_IGN)
    redirect(_end)
    signal.signal(signal.SIGALRM, lambda *_: check())
    sys.unraisablehook = _swallowed


def redirect(handler: Callable[[int, FrameType | None], None]) -> None:
    """Have *handler* called at the signals that `handle` has taken over."""
    for number in _handled:
        signal.signal(number, handler)


def disregard() -> None:
    """From here on signals come too late: they change nothing until the program has ended."""
    # SIG_IGN alone would do, but Python complains of one that is on its way to it.
    redirect(lambda *_: None)
    # At its end Python restores the default handlers, which would kill.
    signal.pthread_sigmask(signal.SIG_BLOCK, _handled)


def check() -> None:
    """Exit if a signal has ended the program, although Python has swallowed the exit."""
    if _ended_by:
        sys.exit(128 + _ended_by[0])


def _swallowed(what: sys.UnraisableHookArgs) -> None:
    """Exit again, soon: Python prints and forgets what is raised in a finalizer or a callback.

    The import system runs such callbacks, so an interrupt at the start often comes in one.
    """
    if _ended_by and what.exc_type is SystemExit:
        signal.setitimer(signal.ITIMER_REAL, SOON)
    else:
        sys.__unraisablehook__(what)


@contextlib.contextmanager
def held() -> Iterator[set[int]]:
    """Have ending signals wait, and yield the signal mask as it was.

    Processes that are made meanwhile never receive them, unless they put the mask back.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield {int(number) for number in mask}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def restore(mask: set[int]) -> None:
    """Before exec, in the process made for a program: give it usual handlers and *mask*."""
    for number in _handled:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _end(number: int, _frame: FrameType | None) -> None:
    """Unwind to the exit, cleaning up on the way; a second signal does not disturb that."""
    disregard()
    _ended_by.append(number)
    with contextlib.suppress(OSError):
        os.write(2, f"error: ended by {signal.Signals(number).name}, nothing is left\n".encode())
    sys.exit(128 + number)
