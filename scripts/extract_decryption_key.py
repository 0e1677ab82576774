#!/usr/bin/env python3
"""Write an artifact's encrypted data key to a file, to check that KMS refuses to decrypt it.

On the parent instance, without attestation, this must answer AccessDeniedException:

    aws kms decrypt --ciphertext-blob fileb://data_key.encrypted --region REGION

A denial alone proves little, since a missing role policy has the same result: compare it with the
success of the same role from the attested image.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def end(number: int, _frame: FrameType | None) -> NoReturn:
    """End with one line; what has been written so far is removed."""
    for other in ENDING_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    name = signal.Signals(number).name
    sys.exit(complain(f"terminated by {name}, nothing is left behind", 128 + number))


def swallowed(what: sys.UnraisableHookArgs) -> None:
    """Exit although Python swallows exceptions in callbacks, such as those of the import system."""
    if isinstance(what.exc_value, SystemExit):
        os._exit(int(str(what.exc_value)))
    sys.__unraisablehook__(what)


def complain(message: str, status: int = 1) -> int:
    """Write *message* as one line to standard error, and return *status*."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
    try:
        os.write(2, f"error: {line}\n".encode(errors="backslashreplace"))
    except OSError:
        return status  # standard error is closed
    return status


if __name__ == "__main__":  # before the rest is loaded: an interrupt then is one line, too
    for ending in ENDING_SIGNALS:
        if signal.getsignal(ending) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(ending, end)
    sys.unraisablehook = swallowed

import argparse
import select
import stat
import tempfile
from pathlib import Path

VERSION = "0.2.0"  # as in pyproject.toml; the script may be copied alone, so a test compares them
LENGTH_FIELD = 4  # bytes, big-endian, before the encrypted data key
ENCRYPTED_KEY_MAX = 6144  # bytes: CiphertextBlob of the KMS API
PATIENCE = 60  # seconds that a pipe may be silent
EXAMPLE = """example:
  extract_decryption_key.py -f application_code.zip.encrypted \\
      -o data_key.encrypted
  aws kms decrypt --ciphertext-blob fileb://data_key.encrypted \\
      --region eu-west-1"""


class FormatError(Exception):
    """The file does not begin like an artifact."""


class Parser(argparse.ArgumentParser):
    """Reports what is wrong with the arguments in one line."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        sys.exit(complain(f"{message}: see {self.prog} --help", 2))


def encrypted_data_key(artifact: Path) -> bytes:
    """Return the encrypted data key that *artifact* begins with.

    Raises:
        FormatError: the length is not 1 to ENCRYPTED_KEY_MAX, or the file ends inside the key.
        OSError: it cannot be read, or is a pipe that stays silent.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer, perhaps forever.
    file = os.open(artifact, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise FormatError("is a directory: name the artifact in it")
        length = int.from_bytes(read(file, LENGTH_FIELD), "big")
        if not 1 <= length <= ENCRYPTED_KEY_MAX:
            raise FormatError(
                f"encrypted data key length is {length}, not 1 to {ENCRYPTED_KEY_MAX}: "
                "is this an application_code.zip.encrypted?"
            )
        key = read(file, length)
    finally:
        os.close(file)
    if len(key) < length:
        raise FormatError("the file ends inside the encrypted data key: copy it again")
    return key


def read(file: int, size: int) -> bytes:
    """Return *size* bytes, fewer only at the end.

    Raises:
        FormatError: it is a pipe, and silent for PATIENCE seconds.
    """
    data = b""
    while len(data) < size:
        if not select.select([file], [], [], PATIENCE)[0]:
            raise FormatError(f"no data arrived for {PATIENCE} s: is its writer still running?")
        part = os.read(file, size - len(data))
        if not part:
            break
        data += part
    return data


def replace(target: Path, content: bytes) -> None:
    """Make *content* the whole of *target*, or leave *target* as it was."""
    with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".data-key.") as work:
        written = Path(work) / "key"
        with written.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        written.replace(target)


def same(one: Path, other: Path) -> bool:
    """Return whether both exist and are the same file."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments."""
    parser = Parser(
        description="Write an artifact's encrypted data key to a file.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    artifact, key = Path("application_code.zip.encrypted"), Path("data_key.encrypted")
    add(
        "-f",
        dest="file",
        type=Path,
        metavar="FILE",
        default=artifact,
        help="the artifact; default: %(default)s",
    )
    add(
        "-o",
        dest="output",
        type=Path,
        metavar="FILE",
        default=key,
        help="where to write its encrypted data key; default: %(default)s",
    )
    add(
        "--version",
        action="version",
        version=f"%(prog)s {VERSION}",
        help="print the version and exit",
    )
    arguments = parser.parse_args(argv)
    if same(arguments.output, arguments.file):
        parser.error("-o names the artifact itself, which it would replace")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    arguments = parsed(argv)
    try:
        replace(arguments.output, encrypted_data_key(arguments.file))
    except FormatError as error:
        return complain(f"{arguments.file}: {error}")
    except OSError as error:
        return complain(f"{error.filename or arguments.file}: {error.strerror or error}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
