"""What tests need of the machine they run on."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

from rehearsal.nitro import NoCompilerError, library


def lacking(what: str) -> NoReturn:
    """Skip a test that needs *what*; where CI is set it fails instead."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {what}")


def program(name: str, package: str | None = None) -> str:
    """Return the path of a program, or skip the test: it is in Debian's *package*."""
    return shutil.which(name) or lacking(f"the package {package or name}")


def enclave_kernel() -> None:
    """Skip a test that runs a program on the system calls of an enclave: they are compiled."""
    try:
        library()
    except NoCompilerError:
        lacking("a C compiler: Debian's packages gcc and libc6-dev")


def root(purpose: str) -> None:
    """Skip a test whose *purpose* takes root."""
    if os.geteuid():
        lacking(f"root, {purpose}")
