"""The image, as far as it can be tested without docker: pins, sources, and its entry point."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.harness import running
from tests.support.paths import PROJECT

FOLDER = PROJECT / "enclave"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
INSTRUCTIONS = [
    line
    for line in re.sub(r"\\\n", " ", DOCKERFILE).splitlines()
    if line and not line.startswith("#")
]
OPTIONAL = {"enclave/nsm-api.lock*"}  # made by the person who builds, see enclave/README.md


def copied() -> list[tuple[list[str], str]]:
    """Return sources and destination of each COPY from the repository."""
    words = [line.split()[1:] for line in INSTRUCTIONS if line.startswith("COPY ")]
    return [(each[:-1], each[-1]) for each in words if not each[0].startswith("--from=")]


def entry_points() -> dict[str, list[str]]:
    """Return the entry point of each target."""
    stage, found = "", {}
    for line in INSTRUCTIONS:
        if line.startswith("FROM "):
            stage = line.split()[3]
        elif line.startswith("ENTRYPOINT "):
            found[stage] = [str(word) for word in json.loads(line.removeprefix("ENTRYPOINT "))]
    return found


def test_hadolint_finds_nothing() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    found = subprocess.run(
        [linter, FOLDER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (0, "")


def test_every_base_is_pinned_by_digest() -> None:
    stages = {"scratch"}
    for line in INSTRUCTIONS:
        if line.startswith("FROM "):
            _, base, _, name = line.split()
            assert base in stages or re.search(r"@sha256:[0-9a-f]{64}$", base), line
            stages.add(name)
        elif "--from=" in line:
            assert line.split("--from=")[1].split()[0] in stages, line


def test_everything_installed_is_pinned() -> None:
    assert not re.search(r"\b(curl|wget|ADD)\b|:latest|upgrade", DOCKERFILE)
    assert "--require-hashes" in DOCKERFILE
    assert "--only-binary :all:" in DOCKERFILE
    script = (FOLDER / "build_kmstool.sh").read_text()
    table = script.split("<<'END'\n")[1].split("END\n")[0].splitlines()
    commits = [row.split()[2] for row in table]
    commits += re.findall(r"^(?:NSM_API|SDK)=(\w+) +#", script, re.MULTILINE)
    assert len(commits) == 12
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in commits)
    assert "cargo build --locked" in script
    assert not re.search(r"\b(curl|wget|git clone|pip install)\b", script)


def test_build_script_has_valid_shell_syntax() -> None:
    subprocess.run(["sh", "-n", FOLDER / "build_kmstool.sh"], check=True)


def test_every_copied_source_exists_and_is_not_ignored() -> None:
    lines = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    admitted = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines
    for sources, _ in copied():
        for source in sources:
            if source in OPTIONAL:
                assert source.rstrip("*") in admitted
                continue
            path = PROJECT / source
            assert path.exists(), source
            files = [path] if path.is_file() else sorted(path.rglob("*.py"))
            for file in files:
                name = str(file.relative_to(PROJECT))
                assert any(fnmatch.fnmatchcase(name, pattern) for pattern in admitted), name


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Assemble the files that the last stage copies from the repository."""
    root = tmp_path / "root"
    for sources, destination in copied():
        if not destination.startswith("/opt/"):
            continue
        for source in sources:
            path, target = PROJECT / source, root / destination.lstrip("/")
            if path.is_dir():
                shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    return root


def test_nsm_image_needs_nothing_compiled() -> None:

    stage, uses = "", {}
    for line in INSTRUCTIONS:
        if line.startswith("FROM "):
            _, base, _, stage = line.split()
            uses[stage] = {base}
        elif "--from=" in line:
            uses[stage].add(line.split("--from=")[1].split()[0])

    def parts(name: str) -> set[str]:
        return {name}.union(*(parts(used) for used in uses.get(name, ())))

    assert {"tools", "kmstool"} <= parts("enclave")
    assert not {"tools", "kmstool"} & parts("enclave-nsm")


@pytest.mark.parametrize(
    ("target", "attest", "outcome"),
    [
        ("enclave", (), ("hello from the image\n", "")),
        (
            "enclave-nsm",
            ("--attest", "nsm"),
            ("", "/dev/nsm does not exist: this is not an enclave"),
        ),
    ],
)
def test_entry_point_serves_from_the_files_of_the_image(
    target: str, attest: tuple[str, ...], outcome: tuple[str, str], tree: Path, tmp_path: Path
) -> None:
    python, *options, program = entry_points()[target][:3]
    assert re.fullmatch(r"python3\.\d+", python)
    assert f"dnf install --assumeyes {python} " in DOCKERFILE
    words = entry_points()[target][3:]
    assert dict(zip(words[::2], words[1::2], strict=True)) == {
        "--listen": "vsock:6000",
        "--mount-tmpfs": "/runs",
        **dict(zip(attest[::2], attest[1::2], strict=True)),
        "--key-id": "KEY_ARN",
    }
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, *options, str(tree / program.lstrip("/"))]
    with running(home, *attest, program=command) as started:
        artifact = started.artifact({"print-hello.py": "print('hello from the image')\n"})
        answer = started.request(artifact, "print-hello.py")
    output, failure = outcome
    assert answer.output.decode() == output
    assert failure in answer.failure


@pytest.mark.parametrize("target", ["enclave", "enclave-nsm"])
def test_image_without_a_key_arn_is_refused(target: str, tree: Path) -> None:
    (_, *options, program), words = entry_points()[target][:3], entry_points()[target][3:]
    command: list[str | Path] = [sys.executable, *options, tree / program.lstrip("/"), *words]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--key-id takes a key's ARN" in refused.stderr
