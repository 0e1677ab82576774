"""Download an artifact from S3 and verify its SHA-256.

The expected SHA-256 is that of --sha256, which the owner's build prints, else
the one in the object's metadata, else the one that S3 verified. The file
appears whole and verified, or not at all. Only the enclave can determine
whether the artifact is the owner's: the key authenticates it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generator import terminal
from generator.errors import GeneratorError
from generator.services import aws

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from generator.services.stored import Stored

EXAMPLES = """\
  application-encryptor receive \\
      s3://bucket/encrypted/application_code.zip.encrypted
  application-encryptor receive s3://bucket/name -o artifact --sha256 \\
      9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
"""
CHUNK = 1 << 20
STANDARD_OUTPUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("address", metavar="s3://BUCKET/NAME", help="the owner's ArtifactUri")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="default: the last part of the object's name; - is standard output",
    )
    parser.add_argument("--sha256", metavar="DIGITS", type=_digest, help="the expected SHA-256")
    parser.add_argument(
        "--unverified", action="store_true", help="download even if no SHA-256 is known"
    )
    parser.add_argument(
        "--version-id", metavar="ID", help="a version of the object; default: the newest"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    aws.add_arguments(parser)


def _digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text} is not 64 hexadecimal digits")
    return text.lower()


def run(options: argparse.Namespace) -> int:
    """Download and verify; no file if anything fails."""
    from generator.services import stored

    _, name = stored.split(options.address)
    to_pipe = options.output == STANDARD_OUTPUT
    if to_pipe and options.format == "json":
        raise GeneratorError("-o - and --format json: both use standard output: choose one")
    target = None if to_pipe else Path(options.output or name.rpartition("/")[2])
    if target and (not target.name or (target.exists() and not target.is_file())):
        raise GeneratorError(f"{target}: is not a regular file: choose another -o")
    with aws.failures(options.address):
        s3 = aws.Account(options).client("s3")
        there = stored.describe(s3, options.address, options.version_id)
        expected = options.sha256 or there.sha256
        if not expected and not options.unverified:
            raise GeneratorError(
                f"{options.address}: its SHA-256 is neither in its metadata nor known to S3: pass "
                "--sha256 with the digits that the owner's build printed, or --unverified"
            )
        received = _download(s3, there, target, expected)
    if target:
        facts = {"file": str(target), "sha256": received, "verified": bool(expected)}
        _report(options, there, facts)
    return 0


def _download(
    s3: Any,  # noqa: ANN401 - boto3's
    there: Stored,
    target: Path | None,
    expected: str | None,
) -> str:
    """Store *there* as *target*, whole and with the *expected* SHA-256; return its SHA-256."""
    room = shutil.disk_usage(target.parent if target else tempfile.gettempdir()).free
    if there.size > room:
        raise GeneratorError(
            f"{target or 'temporary file'}: needs {there.size:,} bytes, but {room:,} are free: "
            "free some space"
        )
    with _piped() if target is None else _replacing(target) as file:
        with terminal.progress(f"receiving {there.name}", there.size) as advance:
            # Several ranges at a time; boto3 asks for one and the same object by its ETag.
            version = {"VersionId": there.version} if there.version else {}
            s3.download_fileobj(
                there.bucket, there.name, file, ExtraArgs=version or None, Callback=advance
            )
        received = _sha256(file, f"verifying {there.name}", there.size)
        if expected and received != expected:
            raise GeneratorError(
                f"{there.address}: SHA-256 is {received}, not {expected}: ask the owner which one "
                "is right; nothing was kept"
            )
    return received


@contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    """Yield a file that becomes *target* at the end, or is removed."""
    draft = target.with_name(f".{os.urandom(8).hex()}")  # its own name may be the longest
    try:
        with draft.open("xb+") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _piped() -> Iterator[IO[bytes]]:
    """Yield a temporary file that is copied to standard output at the end, once it is verified."""
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        shutil.copyfileobj(file, sys.stdout.buffer, CHUNK)
        sys.stdout.flush()


def _sha256(file: IO[bytes], what: str, size: int) -> str:
    import hashlib

    digest = hashlib.sha256()
    file.seek(0)
    with terminal.progress(what, size) as advance:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def _report(options: argparse.Namespace, there: Stored, found: dict[str, Any]) -> None:
    facts = {**found, "size": there.size, "version_id": there.version, "metadata": there.metadata}
    if options.format == "json":
        print(json.dumps(facts, indent=2))
        return
    rows = [
        ("file", found["file"]),
        ("size", f"{there.size:,} bytes"),
        ("SHA-256", f"{found['sha256']}, {'as expected' if found['verified'] else 'not verified'}"),
        ("version", there.version),
        *((f"metadata {name}", value) for name, value in sorted(there.metadata.items())),
    ]
    sys.stdout.write(terminal.aligned((name, value) for name, value in rows if value))
