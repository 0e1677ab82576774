"""The same bytes from every Python, locale, time zone and hash seed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEMPLATES = {
    "codecommit": "Deploy-ApplicationEncryptor-Cfn.yaml",
    "s3": "Deploy-ApplicationEncryptor-S3-Cfn.yaml",
    "connection": "Deploy-ApplicationEncryptor-Connection-Cfn.yaml",
}
KEPT = (".pyenv/versions/{}*/bin/{}", ".local/share/uv/python/cpython-{}*/bin/{}")
"""Where pyenv and uv install Pythons, below the home directory."""


def installed() -> dict[str, str]:
    """Return the installed Pythons 3.11 to 3.14, including the one that runs the tests.

    They use the packages of the running one: rendering imports only pure Python.
    """
    found = {f"python3.{sys.version_info.minor}": sys.executable}
    for version in ("3.11", "3.12", "3.13", "3.14"):
        name = f"python{version}"
        kept = [str(p) for at in KEPT for p in Path.home().glob(at.format(version, name))]
        on_path = shutil.which(name)
        for path in (on_path, *kept):
            if path and _starts(path):
                found.setdefault(name, path)
    return found


def _starts(path: str) -> bool:
    """Whether it starts: a shim of pyenv may only print an error."""
    return subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0


PYTHONS = installed()


@pytest.mark.parametrize("source", TEMPLATES)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_python_renders_the_same_bytes(python: str, source: str) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PYTHONHASHSEED": f"{len(python + source)}",
        "LC_ALL": "C",
        "TZ": "Asia/Kathmandu",
    }
    rendered = subprocess.run(
        [PYTHONS[python], "-m", "generator", "render", "--source", source, "-o", "-"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=True,
    )
    assert rendered.stdout == (ROOT / "templates" / TEMPLATES[source]).read_bytes()
