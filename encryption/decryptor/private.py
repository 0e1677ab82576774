"""A private directory that is always removed, however the program ends.

normal end, failure, signal             the directory is removed, by descriptor
SIGKILL, out of memory                  the guard, a small process, removes it
power failure, guard killed, too        the next run removes it: by name, owner and lock
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import signal
import socket
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from . import signals

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = ".envelope-decryptor-"
NAME = re.compile(re.escape(PREFIX) + "[0-9a-f]{16}")
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
GUARD_PATIENCE = 60.0  # seconds to wait for processes that still write into the directory

DONE = b"."

_guards: list[socket.socket] = []


class _Place(NamedTuple):
    """The directory: descriptors of its parent and itself, and its original name."""

    parent: int
    directory: int
    name: str


@contextlib.contextmanager
def private_directory(parent: Path | str) -> Iterator[Path]:
    """Create a directory in *parent* that nobody else may enter; no signal interrupts its removal.

    Directories that earlier runs left in *parent* are removed first.

    Raises:
        OSError: it cannot be created, or not be removed; then the guard keeps trying to.
    """
    place = guard = None
    parent_descriptor = os.open(parent, DIRECTORY & ~os.O_NOFOLLOW)
    try:
        # A signal that was held takes effect when it is no longer held: inside this try.
        with signals.held():
            _sweep(parent_descriptor)
            place = _created(parent_descriptor)
            guard = _guard(place)
        yield Path(parent, place.name)
    finally:
        try:
            signals.disregard()
        finally:
            if place:
                _remove(place)
                os.close(place.directory)
            if guard:
                _dismiss(guard)
            os.close(parent_descriptor)


def _dismiss(guard: socket.socket) -> None:
    """Tell the guard that the directory has been removed."""
    _guards.remove(guard)
    with guard, contextlib.suppress(OSError):  # the guard has been killed
        guard.sendall(DONE)


def guards() -> set[int]:
    """Return the guards' process ids. They must outlive us, so they are not killed as children.

    They are our children only if we are the init process, which adopts orphans.
    """
    # Each has written its id once. It is read here, so that starting a guard need not wait for it.
    return {int(guard.recv(16, socket.MSG_PEEK)) for guard in _guards}


def _created(parent: int) -> _Place:
    while True:
        name = PREFIX + secrets.token_hex(8)
        os.mkdir(name, 0o700, dir_fd=parent)
        directory = os.open(name, DIRECTORY, dir_fd=parent)
        # Until it is locked, another run may mistake a new directory for an abandoned one.
        if _locked(directory) is not False and _is_at(parent, name, directory):
            return _Place(parent, directory, name)
        os.close(directory)


def _locked(directory: int) -> bool | None:
    """Lock *directory*; False if another process holds the lock; None without lock support."""
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(parent: int, name: str, directory: int) -> bool:
    try:
        there = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(directory))


def _sweep(parent: int) -> None:
    """Remove directories of earlier runs: with our name pattern, our owner, and not locked."""
    with os.scandir(parent) as entries:
        names = [entry.name for entry in entries if NAME.fullmatch(entry.name)]
    for name in names:
        with contextlib.suppress(OSError):  # another user's, or removed in the meantime
            directory = os.open(name, DIRECTORY, dir_fd=parent)
            try:
                if os.fstat(directory).st_uid == os.geteuid() and _locked(directory):
                    _remove(_Place(parent, directory, name))
            finally:
                os.close(directory)


# --- Removal ------------------------------------------------------------------------------------


def _remove(place: _Place) -> None:
    """Remove the directory, wherever it is now, and whatever has its original name.

    A script may have renamed it and put something else in its place.
    """
    remove_by_descriptor(place.directory)
    with contextlib.suppress(FileNotFoundError):
        there = os.stat(place.name, dir_fd=place.parent, follow_symlinks=False)
        if stat.S_ISDIR(there.st_mode):
            with _opened(place.name, place.parent) as directory:
                remove_by_descriptor(directory)
        else:
            os.unlink(place.name, dir_fd=place.parent)


def remove_by_descriptor(directory: int) -> None:
    """Remove *directory*, an open one, with its contents, wherever it has been moved to."""
    empty(directory)
    if not os.fstat(directory).st_nlink:
        return  # it has already been removed
    with contextlib.suppress(FileNotFoundError), _opened("..", directory) as parent:
        _remove_entry_of(parent, os.fstat(directory).st_ino)


def remove_entry(name: str, parent: int) -> None:
    """Remove *name*, of any type, from *parent*, an open directory; not what a link leads to."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    _permit(name, parent)
    with _opened(name, parent) as directory:
        empty(directory)
    os.rmdir(name, dir_fd=parent)


def _remove_entry_of(parent: int, inode: int) -> None:
    with os.scandir(parent) as entries:
        names = [entry.name for entry in entries if entry.inode() == inode]
    for name in names:
        os.rmdir(name, dir_fd=parent)


