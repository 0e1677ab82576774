"""What Python has no function for: calls of Linux and glibc, and modules that may be missing."""

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
    """Import the first of *modules* that is installed; they offer the same functions."""
    for name in modules[:-1]:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    return importlib.import_module(modules[-1])


def open_standard_streams() -> None:
    """Have descriptors 0 to 2 lead somewhere: files would get the numbers of closed ones.

    An error would then be written into whatever file that is.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def write_no_core() -> None:
    """Have neither this process nor its children leave memory in a core file, keys included.

    Other processes of the same user, such as the script, cannot read this one's memory either.
    """
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # inherited
    prctl(PR_SET_DUMPABLE, 0)  # not across exec


def prctl(option: int, argument: int) -> None:
    """Set an attribute of this process."""
    import ctypes

    ctypes.CDLL(None).prctl(option, argument)


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process *number* when *parent*, which has made it, ends.

    The kernel means the thread that made it: processes are made in the main thread only.
    """
    prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it has ended before
        os.kill(os.getpid(), number)


def punch_hole(file: int, start: int, end: int) -> bool:
    """Free the room of a file's bytes from *start* to *end*; tell whether its file system can."""
    import ctypes

    place = ctypes.c_int64(start), ctypes.c_int64(end - start)
    return bool(ctypes.CDLL(None).fallocate(file, PUNCH_HOLE_KEEP_SIZE, *place) == 0)


def keep_freed_blocks() -> None:
    """Free one large block, which teaches glibc to keep freed ones: a fifth less time."""
    bytes(16 << 20)  # mallopt(3), M_MMAP_THRESHOLD


def shell_status(returncode: int) -> int:
    """Return an exit status as a shell says it: 128 + the number of a signal that killed."""
    return returncode if returncode >= 0 else 128 - returncode
