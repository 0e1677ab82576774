"""Programs that encrypt a directory or decrypt an artifact: ours, the classic one, and others."""

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks.measure import Contenders, Run, measured
from tests.support.kms import KmsServer

ROOT = Path(__file__).parents[1]
ENCRYPTOR = ROOT / "encryption/envelope_encryptor.py"
DECRYPTOR = ROOT / "encryption/envelope_decryptor.py"
WHOLE_FILE = "whole file"
OURS, UNACCELERATED, AGE = "ours", "ours, unaccelerated", "tar | age"
WITHOUT_ACCELERATORS = """
import runpy, sys
sys.modules["isal"] = sys.modules["pybase64"] = None
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def encrypting(source: Path, work: Path, environment: Mapping[str, str]) -> Contenders:
    """Return commands that encrypt *source*; each leaves nothing in *work*. `cp` is the floor."""
    output = work / "output"
    encrypt = _encrypt(source, output)
    classic = ["-m", "benchmarks.whole_file", "encrypt", str(source), "alias/k", str(output)]
    tar = ["tar", "-C", str(source), "-c", "."]
    pipes = {
        WHOLE_FILE: [[sys.executable, *classic]],
        OURS: [[sys.executable, *encrypt]],
        UNACCELERATED: [[sys.executable, "-c", WITHOUT_ACCELERATORS, *encrypt]],
        "tar": [[*tar, "-f", str(output)]],
        "cp": [["cp", "-rT", str(source), str(output)]],
    }
    if shutil.which("age"):
        identity = subprocess.run(["age-keygen"], check=True, capture_output=True, text=True)
        recipient = identity.stderr.split()[-1]
        pipes[AGE] = [tar, ["age", "-r", recipient, "-o", str(output)]]
    return {
        name: partial(_cleaned, output, *pipe, environment=environment)
        for name, pipe in pipes.items()
    }


def encrypted(
    source: Path, artifact: Path, kms: KmsServer, *, watched: bool = False
) -> tuple[Run, bytes]:
    """Encrypt *source* into *artifact* with our program; return measurement and data key."""
    command = [sys.executable, *_encrypt(source, artifact)]
    run = measured(command, environment=kms.environment, watched=watched)
    with artifact.open("rb") as file:
        return run, kms.keys[file.read(int.from_bytes(file.read(4), "big"))]


def _encrypt(source: Path, output: Path) -> list[str]:
    return [str(ENCRYPTOR), "encrypt", "-d", str(source), "-k", "alias/k", "-o", str(output)]


def decrypting(artifact: Path, data_key: bytes, work: Path) -> Contenders:
    """Return commands that decrypt *artifact*; each leaves nothing in *work*."""
    output, tool = work / "output", work / "kmstool"
    tool.write_text(f'#!/bin/sh\necho "PLAINTEXT: {base64.b64encode(data_key).decode()}"\n')
    tool.chmod(0o700)
    words = ["decrypt", "-f", str(artifact), "-d", str(output), "--kmstool", str(tool)]
    decrypt = [str(DECRYPTOR), *words, "--any-key", "--region", "none"]
    token_key = base64.urlsafe_b64encode(data_key).decode()
    classic = ["-m", "benchmarks.whole_file", "decrypt", str(artifact), str(output), token_key]
    pipes = {
        WHOLE_FILE: [[sys.executable, *classic]],
        OURS: [[sys.executable, *decrypt]],
        UNACCELERATED: [[sys.executable, "-c", WITHOUT_ACCELERATORS, *decrypt]],
    }
    credentials = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    environment = os.environ | dict.fromkeys(credentials, "none")
    return {
        name: partial(_cleaned, output, *pipe, environment=environment)
        for name, pipe in pipes.items()
    }


def starting() -> Contenders:
    """Return commands that only start up: the programs' help, and a Python that does nothing."""
    programs = {
        "python -c pass": ["-c", "pass"],
        "encryptor --help": [str(ENCRYPTOR), "--help"],
        "decryptor --help": [str(DECRYPTOR), "--help"],
    }
    return {name: partial(measured, [sys.executable, *words]) for name, words in programs.items()}


def _cleaned(output: Path, *pipe: list[str], environment: Mapping[str, str], watched: bool) -> Run:
    """Run *pipe*, then remove what it wrote, so that each run starts with empty memory."""
    result = measured(*pipe, environment=environment, watched=watched)
    if output.is_dir():
        shutil.rmtree(output)
    output.unlink(missing_ok=True)
    return result
