"""Everything installed or fetched is listed, and pinned."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import yaml
from cyclonedx.model.bom import Bom

from generator.templates.application_encryptor import IMAGE
from tests.test_requirements import REQUIREMENTS, pins, version
from tools.sbom import sbom

ROOT = Path(__file__).parents[1]
SHELL = ("Makefile", ".ci/run", "enclave/build_kmstool.sh", "enclave/Dockerfile")


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_sbom_lists_everything_installed() -> None:
    document = json.loads(sbom())
    listed = {component["bom-ref"]: component for component in document["components"]}
    for lock in ("codebuild", "enclave", "enclave-nsm"):
        for package, found in pins(lock).items():
            for pin, hashes in found:
                component = listed[f"{lock}.txt: pkg:pypi/{package}@{version(pin)}"]
                assert [f"sha256:{each['content']}" for each in component["hashes"]] == hashes
    script = (ROOT / "enclave/build_kmstool.sh").read_text()
    for commit in re.findall(r"\b[0-9a-f]{40}\b", script):
        assert any(commit in name for name in listed), commit
    for digest in re.findall(r"sha256:([0-9a-f]{64})", (ROOT / "enclave/Dockerfile").read_text()):
        assert any(digest in name for name in listed), digest
    assert IMAGE in listed
    of = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    parts = {"build", "enclave", "enclave-nsm"}
    assert set(of["project"]) == parts
    assert {ref for part in parts for ref in of[part]} == listed.keys() - parts


def test_sbom_is_cyclonedx_and_reproducible() -> None:
    made = sbom()
    read = Bom.from_json(json.loads(made))  # type: ignore[attr-defined]
    assert len(read.components) == len(json.loads(made)["components"])
    assert json.loads(made)["specVersion"] == "1.6"
    assert made == sbom()


def test_everything_fetched_is_pinned() -> None:
    """Installers use hashes or a lock; hooks and workflows, if any, name commits."""
    for name in SHELL:
        for line in re.sub(r"\\\n", " ", (ROOT / name).read_text()).splitlines():
            if re.search(r"pip (install|download)\b", line):
                assert "--require-hashes" in line or "--no-deps" in line, line
            assert not re.search(r"\b(curl|wget|npx|uvx|git clone|npm install)\b", line), line
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    for repository in hooks["repos"]:
        local = repository["repo"] == "local"
        assert local or re.fullmatch("[0-9a-f]{40}", repository["rev"]), repository
    for path in tracked():
        if path.match(".github/workflows/*"):
            for used in re.findall(r"uses: *(\S+)", path.read_text()):
                assert re.search(r"@[0-9a-f]{40}$", used), used
        if path.name == "Dockerfile":
            stages = re.findall(r" AS (\S+)$", path.read_text(), re.MULTILINE)
            for base in re.findall(r"^FROM (\S+)", path.read_text(), re.MULTILINE):
                assert base in (*stages, "scratch") or "@sha256:" in base, base


def test_every_npm_package_has_a_digest() -> None:
    lock = json.loads((ROOT / "tests/policy/package-lock.json").read_text())
    for name, package in lock["packages"].items():
        assert not name or package["integrity"].startswith("sha512-"), name


def test_every_lock_is_checked_for_known_vulnerabilities() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (rule,) = re.findall(r"^vulnerabilities:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert "for lock in requirements/*.txt" in rule
    assert len(list(REQUIREMENTS.glob("*.txt"))) > 1
