"""Runs a verb as a user does, and checks how a failure looks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.support import preloaded
from tests.support.paths import PROJECT

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from pathlib import Path


def run(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    answer: str | bytes = "",
    directory: Path = PROJECT,
) -> subprocess.CompletedProcess[str]:
    """Run a verb as a user does."""
    return preloaded.run(
        *("-m", "generator", *arguments),
        environment=os.environ if environment is None else environment,
        answer=answer if isinstance(answer, bytes) else answer.encode(),
        directory=directory,
    )


def assert_one_line(result: subprocess.CompletedProcess[str], *words: str, status: int = 1) -> None:
    """Assert that a verb failed with one line containing *words*, and printed nothing else."""
    assert (result.returncode, result.stdout) == (status, ""), result
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
    assert result.stderr.rstrip("\n").isprintable()
