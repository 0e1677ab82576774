"""No plaintext reaches a disk: every program that writes it there is detected."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from rehearsal import attempts, demo, disk, enclave
from rehearsal.aws import PROJECT, account_root
from rehearsal.scenario import SCRIPT, Scenario, encrypt
from tests.support.enclave import PIN, Enclave, install, zipped
from tests.support.machine import lacking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehearsal.aws import Aws

CANARY = os.urandom(32)
FILES: dict[str, bytes | str] = {
    "start.py": "print('ran')",
    "weights": CANARY + os.urandom(1 << 16),  # no compression changes it
}

# Decryptors that leak the code, by a statement that runs once the tree, or the zip, exists.
TREE = (
    "tree.py",
    "    return tree\n\n\nclass _Place",
    "{statement}\n    return tree\n\n\nclass _Place",
)
ZIP = ("tree.py", "        return _unpack(", "{statement}\n        return _unpack(")
PLACE = "{disk!r} + '/' + os.urandom(8).hex()"
LEAKS = {
    "keeps-every-tree": (*TREE, f"    __import__('shutil').copytree(tree, {PLACE})"),
    "keeps-the-zip": (*ZIP, f"        open({PLACE}, 'wb').write(zipped.read_at(0, zipped.size))"),
    "removes-it-again": (
        *TREE,
        (
            f"    shutil, place = __import__('shutil'), {PLACE}\n"
            "    shutil.rmtree(shutil.copytree(tree, place))"
        ),
    ),
    "writes-a-file-without-a-name": (
        *TREE,
        (
            "    with __import__('tempfile').TemporaryFile(dir={disk!r}) as file:\n"
            "        file.write((tree / 'weights').read_bytes())"
        ),
    ),
}
CAP_SYS_ADMIN = 21
GONE = {"removes-it-again", "writes-a-file-without-a-name"}


def _kernel_reports() -> bool:
    """Whether the kernel reports writes to us: root in a container may lack the capability."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (capabilities,) = [int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")]
    everybody = Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    return everybody and bool(capabilities & 1 << CAP_SYS_ADMIN)


KERNEL_REPORTS = _kernel_reports()


def leaking_programs(leak: str, folder: Path, place: Path) -> Path:
    """Copy the enclave's programs into *folder*, changed to leak code to *place*; return it."""
    name, old, new, statement = LEAKS[leak]
    for part in ("encryption", "enclave"):
        shutil.copytree(PROJECT / part, folder / part)
    file = folder / "encryption/decryptor" / name
    source = file.read_text()
    assert source.count(old) == 1
    file.write_text(source.replace(old, new.format(statement=statement.format(disk=str(place)))))
    return folder


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder on a disk; /tmp may be in memory."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="on-disk-") as name:
        kinds = dict(disk._mounts())  # noqa: SLF001
        above = next(str(p) for p in Path(name).parents if str(p) in kinds)
        if kinds[above] in disk.IN_MEMORY:
            lacking("a /var/tmp that is on a disk")
        yield Path(name)


@contextlib.contextmanager
def watched_as(user: str, *places: Path) -> Iterator[disk.Findings]:
    """Watch as root, or as a user to whom the kernel reports nothing."""
    with contextlib.ExitStack() as stack:
        if user == "anybody" and os.geteuid() == 0:
            os.seteuid(65534)
        try:
            findings = stack.enter_context(disk.watched([CANARY], *places))
        finally:
            os.seteuid(os.getuid())
        yield findings


def run(program: Path, host: Enclave) -> None:
    """Run a script of the artifact with the decryptor below *program*, as in an enclave."""
    command = host.command("run", host.artifact(zipped(FILES)), *PIN, "--", "start.py")
    command[1] = str(program / "encryption/envelope_decryptor.py")
    # Without TMPDIR the tree goes to memory.
    result = subprocess.run(
        command, env=host.environment(TMPDIR=""), capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "ran\n", "")


@pytest.mark.parametrize("user", ["root", "anybody"])
def test_decryption_into_memory_writes_no_plaintext_to_disk(user: str, tmp_path: Path) -> None:
    with watched_as(user, tmp_path) as findings:
        run(PROJECT, install(tmp_path))
    assert findings.files > 0  # the artifact, among others
    assert findings.leaks == []


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("user", ["root", "anybody"])
def test_decryptor_that_writes_code_to_disk_is_detected(
    user: str, leak: str, tmp_path: Path, place: Path
) -> None:
    program = leaking_programs(leak, tmp_path / "program", place)
    (tmp_path / "home").mkdir()
    with watched_as(user, tmp_path) as findings:
        run(program, install(tmp_path / "home"))
    assert findings.whole is (user == "root" and KERNEL_REPORTS)
    if leak in GONE and not findings.whole:
        return  # a removed file cannot be searched, and the findings say so
    (found,) = findings.leaks
    assert found.startswith(str(place))


@pytest.mark.parametrize("leak", [None, "keeps-every-tree"])
def test_demo_fails_if_the_decryptor_writes_code_to_disk(  # noqa: PLR0913, PLR0917
    leak: str | None,
    scenario: Scenario,
    aws: Aws,
    tmp_path: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The demo's last step, shortened to the row that runs the bound image."""
    stage = demo.Stage(aws, tmp_path, Console(file=sys.stderr))
    statement = {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": scenario.key}
    policy = json.dumps({"Version": "2012-10-17", "Statement": statement})
    stage.encryptor = {"EnclaveKeyARN": scenario.key, "ParentRolePolicy": policy}
    code = tmp_path / "code"
    code.mkdir()
    (code / SCRIPT).write_bytes(stage.script)
    (code / "weights").write_bytes(stage.weights)
    encrypt(aws, account_root(scenario.owner), code, scenario.key, tmp_path / demo.ARTIFACT)
    row = next(row for row in attempts.rows(demo.HELLO) if row.decrypts)
    monkeypatch.setattr(attempts, "rows", lambda _script: [row])
    if leak is None:
        assert demo.enclave_decrypts(stage).startswith("no plaintext was written to a disk")
        return
    program = leaking_programs(leak, tmp_path / "program", place)
    monkeypatch.setattr(enclave, "SERVER", program / "enclave/server.py")
    with pytest.raises(demo.DemoError, match="plaintext was written to a disk: /var/tmp"):
        demo.enclave_decrypts(stage)
