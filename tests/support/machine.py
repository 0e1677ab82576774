"""What tests require of the machine they run on."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from rehearsal.nitro import NoCompilerError, library

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY_MIN = 4 << 30  # bytes free; several tests at a time fill some hundred MiB


def lacking(what: str) -> NoReturn:
    """Skip a test that needs *what*; with CI set, fail it instead."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {what}")


def program(name: str, package: str | None = None) -> str:
    """Return the path of a program, which Debian's *package* contains, or skip the test."""
    return shutil.which(name) or lacking(f"the package {package or name}")


def enclave_kernel() -> None:
    """Skip a test that emulates an enclave's system calls if there is no C compiler."""
    try:
        library()
    except NoCompilerError:
        lacking("a C compiler: Debian's packages gcc and libc6-dev")


def root(purpose: str) -> None:
    """Skip a test whose *purpose* requires root, unless run as root."""
    if os.geteuid():
        lacking(f"root, {purpose}")


def memory() -> Path | None:
    """Return a memory file system with room where programs may run, or None.

    To write small files there takes a tenth of the time.
    """
    room = Path("/dev/shm")  # noqa: S108 - a mount; names in it are made up by tempfile
    if not os.access(room, os.W_OK) or os.statvfs(room).f_flag & os.ST_NOEXEC:
        return None
    return room if shutil.disk_usage(room).free > MEMORY_MIN else None


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Make an empty folder, in memory if that has room."""
    made = Path(tempfile.mkdtemp(prefix="test-", dir=memory()))
    try:
        yield made
    finally:
        subprocess.run(["rm", "-rf", made], check=False)  # which removes very deep trees, too
