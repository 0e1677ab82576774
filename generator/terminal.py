"""Output for a person at a terminal: lines, questions, progress.

Results go to standard output; everything here goes to standard error, and progress only where
that is a terminal, so that a pipe stays quiet.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

YES = ("y", "yes")
STANDARD_OUTPUT = "-"
STOPS = (signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal other than Ctrl-C ends the program: it cleans up as for Ctrl-C, but asks nothing."""

    def __init__(self, number: int) -> None:
        """Remember the signal's *number*."""
        super().__init__()
        self.number = number


def listen() -> None:
    """Handle the signals that end a program as Ctrl-C is handled, unless they are ignored."""

    def stop(number: int, _: object) -> None:
        raise Stopped(number)

    for number in STOPS:
        if signal.getsignal(number) == signal.SIG_DFL:  # not under nohup
            signal.signal(number, stop)


def interrupted(interrupt: KeyboardInterrupt) -> int:
    """Print one line that the program was interrupted, and return the exit status."""
    number = interrupt.number if isinstance(interrupt, Stopped) else signal.SIGINT
    return complain(str(interrupt) or "interrupted", 128 + number)


def escaped(text: str) -> str:
    """Return *text* with control and invisible characters escaped, so a terminal ignores them."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def printable(text: object) -> str:
    """Return *text* as one line, escaped, with each run of white space as one space."""
    return escaped(" ".join(str(text).split()))


def complain(message: object, status: int = 1) -> int:
    """Print one line that says what failed, and return the exit status."""
    print(f"error: {printable(message)}", file=sys.stderr)
    return status


def warn(message: object) -> None:
    """Print a one-line warning: nothing failed, but the reader should know this."""
    print(f"warning: {printable(message)}", file=sys.stderr)


def say(line: object = "") -> None:
    """Print one line for a person, with its spacing kept."""
    print(escaped(str(line).expandtabs().rstrip()), file=sys.stderr, flush=True)


def note(what: str) -> None:
    """Print what takes a while, if standard error is a terminal."""
    if sys.stderr.isatty():
        say(f"{what} …")


def agreed(question: str) -> bool:
    """Ask for a yes; the end of standard input is a no."""
    sys.stderr.write(f"{printable(question)} [y/N] ")
    sys.stderr.flush()
    answer = ""
    try:
        answer = sys.stdin.readline()
    finally:
        if not (answer.endswith("\n") and sys.stdin.isatty()):  # no Enter was echoed
            sys.stderr.write("\n")
    return answer.strip().lower() in YES


def aligned(rows: Iterable[tuple[str, object]]) -> str:
    """Return *rows* of a name and a value as text, with the values in one column."""
    known = [(name, printable(value)) for name, value in rows]
    width = max((len(name) for name, _ in known), default=0)
    return "".join(f"{name:{width}}  {value}\n" for name, value in known)


@contextmanager
def progress(what: str, size: int | None) -> Iterator[Callable[[int], None]]:
    """Yield a function that adds to the number of bytes done, of *size* in all."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    bar = Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True), transient=True)
    with bar:
        task = bar.add_task(printable(what), total=size)
        yield lambda more: bar.advance(task, more)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that adds to the number of *what* done, where the total is unknown."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    done = 0
    with Console(stderr=True).status(what) as status:

        def advance(more: int) -> None:
            nonlocal done
            done += more
            status.update(f"{done:,} {what}")

        yield advance


def write(output: str | None, text: str) -> None:
    """Write *text* to the file *output*, whole or not at all, or to standard output.

    Raises:
        OSError: the file cannot be written.
    """
    if output in (None, STANDARD_OUTPUT):
        sys.stdout.write(text)
        return
    target = Path(str(output))
    if target.exists() and not target.is_file():  # a device or a pipe, which cannot be replaced
        target.write_text(text, encoding="utf-8")
        return
    draft = target.with_name(f".{os.urandom(8).hex()}")  # its own name may be the longest
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
