"""What tests require of the machine they run on."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

from rehearsal.nitro import NoCompilerError, library


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
