"""Renew the lock files in requirements/: `make lock`.

Every lock pins versions and hashes and names no package index. They cover any
platform, but for the build's: CPython on Linux x86_64 alone, wheels only,
because it travels inside a template that may have 51,200 bytes.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent.parent / "requirements"
OLDEST_PYTHON = "3.11"
BUILD_PYTHONS = ("3.11", "3.12", "3.13", "3.14")
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


def wheel_hashes(requirements: list[str]) -> dict[str, set[str]]:
    """Map each pinned requirement to the SHA-256 of its wheels for the build's interpreters."""
    hashes: dict[str, set[str]] = {pin: set() for pin in requirements}
    platforms = [word for tag in BUILD_PLATFORMS for word in ("--platform", tag)]
    for python in BUILD_PYTHONS:
        for pin in requirements:
            with tempfile.TemporaryDirectory() as folder:
                target = ["--python-version", python, "--only-binary", ":all:", *platforms]
                command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *target]
                subprocess.run([*command, "--dest", folder, pin], check=True)
                (wheel,) = Path(folder).iterdir()
                hashes[pin].add(hashlib.sha256(wheel.read_bytes()).hexdigest())
    return hashes


def lock_build() -> None:
    """Keep of the build's lock only the wheels that the build can install."""
    lock = compile_lock("codebuild", "--python-platform", "x86_64-manylinux_2_28")
    lines = lock.read_text().splitlines()
    pins = [line.split(";")[0].strip(" \\") for line in lines if "==" in line]
    entries = (
        " \\\n    ".join([pin, *(f"--hash=sha256:{digest}" for digest in sorted(digests))]) + "\n"
        for pin, digests in wheel_hashes(pins).items()
    )
    lock.write_text(HEADER.format(name="codebuild") + "".join(entries))


def main() -> None:
    """Renew every lock, the ones that constrain others first."""
    for name in ("packaging", "project", "development", "rehearsal"):
        compile_lock(name, "--universal")
    lock_build()


if __name__ == "__main__":
    main()
