"""What the documentation has the reader try: a server in one terminal, a client in another."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from rehearsal.aws import PROJECT
from tests.support.processes import PATIENCE


def test_printed_commands_run_the_application() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "rehearsal.two_terminals"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    ) as first:
        assert first.stdout
        lines = [first.stdout.readline() for _ in range(5)]
        exported, typed = lines[3].split()[1], shlex.split(lines[4])
        name, _, file = exported.partition("=")
        results = Path(typed[typed.index("--output") + 1])
        assert results.parent == Path(file).parent  # removed at the end, unlike the clone
        second = subprocess.run(
            [sys.executable, *typed[1:]],
            cwd=PROJECT,
            env={"PATH": os.environ["PATH"], name: file, "AWS_CONFIG_FILE": os.devnull},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (second.returncode, second.stderr) == (0, "")
        greeting, *inputs = second.stdout.splitlines()
        assert greeting == "Hello from the enclave a b"
        assert "input: enclave.md" in inputs
        size = (PROJECT / "docs/enclave.md").stat().st_size
        assert (results / "enclave.md").read_text() == f"{size} bytes\n"
        first.send_signal(signal.SIGINT)
        assert first.wait(PATIENCE) == 130
        assert not results.parent.exists()
