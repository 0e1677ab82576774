"""The project's own commands, as a user types them: verbs in this process, scripts outside."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from generator import command_line, terminal
from generator.errors import GeneratorError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conformance.run import Party

PROJECT: Final = Path(__file__).resolve().parent.parent
BINDER: Final = PROJECT / "scripts" / "bind_enclave_image.py"
EXTRACTOR: Final = PROJECT / "scripts" / "extract_decryption_key.py"
UPLOADER: Final = PROJECT / "encryption" / "artifact_uploader.py"
CLIENT: Final = PROJECT / "enclave" / "client.py"
FAILED: Final = "error: "


def verb(party: Party, *arguments: str | Path) -> tuple[int, Any]:
    """Run a verb of application-encryptor as *party*; return its status and its JSON.

    In this process: an interrupt then reaches the verb as if a user had typed it, and if the run
    is killed, no verb continues.

    Raises:
        GeneratorError: it fails.
    """
    typed = [*map(str, arguments), "--profile", party.profile, "--region", party.region]
    options = command_line.parser(typed[0]).parse_args([*typed, "--format", "json"])
    options.passed_on = []
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status: int = options.run(options)
    return status, json.loads(printed.getvalue())


def program(
    *command: str | Path, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> str:
    """Run a Python program of the project, and return what it prints.

    Raises:
        GeneratorError: it fails; the message is the program's.
    """
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    lines = result.stderr.splitlines()
    if result.returncode:
        errors = [line.removeprefix(FAILED) for line in lines if line.startswith(FAILED)]
        raise GeneratorError(errors[-1] if errors else f"status {result.returncode}: {lines[-1:]}")
    for line in lines:
        terminal.say(f"  {line}")
    return result.stdout