def empty(top: int) -> None:
    """Remove everything inside *top*, an open directory.

    It uses neither recursion nor paths: in each directory below, files are unlinked and directories
    are moved up into *top*, to be emptied later. So depth, path length and links in the place of
    directories do not matter.

    Raises:
        OSError: something cannot be removed, such as an immutable file; everything else has been.
    """
    failures: list[OSError] = []
    while _empty_once(top, top, failures):
        failures.clear()
    if failures:
        raise failures[0]


def _empty_once(directory: int, top: int, failures: list[OSError]) -> bool:
    """Unlink the files of *directory*, move its directories to *top*; return whether any were.

    If it is *top* itself, its directories are removed. *failures* gets only the first failure, as
    there can be millions.
    """
    os.lseek(directory, 0, os.SEEK_SET)
    found = False
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                found |= _take_away_permitted(entry, directory, top, failures)
            except OSError as error:
                failures[:] = failures or [error]
    return found


def _take_away_permitted(
    entry: os.DirEntry[str], directory: int, top: int, failures: list[OSError]
) -> bool:
    """Remove *entry* as `_take_away` does; if that is not permitted, permit it first."""
    try:
        return _take_away(entry, directory, top, failures)
    except PermissionError:
        os.fchmod(directory, stat.S_IRWXU)
        _permit(entry.name, directory)
        return _take_away(entry, directory, top, failures)


def _take_away(entry: os.DirEntry[str], directory: int, top: int, failures: list[OSError]) -> bool:
    """Remove *entry* from *directory*; return whether anything has been removed or moved."""
    if not entry.is_dir(follow_symlinks=False):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(entry.name, dir_fd=directory)
        return True
    if directory != top:
        name = secrets.token_hex(16)
        os.rename(entry.name, name, src_dir_fd=directory, dst_dir_fd=top)
        return True
    with _opened(entry.name, top) as lower:
        changed = _empty_once(lower, top, failures)
        while not _is_removed(entry.name, top):
            if not _empty_once(lower, top, failures):
                not_empty = OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), entry.name)
                failures[:] = failures or [not_empty]
                return changed
    return True


def _is_removed(name: str, parent: int) -> bool:
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


@contextlib.contextmanager
def _opened(name: str, parent: int) -> Iterator[int]:
    directory = os.open(name, DIRECTORY, dir_fd=parent)
    try:
        yield directory
    finally:
        os.close(directory)


def _permit(name: str, parent: int) -> None:
    """Allow ourselves to list and change a directory, but not the target of a link in its place."""
    place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        mode = os.fstat(place).st_mode
        if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
            Path(f"/proc/self/fd/{place}").chmod(0o700)
    finally:
        os.close(place)


# --- The guard ----------------------------------------------------------------------------------


def _guard(place: _Place) -> socket.socket:
    """Start a process that removes *place* if we end without having done so.

    Returns:
        A connection to it, to write to when the directory has been removed.
    """
    ours, its = socket.socketpair()
    child = os.fork()
    if child == 0:
        # Its parent ends, so the guard is not our child: code that counts our children, or waits
        # for all of them, does not see it.
        if os.fork():
            os._exit(0)
        ours.close()
        _keep_watch(its, place)
    its.close()
    os.waitpid(child, 0)
    _guards.append(ours)
    return ours


def _keep_watch(connection: socket.socket, place: _Place) -> NoReturn:
    """Run as the guard, which our signals do not end: it holds them, and has its own session."""
    status = 1
    try:
        os.setsid()
        _close_all_but({connection.fileno(), place.parent, place.directory})
        connection.sendall(str(os.getpid()).encode())
        if not _is_done(connection):
            deadline = time.monotonic() + GUARD_PATIENCE
            while not _removed(place) and time.monotonic() < deadline:
                time.sleep(0.05)
        status = 0
    finally:
        os._exit(status)


def _is_done(connection: socket.socket) -> bool:
    """Wait for the program; return whether it has removed the directory, not just ended."""
    try:
        return connection.recv(1) == DONE
    except OSError:  # it ended without having read our process id
        return False


def _close_all_but(kept: set[int]) -> None:
    """Close what the guard has inherited: others wait for these pipes and sockets to be closed."""
    start = 0
    for descriptor in sorted(kept):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


def _removed(place: _Place) -> bool:
    """End the processes that still work in *place*, and remove it; return whether it is removed."""
    _kill_users(place.directory)
    try:
        _remove(place)
    except OSError:
        return False
    return True


def _kill_users(directory: int) -> None:
    """Kill the processes that work in *directory*, as a script's daemons do by default."""
    with contextlib.suppress(OSError):
        inside = Path(f"/proc/self/fd/{directory}").readlink()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "cwd").readlink().is_relative_to(inside):
                    os.kill(int(process.name), signal.SIGKILL)
