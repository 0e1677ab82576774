"""Show what an artifact reveals without its key.

Its header, its size, when it was encrypted, whether its token is well formed,
and its SHA-256; for an object in S3 also the metadata. None of that is
authenticated: only the key, in the enclave, proves what an artifact is.

Of an object larger than 64 MiB only the beginning and the end are read, unless
--all is given.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generator import terminal
from generator.errors import GeneratorError
from generator.services import aws

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import BinaryIO

    from generator.artifact import Artifact
    from generator.services.stored import Stored

EXAMPLES = """\
  application-encryptor inspect application_code.zip.encrypted
  application-encryptor inspect \\
      s3://bucket/encrypted/application_code.zip.encrypted
"""
WHOLE_BYTES = 64 << 20
"""An object up to this size is read whole: a few seconds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "artifact", metavar="FILE|s3://…", help="a file or an object in S3; - is standard input"
    )
    parser.add_argument(
        "--all", action="store_true", help="read the whole object, whatever its size"
    )
    parser.add_argument(
        "--version-id", metavar="ID", help="a version of the object; default: the newest"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    aws.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Inspect; status 1 if it is not a well-formed artifact."""
    name = options.artifact
    if name.startswith("s3://"):
        with aws.failures(name):
            found, stored = _in_s3(options)
    else:
        found, stored = _in_file(name), None
    facts = _facts(name, found, stored)
    if options.format == "json":
        print(json.dumps(facts, indent=2))
    else:
        _print_text(facts)
    if found.token.fault:
        return terminal.complain(f"{name}: not a well-formed artifact: {found.token.fault}")
    return 0


def _in_file(name: str) -> Artifact:
    from generator import artifact

    with _opened(name) as file, _about(name):
        size = Path(name).stat().st_size if name != "-" else None
        with terminal.progress(f"reading {name}", size) as advance:
            return artifact.read(file, advance)


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    if not Path(name).exists():
        raise GeneratorError(f"{name}: does not exist: name an artifact, or s3://BUCKET/NAME")
    with Path(name).open("rb") as file:
        yield file


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Prefix errors with the artifact's name."""
    try:
        yield
    except GeneratorError as error:
        raise GeneratorError(f"{name}: {error}") from error


def _in_s3(options: argparse.Namespace) -> tuple[Artifact, Stored]:
    from generator import artifact
    from generator.services import stored

    stored.split(options.artifact)
    s3 = aws.Account(options).client("s3")
    there = stored.describe(s3, options.artifact, options.version_id)
    with _about(options.artifact):
        if there.size > WHOLE_BYTES and not options.all:
            return stored.ends(s3, there), there
        body = s3.get_object(**there.where, IfMatch=there.etag)["Body"]
        with terminal.progress(f"reading {options.artifact}", there.size) as advance:
            return artifact.read(body, advance), there


def _facts(name: str, found: Artifact, stored: Stored | None) -> dict[str, Any]:
    """Return what is known, for JSON."""
    token = found.token
    encrypted_at = token.time if token.fault is None else None
    facts = {
        "artifact": name,
        "size": found.size,
        "sha256": found.sha256,
        "data_key_length": len(found.data_key),
        "kms_key": found.key,
        "well_formed": token.fault is None,
        "fault": token.fault,
        "whole": found.sha256 is not None,
        "encrypted_at": encrypted_at.isoformat() if encrypted_at else None,
        "ciphertext_length": token.ciphertext if token.fault is None else None,
    }
    if stored is None:
        return facts
    return facts | {
        "stored_at": stored.modified.isoformat(),
        "version_id": stored.version,
        "encryption": stored.encryption,
        "encryption_key": stored.encryption_key,
        "expected_sha256": stored.sha256,
        "metadata": stored.metadata,
    }


def _print_text(facts: dict[str, Any]) -> None:
    key = facts["kms_key"] or "a KMS key that the header does not name"
    if facts["fault"]:
        form = f"malformed: {facts['fault']}"
    elif facts["whole"]:
        form = f"well formed, {facts['ciphertext_length']:,} bytes of ciphertext"
    else:
        form = "well formed at its beginning and its end; --all reads the rest, too"
    rows: list[tuple[str, object]] = [
        ("artifact", facts["artifact"]),
        ("size", f"{facts['size']:,} bytes"),
        ("data key", f"{facts['data_key_length']} bytes, encrypted under {key}"),
        ("token", form),
        ("encrypted at", facts["encrypted_at"]),
        ("SHA-256", facts["sha256"]),
    ]
    if "metadata" in facts:
        by = facts["encryption_key"]
        rows += [
            ("stored at", facts["stored_at"]),
            ("version", facts["version_id"]),
            ("at rest", f"{facts['encryption']}{f', {by}' if by else ''}"),
            *((f"metadata {name}", value) for name, value in sorted(facts["metadata"].items())),
        ]
    sys.stdout.write(terminal.aligned((name, value) for name, value in rows if value is not None))
