#!/usr/bin/env python3
"""Decrypt an envelope-encrypted application inside an enclave, and run a script from it.

    envelope_decryptor.py decrypt -f FILE -d DIR --key-id ARN
    envelope_decryptor.py run -f FILE --key-id ARN -- SCRIPT [ARG...]

    artifact ─► header ─► kmstool_enclave_cli ─► data key
        └─► base64 ─► private copy of the token ─► HMAC        pass 1: nothing is parsed before
                                                               the HMAC over all of it matches
    private copy ─► any block decrypted in place ─► zip members ─► files                pass 2

This file is the command: arguments, signals, and errors as one line. The work is done in the
folder `decryptor/` next to it, which must be copied along with it.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # Python puts a program's folder on its path by itself, but not with -P or -I.
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
    # Before anything else is loaded, so that an interrupt during loading is also one line.
    from decryptor import signals, system

    signals.handle()
    system.open_standard_streams()

import argparse
from functools import partial
from typing import TYPE_CHECKING

from decryptor import options

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "envelope_decryptor.py"


def _parser() -> argparse.ArgumentParser:
    parser = options.Parser(
        prog=PROGRAM, description="Decrypt an envelope-encrypted application.", allow_abbrev=False
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", required=True)
    add_verb = partial(
        verbs.add_parser,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verb = add_verb(
        "decrypt",
        help="decrypt it into a new directory",
        description="Decrypt an artifact into a new directory.",
    )
    _add_artifact(verb)
    verb.add_argument("-d", dest="directory", required=True, metavar="DIR", help="a new directory")
    pin = f"--key-id \\\n   {options.ARN}"
    verb.epilog = f"example:\n  {PROGRAM} decrypt -f app.encrypted -d tree {pin}"
    verb = add_verb(
        "run",
        help="run a script from it, and leave nothing behind",
        description="Decrypt an artifact, run a script from it, and leave nothing behind.",
    )
    _add_artifact(verb)
    verb.epilog = (
        "-- SCRIPT [ARG...]: a file inside the artifact, and its arguments\n\n"
        f"example:\n  {PROGRAM} run -f app.encrypted {pin} \\\n   -- print-hello.py"
    )
    return parser


def _add_artifact(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "-f", dest="file", required=True, metavar="FILE", help="the artifact: a file or a pipe"
    )
    options.add_options(verb)


def _arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, Sequence[str]]:
    """Parse the command line; everything after `--` is passed to the script unchanged."""
    cut = argv.index("--") if "--" in argv else len(argv)
    script = argv[cut + 1 :]
    parser = _parser()
    arguments = parser.parse_args(argv[:cut])
    if bool(script) != (arguments.verb == "run"):
        parser.error("run requires -- SCRIPT [ARG...], and decrypt does not take it")
    options.settle_region(parser, arguments)
    return arguments, script


def _work(arguments: argparse.Namespace, script: Sequence[str]) -> int:
    from pathlib import Path

    from decryptor.token import Artifact

    source = options.key_source(arguments, os.environ)
    limits = options.limits(arguments)
    with Artifact.opened(Path(arguments.file), arguments.timeout) as artifact:
        if arguments.verb == "decrypt":
            from decryptor.tree import decrypt

            decrypt(artifact, Path(arguments.directory), source.unwrap, limits)
            return 0
        from decryptor.script import run

        return run(artifact, script, source.unwrap, limits)


def main(argv: Sequence[str]) -> int:
    """Run the command line *argv* and return its exit status."""
    from decryptor import system
    from decryptor.errors import reason

    if argv[:1] == ["--version"]:
        from decryptor import VERSION

        print(f"{PROGRAM} {VERSION}")
        return 0
    arguments, script = _arguments(argv)
    try:
        system.write_no_core()
        return _work(arguments, script)
    except OSError as error:
        return options.complain(f"{error.filename or arguments.file}: {error.strerror or error}")
    except Exception as error:  # noqa: BLE001 - a bug is reported in one line, too
        return options.complain(f"{arguments.file}: {reason(error)}")


def _flush() -> None:
    """Flush standard output; its reader may have closed it."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would report the error at exit


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    finally:
        _flush()
