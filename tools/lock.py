"""Renew the lock files in requirements/: `make lock`.

Every lock pins versions and hashes and names no package index. They cover any platform, but for
the build's: wheels for Linux x86_64 alone. codebuild.txt has those of the build's one Python,
because it travels inside a buildspec that may have 25,600 characters; rehearsed-build.txt has the
same versions for every Python on which a build may be rehearsed.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from generator.templates.buildspec import PYTHON as BUILD_PYTHON

HERE = Path(__file__).parent.parent / "requirements"
OLDEST_PYTHON = "3.11"
REHEARSAL_PYTHONS = ("3.11", "3.12", "3.13", "3.14")
BUILD_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
HEADER = "# Made by `make lock` from {name}.in. Do not edit.\n"


def compile_lock(name: str, *options: str) -> Path:
    """Resolve NAME.in into NAME.txt with the hashes of every distribution."""
    lock = HERE / f"{name}.txt"
    resolve = [sys.executable, "-m", "uv", "pip", "compile", "--upgrade", "--quiet"]
    form = ["--generate-hashes", "--no-header", "--no-annotate", "--python-version", OLDEST_PYTHON]
    files = [f"{name}.in", "--output-file", lock.name]
    subprocess.run([*resolve, *form, *options, *files], cwd=HERE, check=True)
    lock.write_text(HEADER.format(name=name) + lock.read_text())
    return lock


def wheel_hashes(pin: str, python: str) -> str:
    """Return the SHA-256 of the wheel that a pinned requirement has for Linux on *python*."""
    platforms = [word for tag in BUILD_PLATFORMS for word in ("--platform", tag)]
    with tempfile.TemporaryDirectory() as folder:
        target = ["--python-version", python, "--only-binary", ":all:", *platforms]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *target]
        subprocess.run([*command, "--dest", folder, pin], check=True)
        (wheel,) = Path(folder).iterdir()
        return hashlib.sha256(wheel.read_bytes()).hexdigest()


def lock_build() -> None:
    """Keep of the build's lock only the wheels that a build, or its rehearsal, can install."""
    lock = compile_lock("codebuild", "--python-platform", "x86_64-manylinux_2_28")
    lines = lock.read_text().splitlines()
    pins = [re.split(r"[ ;\\]", re.sub(r"\[\w+\]", "", line))[0] for line in lines if "==" in line]
    for name, pythons in (("codebuild", (BUILD_PYTHON,)), ("rehearsed-build", REHEARSAL_PYTHONS)):
        entries = [
            " ".join([pin, *(f"--hash=sha256:{digest}" for digest in sorted(digests))])
            for pin in pins
            for digests in [{wheel_hashes(pin, python) for python in pythons}]
        ]
        text = "".join(f"{entry}\n" for entry in entries)
        (HERE / f"{name}.txt").write_text(HEADER.format(name="codebuild") + text)


def main() -> None:
    """Renew every lock, the ones that constrain others first."""
    for name in ("packaging", "project", "development", "rehearsal"):
        compile_lock(name, "--universal")
    lock_build()


if __name__ == "__main__":
    main()
