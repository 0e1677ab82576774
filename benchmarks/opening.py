"""How fast artifacts open: the decryptor beside the whole-file way, in one run.

    python benchmarks/opening.py [--megabytes 512] [--files 20000] [--rounds 5]

Two artifacts, random weights in one member and a tree of small files that compress, each opened
in turn by every contender: interleaved, in a memory file system, process start included. Prints
median, spread, how many times faster than the whole-file way, peak memory and CPU seconds.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

DECRYPTOR = Path(__file__).parents[1] / "encryption/envelope_decryptor.py"
DATA_KEY = bytes(range(32))
CREDENTIALS = dict.fromkeys(
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"), "none"
)

SEAL = """
import base64, io, os, random, struct, sys, zipfile
from cryptography.fernet import Fernet
megabytes, files, target, key = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
content = io.BytesIO()
with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
    if megabytes:
        archive.writestr("weights", os.urandom(megabytes << 20), zipfile.ZIP_STORED)
    words = [f"{random.getrandbits(40):x}" for _ in range(2000)]
    for number in range(files):
        text = " ".join(random.choices(words, k=random.randrange(3200)))
        archive.writestr(f"d{number % 400}/f{number}", text)
token = Fernet(base64.urlsafe_b64encode(bytes.fromhex(key))).encrypt(content.getvalue())
with open(target, "wb") as file:
    file.write(struct.pack(">I", 184) + bytes(184) + token)
"""

WHOLE_FILE = """
import base64, io, sys, zipfile
from cryptography.fernet import Fernet
artifact, target, key = sys.argv[1:]
with open(artifact, "rb") as file:
    file.read(int.from_bytes(file.read(4), "big"))
    token = file.read()
content = Fernet(base64.urlsafe_b64encode(bytes.fromhex(key))).decrypt(token)
with zipfile.ZipFile(io.BytesIO(content)) as archive:
    archive.extractall(target)
"""

WITHOUT_ACCELERATORS = """
import runpy, sys
sys.modules["isal"] = sys.modules["pybase64"] = None
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Run:
    """One process, from start to end."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def measured(command: list[str]) -> Run:
    """Run *command*; a failure ends the benchmark."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | CREDENTIALS)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"error: {command[:3]} ended with {process.returncode}: see above")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def contenders(artifact: Path, tree: Path, tool: Path) -> dict[str, list[str]]:
    """Return each way's command line for opening *artifact* into *tree*."""
    words = ["decrypt", "-f", str(artifact), "-d", str(tree), "--kmstool", str(tool)]
    ours = [str(DECRYPTOR), *words, "--any-key", "--region", "none"]
    whole_file = [sys.executable, "-c", WHOLE_FILE, str(artifact), str(tree), DATA_KEY.hex()]
    return {
        "whole file": whole_file,
        "decryptor": [sys.executable, *ours],
        "decryptor, plain": [sys.executable, "-c", WITHOUT_ACCELERATORS, *ours],
    }


def compare(title: str, artifact: Path, rounds: int) -> None:
    """Open *artifact* by every contender, *rounds* times in turn, and print a table."""
    tree, tool = artifact.with_name("tree"), artifact.with_name("kmstool")
    tool.write_text(f'#!/bin/sh\necho "PLAINTEXT: {base64.b64encode(DATA_KEY).decode()}"\n')
    tool.chmod(0o700)
    runs: dict[str, list[Run]] = {}
    for _ in range(rounds):
        for name, command in contenders(artifact, tree, tool).items():
            runs.setdefault(name, []).append(measured(command))
            shutil.rmtree(tree)
    print(f"\n{title}: artifact of {artifact.stat().st_size >> 20} MiB, {rounds} rounds")
    print(f"{'':18}{'median s':>9}{'spread':>8}{'faster':>8}{'peak MiB':>10}{'CPU s':>7}")
    reference = statistics.median(run.seconds for run in runs["whole file"])
    for name, of_one in runs.items():
        seconds = [run.seconds for run in of_one]
        median = statistics.median(seconds)
        spread = (max(seconds) - min(seconds)) / median
        peak = max(run.peak_bytes for run in of_one) >> 20
        cpu = statistics.median(run.cpu_seconds for run in of_one)
        faster = f"{reference / median:.1f}x"
        print(f"{name:18}{median:9.2f}{spread:8.0%}{faster:>8}{peak:10}{cpu:7.2f}")


def main() -> None:
    """Make the artifacts, compare, and remove everything."""
    parser = argparse.ArgumentParser(description="Compare ways of opening an artifact.")
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    memory = os.environ.get("TMPDIR") or "/dev/shm"  # noqa: S108 - a disk would be measured else
    with tempfile.TemporaryDirectory(dir=memory) as work:
        for title, megabytes, files in (
            (f"{arguments.megabytes} MB of weights", arguments.megabytes, 0),
            (f"a tree of {arguments.files} files", 0, arguments.files),
        ):
            artifact = Path(work) / "artifact"
            seal = [sys.executable, "-c", SEAL, str(megabytes), str(files)]
            subprocess.run([*seal, str(artifact), DATA_KEY.hex()], check=True)
            compare(title, artifact, arguments.rounds)


if __name__ == "__main__":
    main()
