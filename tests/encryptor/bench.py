"""A test bench for the encryptor: a directory to encrypt, an output directory, an emulated KMS."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import artifacts, forked
from tests.support.paths import ENVELOPE_ENCRYPTOR
from tests.support.processes import PATIENCE

if TYPE_CHECKING:
    from tests.support.kms import KmsServer

KEY = "alias/enclavekey"
TOKEN = re.compile(rb"[\w-]+={0,2}", re.ASCII)
CHUNK = 8 * 0xFFFF  # bytes; a longer file is followed by a data descriptor


@dataclass(frozen=True)
class Bench:
    """One encryptor's environment."""

    kms: KmsServer
    directory: Path
    artifact: Path

    def command(self, *options: str) -> list[str]:
        """Return the command line that encrypts the directory."""
        program = [sys.executable, str(ENVELOPE_ENCRYPTOR), "encrypt"]
        return [*program, "-d", str(self.directory), "-k", KEY, "-o", str(self.artifact), *options]

    def encrypt(
        self, prefix: tuple[str, ...] = (), *options: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the encryptor to its end, after *prefix*; an empty variable is removed."""
        variables = {k: v for k, v in (self.kms.environment | environment).items() if v}
        if not prefix:
            return forked.run(self.command(*options), env=variables, cwd=self.artifact.parent)
        return subprocess.run(
            [*prefix, *self.command(*options)],
            env=variables,
            cwd=self.artifact.parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    def start(self) -> subprocess.Popen[str]:
        """Start the encryptor in the background."""
        return subprocess.Popen(
            self.command(),
            env=self.kms.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def encrypted(self, *options: str, **environment: str) -> bytes:
        """Encrypt the directory, which must succeed, and return the zip."""
        result = self.encrypt((), *options, **environment)
        assert (result.returncode, result.stderr) == (0, "")
        return self.decrypted()

    def decrypted(self) -> bytes:
        """Return the zip in the artifact, decrypted by cryptography's own Fernet class."""
        artifact = self.artifact.read_bytes()
        encrypted_key, token = artifacts.parts(artifact)
        assert TOKEN.fullmatch(token)  # Fernet would ignore what is not base64
        return artifacts.decrypted(artifact, self.kms.keys[encrypted_key])

    def contents(self, *options: str, **environment: str) -> dict[str, bytes]:
        """Encrypt the directory and return contents by name, read by zipfile."""
        return artifacts.contents(self.encrypted(*options, **environment))

    def refused(self, result: subprocess.CompletedProcess[str]) -> str:
        """Return the one line of error; the failure must leave nothing else."""
        assert result.returncode == 1
        assert result.stdout == ""
        assert self.leftovers() == []
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert line.count(": ") >= 2, "what failed, why, what to do"
        return line

    def leftovers(self) -> list[str]:
        """Return the names in the output directory."""
        return sorted(path.name for path in self.artifact.parent.iterdir())

    def unfinished(self, pid: int) -> Path | None:
        """Return the unnamed file that a process is writing, if there is one."""
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if path.readlink().name.endswith(" (deleted)"):
                    return path
        return None


def write(root: Path, tree: dict[str, bytes]) -> None:
    """Create files and their directories; a name that ends with a slash is a directory."""
    for name, content in tree.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
