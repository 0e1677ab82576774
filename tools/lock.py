"""Update the lock files in requirements/: `make lock`.

Every lock pins versions and hashes and names no package index. They cover any platform, except
those of the build and of the enclave image, which have only wheels for Linux x86_64. codebuild.txt
has only those of the build's Python, because it is embedded in a buildspec of at most 25,600
characters; rehearsed-build.txt has the same versions for every Python that may rehearse a build.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from generator.templates.buildspec import PYTHON as BUILD_PYTHON

HERE = Path(__file__).parent.parent / "requirements"
OLDEST_PYTHON = "3.11"
ENCLAVE_PYTHON = "3.11"  # of enclave/Dockerfile
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
    """Return the SHA-256 of a pinned requirement's wheel for Linux on *python*."""
    platforms = [word for tag in BUILD_PLATFORMS for word in ("--platform", tag)]
    with tempfile.TemporaryDirectory() as folder:
        target = ["--python-version", python, "--only-binary", ":all:", *platforms]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *target]
        subprocess.run([*command, "--dest", folder, pin], check=True)
        (wheel,) = Path(folder).iterdir()
        return hashlib.sha256(wheel.read_bytes()).hexdigest()


def lock_wheels(name: str, pythons: Mapping[str, Sequence[str]]) -> None:
    """Lock NAME.in, for Linux x86_64 only.

    Args:
        name: of the list.
        pythons: for each lock file to write, the Pythons whose wheels it contains.
    """
    lock = compile_lock(name, "--python-platform", "x86_64-manylinux_2_28")
    lines = lock.read_text().splitlines()
    pins = [re.split(r"[ ;\\]", re.sub(r"\[\w+\]", "", line))[0] for line in lines if "==" in line]
    for target, versions in pythons.items():
        entries = [
            " ".join([pin, *(f"--hash=sha256:{digest}" for digest in sorted(digests))])
            for pin in pins
            for digests in [{wheel_hashes(pin, version) for version in versions}]
        ]
        text = "".join(f"{entry}\n" for entry in entries)
        (HERE / f"{target}.txt").write_text(HEADER.format(name=name) + text)


def main() -> None:
    """Update every lock, beginning with those that constrain others."""
    for name in ("packaging", "project", "development", "rehearsal", "vulnerabilities"):
        compile_lock(name, "--universal")
    lock_wheels("codebuild", {"codebuild": [BUILD_PYTHON], "rehearsed-build": REHEARSAL_PYTHONS})
    lock_wheels("enclave", {"enclave": [ENCLAVE_PYTHON]})
    lock_wheels("enclave-nsm", {"enclave-nsm": [ENCLAVE_PYTHON]})


if __name__ == "__main__":
    main()
