"""Starts other programs so that they end with this one, and reads their output."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from . import signals
from .errors import TimeLimitError
from .system import end_with_parent

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Sequence

    Receive = Callable[[int, bytes], None]
    """Gets 1 or 2, for standard output or error, and what a program wrote there."""

OUTPUT_CHUNK = 1 << 16  # bytes: what a pipe holds
POLL_SECONDS = 0.02  # if the kernel cannot report that a process has ended


def start(
    command: Sequence[str | os.PathLike[str]],
    *,
    in_batch: bool = False,
    **options: Any,  # noqa: ANN401
) -> subprocess.Popen[bytes]:
    """Start *command* as `subprocess.Popen` does; it is killed when this process ends.

    Args:
        command: the program and its arguments.
        in_batch: give it the scheduling policy SCHED_BATCH.
        options: of Popen.

    Raises:
        OSError: it does not start.
    """
    import subprocess

    parent = os.getpid()
    process = None
    try:
        # A signal between the start and the assignment would leave the program running.
        with signals.held() as mask:

            def prepare() -> None:
                # Popen has changed the user before this point; doing so later would clear it.
                end_with_parent(parent)
                if in_batch:
                    with contextlib.suppress(OSError):
                        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
                signals.restore(mask)

            process = subprocess.Popen(command, preexec_fn=prepare, bufsize=0, **options)  # noqa: PLW1509
    except BaseException:  # a signal that was held
        if process:
            with process:
                if options.get("start_new_session"):
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
        raise
    return process


def follow(
    process: subprocess.Popen[bytes],
    receive: Receive,
    deadline: float | None = None,
    others: dict[int, Callable[[], None]] | None = None,
) -> None:
    """Pass what *process* writes into its pipes to *receive*, until it has ended.

    Args:
        process: has not been waited for.
        receive: its exceptions are passed on.
        deadline: by `time.monotonic`; None for no limit.
        others: descriptors, and functions to call when they become readable.

    Raises:
        TimeLimitError: the deadline has passed; the process is still running.
    """
    import selectors

    others = others or {}
    pipes = _pipes(process)
    with selectors.DefaultSelector() as selector, _pidfd(process.pid) as ended:
        for descriptor in (*ended, *pipes, *others):
            selector.register(descriptor, selectors.EVENT_READ)
        while process.poll() is None:
            left = _seconds_left(deadline)
            if not ended:
                left = POLL_SECONDS if left is None else min(left, POLL_SECONDS)
            for key, _ in selector.select(left):
                if key.fd in others:
                    others[key.fd]()
                elif key.fd in pipes and not _relay(key.fd, pipes[key.fd], receive):
                    selector.unregister(key.fd)


def drain(process: subprocess.Popen[bytes], receive: Receive) -> None:
    """Pass what *process*, which has ended, left in its pipes to *receive*."""
    for descriptor, number in _pipes(process).items():
        while _relay(descriptor, number, receive):
            pass


def _pipes(process: subprocess.Popen[bytes]) -> dict[int, int]:
    streams = ((1, process.stdout), (2, process.stderr))
    return {stream.fileno(): number for number, stream in streams if stream}


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[list[int]]:
    """Yield a descriptor that becomes readable when the process ends; none before Linux 5.3.

    The enclave kernel of nitro-cli, up to 1.5.0 at least, is 4.14.
    """
    descriptors = []
    with contextlib.suppress(OSError):
        descriptors.append(os.pidfd_open(pid))
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _seconds_left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeLimitError("the program exceeded its time limit")
    return left


def _relay(pipe: int, number: int, receive: Receive) -> bool:
    """Pass what is in a pipe to *receive*; return whether there was something."""
    os.set_blocking(pipe, False)
    try:
        data = os.read(pipe, OUTPUT_CHUNK)
    except BlockingIOError:
        return False
    if data:
        receive(number, data)
    return bool(data)
