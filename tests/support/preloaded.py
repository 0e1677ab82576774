"""Runs a command in a fork of a process that has its libraries loaded.

Loading cfn-lint and boto3 takes longer than most tests. The start of a command is tested with
commands in a process of their own: tests/commands/test_command_line.py.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

LIBRARIES = [
    *("cfnlint.runner", "generator.validation", "generator.explain.report"),
    *("conformance.sequence", "rehearsal.attestation", "rehearsal.cms"),
    "tests.support.warmed",  # the last one: it also keeps what is loaded out of garbage collection
]
STREAMS = ("stdin", "stdout", "stderr")
PATIENCE = 900  # seconds; one run checks all weakened templates
PACE = 0.05
"""Seconds that a command's second of waiting takes: the emulator needs no time to deploy."""


def run(
    *command: str | Path,
    environment: Mapping[str, str],
    answer: bytes = b"",
    directory: Path,
) -> subprocess.CompletedProcess[str]:
    """Run `python3 -m MODULE ARGUMENT…` or `python3 FILE ARGUMENT…`, without its first word."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    with tempfile.TemporaryDirectory() as name:
        streams = Path(name)
        (streams / "stdin").write_bytes(answer)
        arguments = [str(argument) for argument in command]
        process = context.Process(
            target=_child, args=(arguments, dict(environment), directory, streams)
        )
        process.start()
        process.join(PATIENCE)
        status = process.exitcode
        if status is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, PATIENCE)
        out, err = ((streams / name).read_bytes().decode(errors="replace") for name in STREAMS[1:])
    return subprocess.CompletedProcess(arguments, status, out, err)


def _child(
    arguments: list[str], environment: Mapping[str, str], directory: Path, streams: Path
) -> None:
    """Become the command."""
    wait = time.sleep
    time.sleep = lambda seconds: wait(float(seconds) * PACE)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate(STREAMS):
        flags = os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY
        os.dup2(os.open(streams / name, flags, 0o600), number)
    encoding = environment.get("PYTHONIOENCODING")  # otherwise read when Python starts
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w", encoding=encoding)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding=encoding, errors="backslashreplace")
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")
