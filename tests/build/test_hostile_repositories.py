"""The repository is data: the build executes nothing in it, and reads no configuration from it."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from rehearsal.aws import ENCRYPTOR, SHARING_BUCKET, account_root
from rehearsal.build import INTERPRETER, Build, publish, start_build
from tests.support import artifacts, stacks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rehearsal.aws import Aws

REPOSITORY = "enclave-application"
OWNER, HOST = account_root("777777777777"), account_root("888888888888")
INSTALLED = (
    *("pip", "boto3", "botocore", "s3transfer", "awscrt", "jmespath", "dateutil", "six", "urllib3"),
    *("cryptography", "cffi", "_cffi_backend", "pycparser", "isal", "pybase64"),
    *("envelope_encryptor", "artifact_uploader", "sitecustomize", "usercustomize"),
)
"""What a build imports in addition to the standard library."""

NAMES = (
    *(
        "$(touch {mark})",
        "`touch {mark}`",
        "-rf",
        "--help",
        "a\nb",
        "a\n+a[$(touch {mark})]",
        "\x1b[2J",
    ),
    *(
        "'; touch {mark} #",
        '"; touch {mark} #',
        "a b",
        "*",
        "~",
        "%s%n",
        "END",
        "\u202e",
        "\x7f",
    ),
)


def plant(folder: Path, mark: Path) -> None:
    """Fill *folder* with files that a program started there may execute, or read as settings."""
    touch = f"open({str(mark)!r}, 'w').close()\n"
    for name in {*sys.stdlib_module_names, *INSTALLED}:
        (folder / f"{name}.py").write_text(touch)
    for name in INSTALLED:
        (folder / name).mkdir()
        for part in ("__init__.py", "__main__.py"):
            (folder / name / part).write_text(touch)
    for name in NAMES:
        (folder / name.format(mark=str(mark).replace("/", "\u2215"))).write_text("a name")
    process = f"[default]\nregion = us-east-1\ncredential_process = touch {mark}\n"
    texts = {
        ".python-version": "3.1\n",
        "evil.pth": f"import os; {touch}",
        "pip.conf": "[global]\nindex-url = http://127.0.0.1:9/\nrequire-hashes = no\n",
        "setup.cfg": "[metadata]\nname = evil\n",
        "setup.py": touch,
        "pyproject.toml": "[project]\nname = 'evil'\n",
        "pyvenv.cfg": "home = /nonexistent\n",
        ".netrc": "default login evil password evil\n",
        ".aws/config": process,
        ".aws/credentials": process,
        ".boto": process,
        ".bashrc": f"touch {mark}\n",
        ".bash_profile": f"touch {mark}\n",
        ".profile": f"touch {mark}\n",
        ".env": f"BASH_ENV={mark}\n",
        ".gitattributes": "* filter=evil\n",
        ".gitconfig": f'[filter "evil"]\n  smudge = touch {mark}\n',
        ".githooks/post-checkout": f"#!/bin/sh\ntouch {mark}\n",
        "buildspec.yml": f"version: 0.2\nphases: {{build: {{commands: ['touch {mark}']}}}}\n",
        "requirements.txt": "evil\n",
    }
    for program in ("python3", "pip3", "cat", "mktemp", "realpath", "find", "bash", "git"):
        texts[program] = texts[f"bin/{program}"] = f"#!/bin/sh\ntouch {mark}\n"
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


@dataclass
class Site:
    """Both stacks, deployed once; each test has its own folder of repositories."""

    aws: Aws
    interpreter: Path
    outputs: dict[str, str]

    def build(
        self, folder: Path, interpreter: Path | None = None
    ) -> tuple[Build, dict[str, bytes]]:
        """Build from the repository in *folder*; also return the artifact's contents."""
        project = self.outputs["ProjectName"]
        made = start_build(
            self.aws, OWNER, project, folder, interpreter=interpreter or self.interpreter
        )
        if not made.succeeded:
            return made, {}
        bucket, _, key = self.outputs["ArtifactUri"].removeprefix("s3://").partition("/")
        artifact = self.aws.client(HOST, "s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        kms = self.aws.client(OWNER, "kms")
        encrypted_key, _ = artifacts.parts(artifact)
        data_key = kms.decrypt(CiphertextBlob=encrypted_key)["Plaintext"]
        return made, artifacts.contents(artifacts.decrypted(artifact, data_key))


@pytest.fixture(scope="module")
def site(aws: Aws, interpreter: Path) -> Site:
    sharing = {"ThirdPartyIdentifier": "acme", "ThirdPartyAWSAccountNumber": OWNER.access_key_id}
    shared = stacks.deploy(aws, HOST, "sharing", SHARING_BUCKET, sharing)
    application = {
        "CodeCommitRepositoryName": REPOSITORY,
        "ApplicationCodeDirectoryName": "application",
    }
    return Site(
        aws, interpreter, stacks.deploy(aws, OWNER, "hostile", ENCRYPTOR, application | shared)
    )


@pytest.mark.parametrize("python_version", [True, False])
def test_nothing_in_the_repository_is_executed(
    site: Site, tmp_path: Path, *, python_version: bool
) -> None:
    checkout, mark = tmp_path / "checkout", tmp_path / "executed"
    for where in (checkout, checkout / "application"):
        where.mkdir()
        plant(where, mark)
        if not python_version:  # with it, a build that started Python there would end at once
            (where / ".python-version").unlink()
    publish(checkout, tmp_path, REPOSITORY)
    # Without the file, pip itself is started, too.
    made, contents = site.build(tmp_path, None if python_version else INTERPRETER)
    assert made.succeeded, made.log
    assert not mark.exists()
    application = checkout / "application"
    files = {path for path in application.rglob("*") if path.is_file()}
    expected = {str(path.relative_to(application)): path.read_bytes() for path in files}
    assert {name: data for name, data in contents.items() if not name.endswith("/")} == expected
    assert unprintable(made.log) == set()


@pytest.mark.parametrize(
    "name",
    ["real\n+a[$(touch {mark})]", "-rf", "\x1b]0;title\x07", pytest.param("a b\n", id="newline")],
)
def test_link_to_a_hostile_name_executes_nothing(site: Site, tmp_path: Path, name: str) -> None:
    checkout, mark = tmp_path / "checkout", tmp_path / "executed"
    target = checkout / name.format(mark=str(mark).replace("/", "\u2215"))
    target.mkdir(parents=True)
    (target / "file").write_text("content")
    (checkout / "application").symlink_to(target.name)
    if name.endswith("\n"):  # the shell drops newlines at the end of what a command prints
        (checkout / name.strip()).mkdir()
        (checkout / name.strip() / "file").write_text("another")
    publish(checkout, tmp_path, REPOSITORY)
    made, contents = site.build(tmp_path)
    assert list(tmp_path.glob("**/executed")) == []
    assert unprintable(made.log) == set()
    if made.succeeded:
        assert contents == {"file": b"content"}
    else:
        assert name.endswith("\n")
        assert refusal(made).startswith("error: application: not in the repository: ")


def unprintable(log: str) -> set[str]:
    return {c for c in log if unicodedata.category(c) in ("Cc", "Cf")} - {"\n"}


def lfs_pointer(checkout: Path, _repository: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "1a" * 32 + "\nsize 9\n"
    (checkout / "application/weights.bin").write_text(pointer)


def submodule(checkout: Path, repository: Path) -> None:
    here = ["git", f"--git-dir={repository}", f"--work-tree={checkout}"]
    entry = f"160000,{'1a' * 20},application/\x1b\u202emodule"
    subprocess.run([*here, "update-index", "--add", "--cacheinfo", entry], check=True)
    author = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    subprocess.run([*here, *author, "commit", "--quiet", "--message=more"], check=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lfs_pointer,
            "error: weights.bin: a Git LFS pointer, not the file: run git lfs pull,"
            " or store the file itself",
            id="lfs-pointer",
        ),
        pytest.param(
            submodule,
            "module': an empty submodule: copy its files into the repository",
            id="submodule",
        ),
    ],
)
def test_placeholders_of_missing_files_are_refused_by_name(
    site: Site, tmp_path: Path, make: Callable[[Path, Path], None], message: str
) -> None:
    checkout, repository = tmp_path / "checkout", tmp_path / f"{REPOSITORY}.git"
    (checkout / "application").mkdir(parents=True)
    (checkout / "application/file").write_text("content")
    if make is lfs_pointer:
        make(checkout, repository)
    publish(checkout, tmp_path, REPOSITORY)
    if make is submodule:
        make(checkout, repository)
    made, _ = site.build(tmp_path)
    assert not made.succeeded
    assert refusal(made).endswith(message)
    assert unprintable(made.log) == set()


def refusal(made: Build) -> str:
    assert "Traceback" not in made.log
    (line,) = [line for line in made.log.splitlines() if line.startswith("error: ")]
    return line
