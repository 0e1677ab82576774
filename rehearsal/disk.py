"""Searches what is written to the disks of this machine for plaintext.

Where the kernel allows it (root, outside of a container), fanotify reports every file that is
written, including files that are removed meanwhile, except by processes that other programs had
started before. Elsewhere the places where programs usually write are searched afterwards for new
files, and the findings say so.

Source: https://man7.org/linux/man-pages/man7/fanotify.7.html
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import stat
import struct
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rehearsal.aws import PROJECT, RehearsalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

IN_MEMORY: Final = frozenset(("tmpfs", "ramfs", "devtmpfs"))
"""File systems without a disk: where an enclave, which has none, keeps its files."""

CHUNK: Final = 1 << 20
KEPT_OPEN: Final = 256  # files that are still being written
REPORTS: Final = 128  # read at once; each holds a descriptor of ours

FAN_CLOEXEC, FAN_UNLIMITED_QUEUE, FAN_UNLIMITED_MARKS = 0x1, 0x10, 0x20
FAN_MARK_ADD, FAN_MARK_FILESYSTEM = 0x1, 0x100
FAN_MODIFY, FAN_CLOSE_WRITE, FAN_Q_OVERFLOW = 0x2, 0x8, 0x4000
AT_FDCWD: Final = -100
EVENT: Final = struct.Struct("=IBBHQii")  # length, version, reserved, header, mask, file, process


@dataclass
class Findings:
    """The result of watching; complete when the block that watched has ended.

    Attributes:
        whole: whether every write to a disk was seen.
        files: how many files were looked into.
        leaks: the paths, as far as they are known, of those that hold a secret.
        places: what was searched if it is not *whole*.
    """

    whole: bool
    files: int = 0
    leaks: list[str] = field(default_factory=list)
    places: tuple[Path, ...] = ()

    def describe(self) -> str:
        """Say what was watched, in half a sentence."""
        if self.whole:
            return f"the kernel reported each of {self.files} files written to a disk meanwhile"
        return (
            f"{self.files} files changed meanwhile below {', '.join(map(str, self.places))} "
            "(root would see every write)"
        )


@contextlib.contextmanager
def watched(secrets: Sequence[bytes], *places: Path) -> Iterator[Findings]:
    """Watch the disks until the end of the block, for files that hold one of *secrets*.

    Args:
        secrets: long enough to occur nowhere else by chance.
        places: folders to search if the kernel does not report writes, with all that they
            contain; in the usual places, only what has changed is searched.
    """
    try:
        reports = _Reports(secrets)
    except OSError:
        search = _Search(secrets, places)
        yield search.findings
        search.finish()
        return
    try:
        yield reports.findings
    finally:
        reports.finish()


def _holds(file: int, secrets: Sequence[bytes]) -> bool:
    """Return whether an open file holds one of *secrets*; read chunk by chunk."""
    overlap = max(map(len, secrets)) - 1
    offset, tail = 0, b""
    while chunk := os.pread(file, CHUNK, offset):
        window = tail + chunk
        if any(secret in window for secret in secrets):
            return True
        offset, tail = offset + len(chunk), window[-overlap:]
    return False


def _mounts() -> list[tuple[str, str]]:
    """Return the mounted file systems: where, and of which kind."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    fields = [line.split() for line in lines]
    return [(point.encode().decode("unicode_escape"), kind) for _, point, kind, *_ in fields]


def _pseudo() -> set[str]:
    """Return the kinds of file systems that show the kernel's own state: nothing is stored."""
    kinds = "proc sysfs devpts cgroup cgroup2 mqueue debugfs tracefs securityfs bpf pstore configfs"
    return set(f"{kinds} efivarfs autofs binfmt_misc fusectl rpc_pipefs nsfs hugetlbfs".split())


