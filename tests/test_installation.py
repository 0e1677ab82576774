"""Installed with pip, the package renders and validates far from its checkout."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ENCRYPTOR_TEMPLATE, PROJECT

TEMPLATE = ENCRYPTOR_TEMPLATE


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a copy of the checkout's package without its dependencies, which are installed."""
    folder = tmp_path_factory.mktemp("installed")
    tracked = ["LICENSE", "README.md", "encryption", "generator", "pyproject.toml", "requirements"]
    subprocess.run(["cp", "-r", *tracked, folder], cwd=PROJECT, check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(folder)], check=True)
    return folder / "site"


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # -P, and first on the path, so that the checkout is not found.
    environment = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-P", str(installed / "bin/application-encryptor"), *arguments]
    return subprocess.run(
        command, cwd=installed, env=environment, capture_output=True, text=True, check=False
    )


def test_the_console_command_renders_the_same_template(installed: Path) -> None:
    assert run(installed, "render", "-o", "-").stdout == TEMPLATE.read_text()


def test_console_command_includes_its_rules(installed: Path) -> None:
    result = run(installed, "validate", str(PROJECT / "tests/rules/templates/E9001.bad.yaml"))
    assert result.returncode & 2
    assert "E9001" in result.stdout


def test_missing_template_is_reported_without_a_traceback(installed: Path, tmp_path: Path) -> None:
    result = run(installed, "validate", str(tmp_path / "absent.yaml"))
    assert result.returncode != 0
    assert "Traceback" not in result.stdout + result.stderr
    assert "absent.yaml" in result.stdout + result.stderr
