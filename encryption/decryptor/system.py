"""System calls that Python has no function for, and modules that may be missing."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36  # prctl(2)
PUNCH_HOLE_KEEP_SIZE = 0x03  # fallocate(2)
PAGE = 4096  # bytes, of which files have whole ones


def first_installed(*modules: str) -> ModuleType:
    """Import the first of *modules* that is installed; they have the same functions."""
    for name in modules[:-1]:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    return importlib.import_module(modules[-1])


def open_standard_streams() -> None:
    """Make sure that descriptors 0 to 2 are open: otherwise a file could get one of them.

    An error message would then be written into that file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def write_no_core() -> None:
    """Disable core files, which would contain keys, for this process and its children.

    Other processes of the same user, such as the script, cannot read its memory either.
    """
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # inherited
    prctl(PR_SET_DUMPABLE, 0)  # not inherited across exec


def prctl(option: int, argument: int) -> None:
    """Set an attribute of this process."""
    import ctypes

    ctypes.CDLL(None).prctl(option, argument)


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process signal *number* when its *parent* ends.

    For the kernel the parent is the thread that started it: only the main thread starts processes.
    """
    prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it has already ended
        os.kill(os.getpid(), number)


def punch_hole(file: int, start: int, end: int) -> bool:
    """Free a file's bytes from *start* to *end* on disk; return whether the file system can."""
    import ctypes

    place = ctypes.c_int64(start), ctypes.c_int64(end - start)
    return bool(ctypes.CDLL(None).fallocate(file, PUNCH_HOLE_KEEP_SIZE, *place) == 0)


def keep_freed_blocks() -> None:
    """Free one large block, after which glibc keeps freed memory: it saves a fifth of the time."""
    bytes(16 << 20)  # mallopt(3), M_MMAP_THRESHOLD


def shell_status(returncode: int) -> int:
    """Return an exit status as a shell reports it: 128 + the number of the killing signal."""
    return returncode if returncode >= 0 else 128 - returncode
