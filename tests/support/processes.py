"""What tests ask of processes that they have started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PATIENCE = 60  # seconds until a test gives up waiting


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, the oldest first."""
    return [int(child) for child in _told(pid, f"task/{pid}/children").split()]


def ended(pid: int) -> bool:
    """Tell whether a process is gone, but perhaps for its status."""
    return _told(pid, "stat").rpartition(")")[2][:3] in ("", " Z ")


def _told(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_for(condition: Callable[[], object]) -> None:
    """Return as soon as *condition* holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"


def interrupted_at_question(
    command: Sequence[str], environment: Mapping[str, str], directory: Path | None = None
) -> tuple[int, str]:
    """Start *command*, interrupt it when it asks [y/N]; its status, and what it says then."""
    with subprocess.Popen(
        command, cwd=directory, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr
        said = b""
        while not said.endswith(b"[y/N] "):
            said += os.read(process.stderr.fileno(), 1000)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    return process.returncode, rest.decode().strip()
