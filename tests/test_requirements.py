"""Each lock file pins its requirements by hash, and names no index."""

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.paths import PROJECT

REQUIREMENTS = PROJECT / "requirements"
NAMES = sorted(path.stem for path in REQUIREMENTS.glob("*.in"))


def wanted(name: str) -> list[Requirement]:
    lines = (REQUIREMENTS / f"{name}.in").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def pins(name: str) -> dict[str, list[tuple[Requirement, list[str]]]]:
    """Return the pins of a lock, with their hashes, by package."""
    text = (REQUIREMENTS / f"{name}.txt").read_text().replace("\\\n", " ")
    found: dict[str, list[tuple[Requirement, list[str]]]] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        pin, *hashes = re.split(r"\s+--hash=", line.strip())
        requirement = Requirement(pin)
        found.setdefault(canonicalize_name(requirement.name), []).append((requirement, hashes))
    return found


def version(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    return specifier.version


@pytest.mark.parametrize("name", NAMES)
def test_locks_satisfy_their_requirements(name: str) -> None:
    locked = pins(name)
    for requirement in wanted(name):
        found = locked[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version(pin)) for pin, _ in found), requirement


@pytest.mark.parametrize("name", NAMES)
def test_everything_locked_has_sha256_hashes(name: str) -> None:
    for package, found in pins(name).items():
        for _, hashes in found:
            assert hashes, package
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes), package


@pytest.mark.parametrize("name", NAMES)
def test_locks_name_no_index(name: str) -> None:
    assert not re.search(
        r"://|^\s*-(?!-hash=)", (REQUIREMENTS / f"{name}.txt").read_text(), re.MULTILINE
    )


def test_development_lock_has_the_versions_of_the_project() -> None:
    project, development = pins("project"), pins("development")
    for package in project.keys() & development.keys():
        versions = {version(pin) for pin, _ in project[package]}
        assert {version(pin) for pin, _ in development[package]} <= versions, package