class _Reports:
    """Every file that is written, as the kernel reports it.

    A report comes with the file itself, open, so that it can be read although its name is gone.
    """

    def __init__(self, secrets: Sequence[bytes]) -> None:
        """Have the writes to all disks reported.

        Raises:
            OSError: the kernel does not allow that.
        """
        self._secrets = secrets
        self._others = _Others()
        self._written: dict[tuple[int, int], int] = {}  # still open somewhere, by identity
        self.findings = Findings(whole=True)
        self._group = self._marked()
        self._stop, self._stopping = os.pipe()
        self._thread = threading.Thread(target=self._read_all, daemon=True)
        self._thread.start()

    @staticmethod
    def _marked() -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME | os.O_NONBLOCK
        group: int = libc.fanotify_init(
            FAN_CLOEXEC | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS, flags
        )
        if group < 0:
            raise OSError(ctypes.get_errno(), "fanotify_init")
        os.set_blocking(group, False)
        for point, kind in _mounts():
            if kind in IN_MEMORY | _pseudo():
                continue
            mask = ctypes.c_uint64(FAN_MODIFY | FAN_CLOSE_WRITE)
            marking = FAN_MARK_ADD | FAN_MARK_FILESYSTEM
            if libc.fanotify_mark(group, marking, mask, AT_FDCWD, os.fsencode(point)):
                number = ctypes.get_errno()
                os.close(group)
                raise OSError(number, os.strerror(number), point)
        return group

    def finish(self) -> None:
        """Search the files that are still reported, and those that are still open for writing."""
        os.close(self._stopping)
        self._thread.join()
        for file in self._written.values():
            self._look_into(file)
        for descriptor in (self._group, self._stop):
            os.close(descriptor)
        if not self.findings.whole:
            raise RehearsalError("the kernel lost reports of files that were written: try again")

    def _read_all(self) -> None:
        """Read reports until the end; one that is lost means that nothing is certain."""
        try:
            while True:
                ready, _, _ = select.select([self._group, self._stop], [], [])
                if self._group in ready:
                    self._read()
                elif self._stop in ready:  # a report is there as soon as the write is
                    return
        except OSError:
            self.findings.whole = False

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            reports = os.read(self._group, EVENT.size * REPORTS)
            for *_, mask, file, process in EVENT.iter_unpack(reports):
                if mask & FAN_Q_OVERFLOW:
                    self.findings.whole = False
                elif self._others.have_started(process):
                    os.close(file)
                else:
                    self._receive(file, closed=bool(mask & FAN_CLOSE_WRITE))

    def _receive(self, file: int, *, closed: bool) -> None:
        status = os.fstat(file)
        identity = status.st_dev, status.st_ino
        earlier = self._written.pop(identity, None)
        if earlier is not None:
            os.close(earlier)
        if closed:
            self._look_into(file)
            return
        self._written[identity] = file
        if len(self._written) > KEPT_OPEN:
            oldest = next(iter(self._written))
            self._look_into(self._written.pop(oldest))

    def _look_into(self, file: int) -> None:
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                return
            self.findings.files += 1
            if _holds(file, self._secrets):
                self.findings.leaks.append(str(Path(f"/proc/self/fd/{file}").readlink()))
        finally:
            os.close(file)


class _Others:
    """Processes that are not watched: others had started them, or their parents, before.

    Reading all that they write would take long on a busy machine.
    """

    def __init__(self) -> None:
        """Note who we are, and the time by the clock of processes."""
        self._us = os.getpid()
        ticks = os.sysconf("SC_CLK_TCK")
        self._began = int(time.clock_gettime(time.CLOCK_BOOTTIME) * ticks)
        # What ends up without its parent is adopted by one of these.
        self._ancestors = {1}
        process: int = self._us
        while process > 1 and (origin := _origin(process)):
            process = origin[0]
            self._ancestors.add(process)

    def have_started(self, process: int) -> bool:
        """Return whether *process* is certainly one; once it has ended, that is not known."""
        early = False
        while process != self._us and process > 0 and process not in self._ancestors:
            origin = _origin(process)
            if origin is None:
                return False
            process, started = origin
            early = early or started < self._began
        return early and process != self._us


def _origin(process: int) -> tuple[int, int] | None:
    """Return a process's parent and when it started, in ticks; None if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), int(fields[19])  # proc(5): the 4th and the 22nd


class _Search:
    """The files that have changed below some places, looked into afterwards."""

    def __init__(self, secrets: Sequence[bytes], places: Sequence[Path]) -> None:
        """Note the time, by the clock of files."""
        self._secrets = secrets
        with tempfile.TemporaryFile() as now:
            self._began = os.fstat(now.fileno()).st_ctime_ns
        self._deep = [os.path.realpath(place) for place in places]
        usual = (tempfile.gettempdir(), "/tmp", "/var/tmp", PROJECT)  # noqa: S108
        self._usual = [os.path.realpath(place) for place in usual]
        self._memory = {point for point, kind in _mounts() if kind in IN_MEMORY}
        unique = dict.fromkeys((*self._deep, *self._usual))
        self.findings = Findings(whole=False, places=tuple(map(Path, unique)))

    def finish(self) -> None:
        """Look into every file that has changed since."""
        appeared = [
            entry.path
            for place in dict.fromkeys(self._usual)
            for entry in _entries(place)
            if self._changed(entry.path)
        ]
        places, seen = [*self._deep, *appeared], set()
        while places:
            place = places.pop()
            if place in seen or place in self._memory:
                continue
            seen.add(place)
            if os.path.isdir(place) and not os.path.islink(place):  # noqa: PTH112, PTH114
                places += [entry.path for entry in _entries(place)]
            elif self._changed(place):
                self._look_into(place)

    def _changed(self, path: str) -> bool:
        with contextlib.suppress(OSError):  # gone meanwhile
            return os.lstat(path).st_ctime_ns >= self._began
        return False

    def _look_into(self, path: str) -> None:
        with contextlib.suppress(OSError):  # gone meanwhile, or not for us to read
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if stat.S_ISREG(os.fstat(file).st_mode):
                    self.findings.files += 1
                    if _holds(file, self._secrets):
                        self.findings.leaks.append(path)
            finally:
                os.close(file)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []
