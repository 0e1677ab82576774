"""How fast artifacts are sealed: the encryptor beside its alternatives, in one run.

    python -m benchmarks.sealing [--megabytes 512] [--files 30000] [--rounds 5]

Random weights in one file and a tree of source code, both in a memory file system,
sealed in turn by every contender, process start included. `cp` is the floor: it only copies.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.kms_server import KmsServer
from benchmarks.measure import FailedError, Run, interleaved, measured, table

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
ENCRYPTOR = HERE.parent / "encryption" / "envelope_encryptor.py"
WHOLE_FILE = "whole file"
FILES_IN_COPY = 1000
WITHOUT_ACCELERATORS = """
import runpy, sys
sys.modules["isal"] = sys.modules["pybase64"] = None
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def weights(directory: Path, megabytes: int) -> None:
    """Make one file of random bytes, which nothing can compress."""
    directory.mkdir()
    with (directory / "weights.bin").open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))


def tree(directory: Path, files: int) -> None:
    """Copy installed Python sources, again and again, until there are as many as *files*."""
    installed = Path(sysconfig.get_path("purelib"))
    sources = itertools.cycle(sorted(installed.rglob("*.py")))
    for number, source in zip(range(files), sources, strict=False):
        target = directory / f"{number // FILES_IN_COPY}" / source.relative_to(installed)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def contenders(
    source: Path, output: Path, environment: dict[str, str]
) -> dict[str, Callable[[], Run]]:
    """Return the ways to seal *source* into *output*; `age` only where it is installed."""
    encrypt = ["encrypt", "-d", str(source), "-k", "alias/enclavekey", "-o", str(output)]
    ours = [str(ENCRYPTOR), *encrypt]
    classic = [str(HERE / "whole_file.py"), str(source), "alias/enclavekey", str(output)]
    run = partial(measured, environment=environment)
    ways: dict[str, Callable[[], Run]] = {
        WHOLE_FILE: partial(run, [sys.executable, *classic]),
        "encryptor": partial(run, [sys.executable, *ours]),
        "encryptor, unaccelerated": partial(
            run, [sys.executable, "-c", WITHOUT_ACCELERATORS, *ours]
        ),
        "tar": partial(run, ["tar", "-C", str(source), "-cf", str(output), "."]),
        "cp": partial(run, ["cp", "-rT", str(source), f"{output}.copied"]),
    }
    if shutil.which("age"):
        identity = subprocess.run(["age-keygen"], check=True, capture_output=True, text=True)
        recipient = identity.stderr.split()[-1]
        tar = ["tar", "-C", str(source), "-c", "."]
        ways["tar | age"] = partial(run, tar, ["age", "-r", recipient, "-o", str(output)])
    return ways


def cleaned(run: Callable[[], Run], output: Path) -> Run:
    """Do *run*, then remove what it made: each finds an empty file system."""
    result = run()
    output.unlink(missing_ok=True)
    shutil.rmtree(f"{output}.copied", ignore_errors=True)
    return result


def main() -> int:
    """Make the inputs, compare, print, and remove everything."""
    parser = argparse.ArgumentParser(description="Compare ways of sealing a directory.")
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--files", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    memory = Path("/dev/shm")  # noqa: S108 - on a disk its write-back would be measured
    if not shutil.which("age"):
        print("age is not installed: apt-get install age adds it to the table", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=memory) as work, KmsServer() as kms:
        output = Path(work) / "artifact"
        inputs = {
            f"{options.megabytes} MB of weights": (
                Path(work) / "weights",
                weights,
                options.megabytes,
            ),
            f"tree of {options.files} files": (Path(work) / "tree", tree, options.files),
        }
        try:
            for title, (source, make, amount) in inputs.items():
                make(source, amount)
                ways = {
                    name: partial(cleaned, run, output)
                    for name, run in contenders(source, output, kms.environment).items()
                }
                print(table(title, interleaved(ways, options.rounds), WHOLE_FILE), end="\n\n")
                shutil.rmtree(source)
            start = {
                "python -c pass": partial(measured, [sys.executable, "-c", "pass"]),
                "encryptor --help": partial(measured, [sys.executable, str(ENCRYPTOR), "--help"]),
            }
            print(table("start", interleaved(start, 4 * options.rounds), "python -c pass"))
        except FailedError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
