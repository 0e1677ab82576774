"""Runs a script of the tree, without our credentials, and ends everything that it started.

For a server, `run` takes the artifact as a stream and passes the output to a callback. It starts
processes and ends all children of its process, so call it from the main thread of a process that
serves only this request and has no other threads.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import leftovers, programs, signals
from .errors import TargetError, TimeLimitError
from .private import DIRECTORY, guards, private_directory, remove_by_descriptor
from .system import PR_SET_CHILD_SUBREAPER, prctl, shell_status
from .tree import open_artifact

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType

    from .archive import Limits
    from .token import Artifact
    from .tree import Unwrap


class Control(NamedTuple):
    """How the caller controls a script while it runs.

    Attributes:
        descriptor: becomes readable when there is a message, or when the caller has disconnected.
        receive: is called then. It returns the number of a signal for the script, or None; an
            exception ends the script.
    """

    descriptor: int
    receive: Callable[[], int | None]


class Session(NamedTuple):
    """How a script is connected to its caller; by default it uses our standard streams.

    Attributes:
        output: gets 1 or 2, for standard output or error, and what was written there, as it is
            written; an exception ends the script. None: the script writes to our streams. With
            it, standard input is empty.
        control: see `Control`; only with *output*.
        seconds: how long the script may run; None: no limit.
        environment: of the script; None: ours. AWS's variables are always removed.
        user: user and group id that the script runs as and that own the tree; None: ours. All
            processes of this user are killed at the end, so nothing else may run as this user.
        ready: is called after the tree is complete, before the script starts; an exception ends
            the run.
    """

    output: Callable[[int, bytes], None] | None = None
    control: Control | None = None
    seconds: float | None = None
    environment: Mapping[str, str] | None = None
    user: tuple[int, int] | None = None
    ready: Callable[[], None] | None = None


OURS = Session()


def run(
    artifact: Artifact,
    words: Sequence[str],
    unwrap: Unwrap,
    limits: Limits,
    session: Session = OURS,
) -> int:
    """Decrypt *artifact* privately and run *words*, a script inside it and its arguments.

    However this ends, also by an exception from *session*, nothing decrypted is left, and no
    process of the script.

    Returns:
        The script's exit status; 128 + the number of a signal that killed it.

    Raises:
        DecryptorError: the script was not run, or ran too long.
        OSError: of the file system.
    """
    with private_directory(memory_directory()) as work:
        tree = open_artifact(artifact, work, unwrap, limits, session.user or (-1, -1))
        command = _command(tree, *words)
        if session.user:
            work.chmod(0o711)  # may be passed through, but not listed
        with _removed_afterwards(tree):
            signals.check()
            if session.ready:
                session.ready()
            try:
                return _run_command(command, tree, session, name=words[0])
            finally:
                _end_descendants(session)


@contextlib.contextmanager
def _removed_afterwards(tree: Path) -> Iterator[None]:
    """Remove *tree* by its descriptor: the script may move it out of the private directory."""
    directory = os.open(tree, DIRECTORY)
    try:
        yield
    finally:
        signals.disregard()
        remove_by_descriptor(directory)
        os.close(directory)


def memory_directory() -> str:
    """Return where to put a run's tree: TMPDIR if set, else the best memory file system.

    One that allows programs is best (containers mount /dev/shm noexec), then the roomiest.
    """
    import tempfile

    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    points = [point for _, point, kind, *_ in mounts if kind == "tmpfs"]
    usable = [point for point in points if os.access(point, os.W_OK | os.X_OK)]
    if os.environ.get("TMPDIR") or not usable:
        return tempfile.gettempdir()

    def merit(point: str) -> tuple[bool, int]:
        room = os.statvfs(point)
        return not room.f_flag & os.ST_NOEXEC, room.f_bavail * room.f_frsize

    return max(usable, key=merit)


def _command(tree: Path, script: str, *arguments: str) -> list[str]:
    """Return the command that runs *script*: with its #! line, with Python, or as a program."""
    path = tree / script
    inside = not script.startswith("/") and ".." not in Path(script).parts
    if not inside or not path.is_file():
        raise TargetError(
            f"{script} is not a regular file of the artifact: name it from the artifact's root"
        )
    with path.open("rb") as file:
        first_line = file.readline(256)
    executable = os.access(path, os.X_OK)
    if first_line.startswith(b"#!") and not executable:
        return [*os.fsdecode(first_line[2:].strip()).split(None, 1), str(path), *arguments]
    if not first_line.startswith(b"#!") and path.suffix == ".py":
        return [sys.executable, str(path), *arguments]
    if not executable:
        raise TargetError(
            f"{script} is not executable, has no #! line and does not end in .py: "
            "encrypt it with its executable bit, or with a #! line"
        )
    return [str(path), *arguments]


def _run_command(command: Sequence[str], tree: Path, session: Session, name: str) -> int:
    """Run *command* without our credentials, and pass every ending signal on to it."""
    # Processes that the script leaves become our children, so that they can be ended.
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    # A terminal signals its whole foreground group: the script stays in it and gets Ctrl-C from
    # the terminal. Otherwise a new session keeps it from getting a signal twice, from typing into
    # the terminal of a server's user (TIOCSTI), and from joining process groups of our session.
    at_terminal = not session.output and os.isatty(0)
    early: list[int] = []
    signals.redirect(lambda number, _: early.append(number))
    try:
        process = _started(command, tree, session, new_session=not at_terminal)
    except OSError as error:
        raise TargetError(f"{name} does not start: {error.strerror}") from error

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if not (at_terminal and number == signal.SIGINT):
            process.send_signal(number)

    signals.redirect(pass_on)
    for number in early:
        pass_on(number, None)
    with process:
        try:
            _watch(process, session)
        except BaseException:
            process.kill()
            raise
    return shell_status(process.returncode)


def _started(
    command: Sequence[str], tree: Path, session: Session, *, new_session: bool
) -> subprocess.Popen[bytes]:
    from subprocess import DEVNULL, PIPE

    environment = os.environ if session.environment is None else session.environment
    stream = PIPE if session.output else None
    user, group = session.user or (None, None)
    return programs.start(
        command,
        cwd=tree,
        env={k: v for k, v in environment.items() if not k.startswith("AWS_")},
        start_new_session=new_session,
        stdin=DEVNULL if session.output else None,
        stdout=stream,
        stderr=stream,
        user=user,
        group=group,
        extra_groups=None if group is None else [],
    )


def _watch(process: subprocess.Popen[bytes], session: Session) -> None:
    """Wait until the script has ended and *session* has all of its output.

    Raises:
        TimeLimitError: it exceeded its time limit, and is still running.
    """
    deadline = None if session.seconds is None else time.monotonic() + session.seconds
    receive = session.output or (lambda _number, _data: None)

    def obey() -> None:
        number = session.control.receive() if session.control else None
        if number is not None:
            process.send_signal(number)

    others = {session.control.descriptor: obey} if session.control else {}
    try:
        programs.follow(process, receive, deadline, others)
    except TimeLimitError as error:
        raise TimeLimitError(
            f"the script was killed because it ran longer than {session.seconds:g} s"
        ) from error
    _end_descendants(session)  # they would keep the pipes open
    programs.drain(process, receive)


def _end_descendants(session: Session) -> None:
    """Kill all processes that the script left running, including daemons."""
    leftovers.end_children(session.user, frozenset(guards()))
