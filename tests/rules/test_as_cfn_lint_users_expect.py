"""In any project: the rules are loaded by name, listed, and ignored in the usual ways."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rules.test_validate import HOSTILE_MESSAGES
from tests.support import preloaded
from tests.support.paths import PROJECT

BAD = Path(__file__).with_name("templates") / "E9006.bad.yaml"
CFN_LINT = Path(sys.executable).with_name("cfn-lint")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".cfnlintrc").write_text("append_rules:\n  - generator.rules\n")
    (tmp_path / "template.yaml").write_text(BAD.read_text())
    return tmp_path


def lint(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return preloaded.run(CFN_LINT, *arguments, environment=os.environ, directory=project)


def found(project: Path, *arguments: str) -> set[str]:
    run = lint(project, *arguments, "--format", "json", "--", "template.yaml")
    return {match["Rule"]["Id"] for match in json.loads(run.stdout)}


def test_rules_are_loaded_by_module_name(project: Path) -> None:
    """By the program itself; the other tests fork a process that has loaded both."""
    command = [str(CFN_LINT), "template.yaml"]
    run = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert "\nE9006 " in f"\n{run.stdout}", run
    assert "E9006" in found(project)


@pytest.mark.parametrize("way", ["generator.rules", str(PROJECT / "generator/rules")])
def test_rules_are_listed(tmp_path: Path, way: str) -> None:
    listed = lint(tmp_path, "--append-rules", way, "--list-rules").stdout
    ids = {line.split(":")[0] for line in listed.splitlines() if line[1:2] == "9"}
    assert {"E9001", "E9101", "W9101", "E9201"} <= ids


def test_values_known_only_to_aws_are_shown_as_unknown(project: Path) -> None:
    (project / "template.yaml").write_text(HOSTILE_MESSAGES)
    printed = lint(project, "--", "template.yaml").stdout
    assert "(unknown)" in printed
    assert "\N{REPLACEMENT CHARACTER}" not in printed


def test_a_rule_is_ignored_by_option(project: Path) -> None:
    assert "E9006" not in found(project, "--ignore-checks", "E9006")


def test_a_rule_is_ignored_by_configuration(project: Path) -> None:
    with (project / ".cfnlintrc").open("a") as configuration:
        configuration.write("ignore_checks:\n  - E9006\n")
    assert "E9006" not in found(project)


def test_a_rule_is_ignored_by_a_resources_metadata(project: Path) -> None:
    template = project / "template.yaml"
    metadata = "    Metadata: {cfn-lint: {config: {ignore_checks: [E9006]}}}\n"
    text = template.read_text()
    template.write_text(text.replace("    Properties:\n", metadata + "    Properties:\n", 1))
    assert "E9006" not in found(project)
