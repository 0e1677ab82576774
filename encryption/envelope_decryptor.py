#!/usr/bin/env python3
"""Decrypt an envelope-encrypted application inside an enclave, and run a script of it.

    envelope_decryptor.py decrypt -f FILE -d DIR --key-id ARN
    envelope_decryptor.py run -f FILE --key-id ARN -- SCRIPT [ARG...]

    artifact ─► header ─► kmstool_enclave_cli ─► data key
        └─► base64 ─► private copy of the token ─► HMAC        pass 1: nothing is parsed before
                                                               the HMAC over all of it matches
    private copy ─► any block decrypted in place ─► zip members ─► files                pass 2

This file is the command: arguments, signals, one line for an error. The work is done in
`decryptor/`, the folder beside it, which has to come along.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # Python puts a program's folder on its path by itself, but not with -P or -I.
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
    # Before all else is loaded, so that an interrupt then is one line, too.
    from decryptor import signals, system

    signals.handle()
    system.open_standard_streams()

import argparse
import contextlib
import re
from functools import partial
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "envelope_decryptor.py"
ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
PORT_MAX = 65_535  # the tool cuts larger numbers to 16 bits, and connects elsewhere
TIMEOUT_MAX = 86_400  # seconds: a day
REGION = re.compile(r"[a-z0-9-]+")
KEY_ARN = re.compile(r"arn:aws[a-z-]*:kms:([a-z0-9-]+):[0-9]{12}:key/[A-Za-z0-9-]+")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, whatever was typed."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_complain(f"{message}: see {self.prog} --help", status=2))


def _complain(message: str, status: int = 1) -> int:
    """Write *message* as one line of standard error and return *status*."""
    from decryptor.errors import printable

    with contextlib.suppress(OSError):  # there is nobody left to complain to
        os.write(2, f"error: {printable(message)}\n".encode(errors="backslashreplace"))
    return status


def _port(text: str) -> int:
    return _number(text, 1, PORT_MAX)


def _count(text: str) -> int:
    return _number(text, 0, sys.maxsize)


def _number(text: str, least: int, most: int) -> int:
    if not re.fullmatch("[0-9]{1,20}", text) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number from {least} to {most}")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= TIMEOUT_MAX:  # not a number is not above 0 either
            return float(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not above 0 and up to {TIMEOUT_MAX}")


def _moment(text: str) -> float:
    """Return ISO 8601 as seconds since 1970; without an offset it means UTC."""
    from datetime import UTC, datetime

    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a time, as 2026-11-28T12:00:00Z is")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM, description="Decrypt an envelope-encrypted application.", allow_abbrev=False
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", required=True)
    add_verb = partial(
        verbs.add_parser,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verb = add_verb("decrypt", help="decrypt it into a new directory")
    _add_options(verb)
    verb.add_argument("-d", dest="directory", required=True, metavar="DIR", help="to create")
    verb.epilog = f"example:\n  {PROGRAM} decrypt -f app.encrypted -d tree --key-id \\\n    {ARN}"
    verb = add_verb("run", help="run a script from it; leave nothing")
    _add_options(verb)
    verb.epilog = (
        "-- SCRIPT [ARG...]: a file inside the artifact, and what it is called with\n\n"
        f"example:\n  {PROGRAM} run -f app.encrypted --key-id \\\n    {ARN} -- print-hello.py"
    )
    return parser


def _add_options(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("-f", dest="file", required=True, metavar="FILE", help="the artifact: a file or a pipe")
    key = verb.add_mutually_exclusive_group(required=True)
    key.add_argument("--key-id", metavar="ARN", help="the only KMS key that may decrypt it")
    key.add_argument("--any-key", action="store_true", help="accept whatever key KMS finds")
    add(
        "--not-before",
        metavar="TIME",
        type=_moment,
        default=0.0,
        help=("refuse what was encrypted earlier; ISO 8601, without an offset UTC"),
    )
    add("--kmstool", metavar="PATH", default="kmstool_enclave_cli", help="(%(default)s)")
    add("--region", help="of the key; default: the ARN's, else AWS_REGION, AWS_DEFAULT_REGION")
    add("--proxy-port", metavar="N", type=_port, default=8000, help="of vsock (%(default)s)")
    add(
        "--timeout",
        metavar="S",
        type=_seconds,
        default=60,
        help=("seconds that a call of kmstool may take, or a pipe be silent (%(default)s)"),
    )
    add("--max-bytes", metavar="N", type=_count, help="the tree may have (default: what fits)")
    add("--max-members", metavar="N", type=_count, default=1_000_000, help="(%(default)s)")


def _arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, Sequence[str]]:
    """Parse the command line; what stands behind `--` is the script's, untouched."""
    cut = argv.index("--") if "--" in argv else len(argv)
    script = argv[cut + 1 :]
    parser = _parser()
    arguments = parser.parse_args(argv[:cut])
    if bool(script) != (arguments.verb == "run"):
        parser.error("run, and only run, takes -- SCRIPT [ARG...]")
    pinned = KEY_ARN.fullmatch(arguments.key_id or "")
    if arguments.key_id is not None and not pinned:
        parser.error("--key-id takes a key's ARN, arn:aws:kms:REGION:ACCOUNT:key/ID, not an alias")
    if pinned and arguments.region and arguments.region != pinned[1]:
        parser.error(
            f"--region {arguments.region} contradicts --key-id, whose region is {pinned[1]}: "
            "leave --region out"
        )
    arguments.region = (
        arguments.region
        or (pinned and pinned[1])
        or os.environ.get("AWS_REGION")
        or os.environ.get("AWS_DEFAULT_REGION")
    )
    if not arguments.region:
        parser.error("--any-key names no region: give --region, or set AWS_REGION")
    if not REGION.fullmatch(arguments.region):
        parser.error(f"{arguments.region!r} is not the name of a region, as eu-central-1 is")
    return arguments, script


def _work(arguments: argparse.Namespace, script: Sequence[str]) -> int:
    from pathlib import Path

    from decryptor.archive import Limits
    from decryptor.kmstool import Kmstool
    from decryptor.token import Artifact

    tool = Kmstool(
        path=arguments.kmstool,
        region=arguments.region,
        proxy_port=arguments.proxy_port,
        timeout=arguments.timeout,
        key_id=arguments.key_id,
        credentials=os.environ,
    )
    limits = Limits(arguments.max_bytes, arguments.max_members, arguments.not_before)
    with Artifact.opened(Path(arguments.file), arguments.timeout) as artifact:
        if arguments.verb == "decrypt":
            from decryptor.tree import decrypt

            decrypt(artifact, Path(arguments.directory), tool.unwrap, limits)
            return 0
        from decryptor.script import run

        return run(artifact, script, tool.unwrap, limits)


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
        return _complain(f"{error.filename or arguments.file}: {error.strerror or error}")
    except Exception as error:  # noqa: BLE001 - a defect is one line, too
        return _complain(f"{arguments.file}: {reason(error)}")


def _flush() -> None:
    """Write what was printed; whoever should have read it may have gone."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where Python itself would complain


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    finally:
        _flush()
