"""An enclave with the decryptor in it, and an emulator of kmstool_enclave_cli and KMS."""

from __future__ import annotations

import ast
import base64
import io
import os
import stat
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.support import artifacts, forked
from tests.support.paths import ENVELOPE_DECRYPTOR

DATA_KEY = bytes(range(32))
ENCRYPTED_KEY = b"encrypted data key " * 9
KEY_ARN = "arn:aws:kms:eu-central-1:111122223333:key/mrk-0123456789abcdef"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "ASIAEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "secret-example",
    "AWS_SESSION_TOKEN": "token-example",
}
PIN = ("--key-id", KEY_ARN)
# Valid for the shell and for Python: its path may contain a space. Without site-packages it starts
# several times as fast.
SHEBANG = """#!/bin/sh
'''exec' "{python}" -IS "$0" "$@"
' '''
"""


def encrypted(content: bytes, data_key: bytes = DATA_KEY) -> bytes:
    """Encrypt *content* with cryptography's Fernet class, and prepend the header."""
    return artifacts.encrypted(content, data_key, ENCRYPTED_KEY)


def zipped(files: dict[str, bytes | str], executable: tuple[str, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            kind = stat.S_IFDIR if name.endswith("/") else stat.S_IFREG
            info.external_attr = (kind | (0o755 if name in executable else 0o644)) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return buffer.getvalue()


@dataclass
class Enclave:
    """A directory with the emulated kmstool in it, and the decryptor's command."""

    home: Path

    @property
    def tool(self) -> Path:
        """The emulated kmstool."""
        return self.home / "bin/kmstool_enclave_cli"

    def artifact(self, content: bytes) -> Path:
        """Encrypt *content*, a zip, where the host would put it."""
        path = self.home / "application_code.zip.encrypted"
        path.write_bytes(encrypted(content))
        return path

    def environment(self, **settings: str) -> dict[str, str]:
        """Return the environment of an enclave's entry point, with *settings*."""
        paths = {"PATH": f"{self.tool.parent}:{os.environ['PATH']}", "TMPDIR": str(self.home)}
        return {**paths, **CREDENTIALS, **settings}

    def command(self, verb: str, artifact: Path, *words: str) -> list[str]:
        """Return the command line of *verb*."""
        return [sys.executable, str(ENVELOPE_DECRYPTOR), verb, "-f", str(artifact), *words]

    def decrypt(
        self, artifact: Path, *words: str, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Decrypt into `tree`, with `--key-id` unless *words* have an option for the key."""
        pin = () if {"--any-key", "--key-id"} & set(words) else PIN
        command = self.command("decrypt", artifact, "-d", str(self.home / "tree"), *pin, *words)
        return self._finished(command, settings)

    def decrypt_to_small_files(self, artifact: Path) -> subprocess.CompletedProcess[str]:
        """Decrypt into `tree`, where files are limited to 1000 blocks of 512 bytes."""
        command = self.command("decrypt", artifact, "-d", str(self.home / "tree"), *PIN)
        limited = ["sh", "-c", 'ulimit -f 1000; exec "$@"', "sh", *command]
        return self._finished(limited, {})

    def start(self, artifact: Path, **settings: str) -> subprocess.Popen[str]:
        """Start to decrypt into `tree`, in the background."""
        return subprocess.Popen(
            self.command("decrypt", artifact, "-d", str(self.home / "tree"), *PIN),
            env=self.environment(**settings),
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, artifact: Path, *guest: str, stdin: str = "", **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run *guest*, a script of the artifact and its arguments."""
        command = self.command("run", artifact, *PIN, "--", *guest)
        return self._finished(command, settings, stdin)

    def _finished(
        self, command: list[str], settings: dict[str, str], stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        if command[0] == sys.executable:
            return forked.run(command, env=self.environment(**settings), input=stdin)
        return subprocess.run(
            command,
            env=self.environment(**settings),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def calls(self) -> list[list[str]]:
        """Return the arguments of each call to kmstool."""
        record = self.tool.with_name("calls")
        return [ast.literal_eval(line) for line in record.read_text().splitlines()]

    def requests(self) -> int:
        """Return how often KMS was called."""
        record = self.tool.with_name("asked")
        return len(record.read_text().splitlines()) if record.exists() else 0

    def left_behind(self) -> set[str]:
        """Return the names that were not there at first."""
        return {path.name for path in self.home.iterdir()} - {
            "bin",
            "application_code.zip.encrypted",
        }


def install(home: Path) -> Enclave:
    """Install the emulated kmstool, and the key it releases, into *home*."""
    made = Enclave(home)
    made.tool.parent.mkdir()
    program = Path(__file__).with_name("kmstool.py").read_text()
    made.tool.write_text(SHEBANG.format(python=sys.executable) + program)
    made.tool.chmod(0o755)
    made.tool.with_name("kms").write_text(f"{base64.b64encode(DATA_KEY).decode()}\n{KEY_ARN}\n")
    return made


def one_error(result: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """Return the one line of error that *result* must have failed with."""
    lines = result.stderr.splitlines()
    assert result.returncode == status, result
    assert result.stdout == ""
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]
