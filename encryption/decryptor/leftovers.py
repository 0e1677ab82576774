"""Ends the processes that a script has left, and removes what it wrote outside of its folder.

A process that forks and exits, again and again, has always moved on when its number is read from
/proc and then killed. A signal to all processes of a user, or to a process group, misses none:
fork(2) does not complete while such a signal is pending.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .errors import TimeLimitError
from .private import DIRECTORY, remove_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    User = tuple[int, int]
    """The ids of a user and of a group."""

PATIENCE: Final = 5.0  # seconds for all processes to end; a killed one ends in milliseconds
PAUSE: Final = 0.001  # seconds
NAMED: Final = 10  # processes in a message
PLACES: Final = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue")  # noqa: S108 - not written to
IPC_RMID: Final = 0  # ipc(2)


def end_children(user: User | None, spared: frozenset[int] = frozenset()) -> None:
    """Kill and reap all children of this process, which adopts those that lose their parent.

    Args:
        user: a user that runs nothing but the script: all processes of this user are killed. None,
            or our own user: the children are killed, each with its process group.
        spared: children that are left alone.

    Raises:
        TimeLimitError: some have not ended after `PATIENCE`.
    """
    deadline = time.monotonic() + PATIENCE
    left: set[int] = set()
    while _is_any_left(spared):
        if time.monotonic() > deadline:
            some = ", ".join(map(str, sorted(left)[:NAMED]))
            raise TimeLimitError(
                f"processes that the script left cannot be killed: {some}: kill them as root"
            )
        if user and user[0] not in (0, os.getuid(), os.geteuid()):
            _kill_all_of(user)
        _reap(deadline)  # thousands, perhaps, which would make the list long
        left = _listed_children() - spared
        for child in left:
            _kill(child, user)
        time.sleep(PAUSE)


def _reap(deadline: float) -> None:
    """Reap our children that have ended; nobody else waits for any when this is called."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0] and time.monotonic() < deadline:
            pass


def _is_any_left(spared: frozenset[int]) -> bool:
    """Return whether we have children, also ended ones that have not been reaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    # A list from /proc can miss a process that was forked meanwhile: only the kernel's answer above
    # is exact. Where some children must be spared, the list must suffice.
    return not spared or bool(_listed_children() - spared)


def _listed_children() -> set[int]:
    here = os.getpid()
    with contextlib.suppress(OSError):  # the kernel lacks CONFIG_PROC_CHILDREN
        return set(map(int, Path(f"/proc/{here}/task/{here}/children").read_text().split()))
    found = set()
    for process in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended in the meantime
            if int(process.read_text().rpartition(")")[2].split()[1]) == here:
                found.add(int(process.parent.name))
    return found


def _kill(child: int, user: User | None) -> None:
    """Kill *child* and its process group, unless that is ours, as it is at a terminal.

    A group of our session may have other members than processes of *user*, who could not end them.
    The child has not been reaped, so the number cannot belong to another process yet.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        group = os.getpgid(child)
        foreign = os.getsid(child) != os.getsid(0)
        if group not in (0, 1, os.getpgid(0)) and (foreign or not user):
            os.killpg(group, signal.SIGKILL)
    # The child may run as another user now; then it ends by itself, or is reported.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(child, signal.SIGKILL)


def _kill_all_of(user: User) -> None:
    """Kill all processes of *user*; if one of them stops the killer, the caller repeats this."""
    with contextlib.suppress(OSError):  # no room for another process: killing others makes some
        killer = _forked_as(user, lambda: os.kill(-1, signal.SIGKILL))
        deadline = time.monotonic() + PATIENCE / 5
        while os.waitpid(killer, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
            time.sleep(PAUSE)


def _forked_as(user: User, action: Callable[[], object]) -> int:
    """Start a process that does *action* as *user* and ends, with status 0 if nothing failed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(user[1], user[1], user[1])
            os.setresuid(user[0], user[0], user[0])
            # As root, "all processes" would be those of the whole machine.
            if 0 not in os.getresuid() and set(os.getresuid()) == {user[0]}:
                action()
                status = 0
        finally:
            os._exit(status)
    return pid


# --- files and other objects ----------------------------------------------------------------------


def remove_all_of(user: User) -> bool:
    """Remove what *user*, who has no process any more, left where everybody may write.

    That is what this user owns in `PLACES` and in all memory file systems, and in directories there
    that the user may list and write to; and System V IPC objects. It is removed with the
    permissions of the user, so nothing else can be.

    Returns:
        Whether all of it has been removed.
    """
    return os.waitpid(_forked_as(user, lambda: _remove_all(user[0])), 0)[1] == 0


def _remove_all(user: int) -> None:
    """Run as *user*, remove everything that is theirs.

    Raises:
        OSError: something cannot be removed; everything else has been.
    """
    failure = None
    for remove in (*(lambda p=place: _sweep(p, user) for place in _places()), _remove_ipc):
        try:
            remove()
        except OSError as error:
            failure = error
    if failure:
        raise failure


def _places() -> Iterator[str]:
    yield from PLACES
    for line in Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines():
        _, point, kind, *_ = line.split(" ")
        if kind == "tmpfs" and point not in PLACES:
            yield re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), point)  # \040 is a space


def _sweep(place: str, user: int) -> None:
    pending = [place]
    while pending:
        path = pending.pop()
        try:
            directory = os.open(path, DIRECTORY & ~(os.O_NOFOLLOW if path == place else 0))
        except OSError:
            continue  # there is none, or it has been removed
        try:
            pending += [f"{path}/{name}" for name in _swept(directory, user)]
        finally:
            os.close(directory)


def _swept(directory: int, user: int) -> list[str]:
    """Remove what *user* owns in *directory*; return the other directories they may write to."""
    with os.scandir(directory) as found:
        entries = list(found)
    writable = []
    for entry in entries:
        with contextlib.suppress(FileNotFoundError):  # somebody else has removed it
            status = entry.stat(follow_symlinks=False)
            if status.st_uid == user:
                remove_entry(entry.name, directory)
            elif stat.S_ISDIR(status.st_mode) and os.access(
                entry.name, os.R_OK | os.W_OK | os.X_OK, dir_fd=directory, follow_symlinks=False
            ):
                writable.append(entry.name)
    return writable


def _remove_ipc() -> None:
    """Remove our System V shared memory, semaphores and message queues."""
    import ctypes

    libc = ctypes.CDLL(None)
    removals: dict[str, Callable[[int], object]] = {
        "shm": lambda number: libc.shmctl(number, IPC_RMID, None),
        "sem": lambda number: libc.semctl(number, 0, IPC_RMID),
        "msg": lambda number: libc.msgctl(number, IPC_RMID, None),
    }
    for kind, remove in removals.items():
        table = Path("/proc/sysvipc", kind)
        if not table.exists():
            continue  # the kernel lacks CONFIG_SYSVIPC
        heading, *rows = (line.split() for line in table.read_text().splitlines())
        for row in rows:
            fields = dict(zip(heading, row, strict=False))
            if os.getuid() in (int(fields["uid"]), int(fields["cuid"])):
                remove(int(row[1]))
