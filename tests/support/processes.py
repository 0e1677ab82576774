"""Starting, observing and awaiting processes."""

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
PAUSE = 0.001  # seconds; without it, waiting takes a processor from what is awaited


def children(pid: int) -> list[int]:
    """Return the children of a process, the oldest first."""
    return [int(child) for child in _read(pid, f"task/{pid}/children").split()]


def ended(pid: int) -> bool:
    """Return whether a process is gone or a zombie."""
    return _read(pid, "stat").rpartition(")")[2][:3] in ("", " Z ")


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_for(condition: Callable[[], object], pause: float = PAUSE) -> None:
    """Return as soon as *condition* holds, which is evaluated every *pause* seconds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(pause)


def interrupted_at_question(
    command: Sequence[str], environment: Mapping[str, str], directory: Path | None = None
) -> tuple[int, str]:
    """Start *command*, interrupt it when it asks [y/N]; return its status and its output then."""
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
