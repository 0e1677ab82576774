"""Documentation is checked: links, commands, options, generated parts."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.support.paths import PROJECT
from tools.documentation import PICTURES, renewed
from tools.prose import laid_out

PAGES = [*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md"), PROJECT / "enclave/README.md"]


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def test_generated_parts_are_up_to_date(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    assert renewed(page.read_text()) == page.read_text(), "make docs"


def test_prose_has_one_sentence_per_line_or_100_columns(page: Path) -> None:
    assert laid_out(page.read_text()) == page.read_text(), "make docs"


@pytest.mark.parametrize("path", PICTURES, ids=str)
def test_pictures_are_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    assert PICTURES[path]() == path.read_text(), "make docs"


LONG = "Word " * 20 + "word"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        pytest.param(f"{LONG}. {LONG}.\n", f"{LONG}.\n{LONG}.\n", id="two-sentences"),
        pytest.param(f"- {LONG}. `a`. B.\n", f"- {LONG}.\n  `a`.\n  B.\n", id="an-item"),
        pytest.param(f"- A.\n\n  {LONG}. B.\n", f"- A.\n\n  {LONG}.\n  B.\n", id="inside-an-item"),
        pytest.param(f"{LONG}\n{LONG}.\n", f"{LONG} {LONG}.\n", id="wrapped-too-wide"),
        pytest.param(f"{LONG} `a. B` e.g. C.\n", f"{LONG} `a. B` e.g. C.\n", id="one-sentence"),
        pytest.param("A. B.\nC\nd.\n", "A. B.\nC\nd.\n", id="short-lines"),
        pytest.param(f"| {LONG}. A. |\n", f"| {LONG}. A. |\n", id="a-table"),
        pytest.param(f"```\n{LONG}. A.\n```\n", f"```\n{LONG}. A.\n```\n", id="code"),
    ],
)
def test_only_long_lines_of_prose_are_reflowed(written: str, expected: str) -> None:
    assert laid_out(written) == expected


def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", without_code(page.read_text())):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = page.parent / path if path else page
        assert linked.exists(), target
        headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {
            re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings
        }


def test_files_named_in_prose_exist(page: Path) -> None:
    folders = (
        "templates|generator|encryption|enclave|scripts|rehearsal|tests|requirements|docs|"
        "benchmarks|conformance"
    )
    for name in re.findall(rf"`((?:{folders})/[\w./-]+)`", without_code(page.read_text())):
        assert (PROJECT / name).exists(), name


def test_tests_named_as_evidence_exist(page: Path) -> None:
    for name, path in re.findall(r"\[`(test_\w+)`\]\(([^)#]+)\)", page.read_text()):
        assert f"def {name}(" in (page.parent / path).read_text(), f"{path}: {name}"


def test_make_targets_named_in_pages_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|\$ )make ([a-z]+)", page.read_text())) <= set(targets)


def test_bare_make_explains_every_target() -> None:
    # As a user starts it, not as part of the `make test` that runs this.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    run = subprocess.run(
        ["make"], cwd=PROJECT, env=outside, capture_output=True, text=True, check=True
    )
    phony = re.findall(r"^\.PHONY: (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert [line.split()[1] for line in run.stdout.splitlines()] == phony[0].split()
    assert max(map(len, run.stdout.splitlines())) <= 80


def test_changelog_has_the_version() -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (PROJECT / "CHANGELOG.md").read_text()
