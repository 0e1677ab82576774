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

import argparse
import contextlib
import os
import re
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

PORT_MAX = 65_535  # the tool cuts larger numbers to 16 bits, and connects elsewhere
TIMEOUT_MAX = 86_400  # seconds: a day
REGION = re.compile(r"[a-z0-9-]+")
KEY_ARN = re.compile(r"arn:aws[a-z-]*:kms:([a-z0-9-]+):[0-9]{12}:key/[A-Za-z0-9-]+")


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints stay on one line, whatever was typed."""

    def error(self, message: str) -> NoReturn:
        super().error(_printable(message))


def _printable(text: str) -> str:
    """Return *text* with everything escaped that could steer a terminal or begin a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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


def _parser() -> argparse.ArgumentParser:
    shared = _Parser(add_help=False)
    add = shared.add_argument
    add("-f", dest="file", required=True, metavar="FILE", help="the artifact")
    key = shared.add_mutually_exclusive_group(required=True)
    key.add_argument("--key-id", metavar="ARN", help="the only KMS key that may open it")
    key.add_argument("--any-key", action="store_true", help="open whatever KMS decrypts for us")
    add("--kmstool", metavar="PATH", default="kmstool_enclave_cli")
    add("--region", help="of the key; default: the ARN's, else AWS_REGION, AWS_DEFAULT_REGION")
    add("--proxy-port", metavar="N", type=_port, default=8000, help="of vsock (%(default)s)")
    add("--timeout", metavar="S", type=_seconds, default=60, help="seconds a try (%(default)s)")
    add("--max-bytes", metavar="N", type=_count, help="the tree may have (default: what fits)")
    add("--max-members", metavar="N", type=_count, default=1_000_000, help="(%(default)s)")
    parser = _Parser(description="Decrypt an envelope-encrypted application.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser(
        "decrypt", parents=[shared], allow_abbrev=False, help="decrypt it into a new directory"
    )
    verb.add_argument("-d", dest="directory", required=True, metavar="DIR")
    verb = verbs.add_parser(
        "run", parents=[shared], allow_abbrev=False, help="run a script from it; leave nothing"
    )
    verb.epilog = "-- SCRIPT [ARG...]: a file inside the artifact, and what it is called with"
    return parser


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

    tool = Kmstool(
        path=arguments.kmstool,
        region=arguments.region,
        proxy_port=arguments.proxy_port,
        timeout=arguments.timeout,
        key_id=arguments.key_id,
        credentials=os.environ,
    )
    limits = Limits(arguments.max_bytes, arguments.max_members)
    if arguments.verb == "decrypt":
        from decryptor.tree import decrypt

        decrypt(Path(arguments.file), Path(arguments.directory), tool.unwrap, limits)
        return 0
    from decryptor.script import run
    from decryptor.token import Artifact

    with open(arguments.file, "rb") as file:  # noqa: PTH123
        return run(Artifact.of_file(file), script, tool.unwrap, limits)


def main(argv: Sequence[str]) -> int:
    """Run the command line *argv* and return its exit status."""
    from decryptor import signals
    from decryptor.errors import DecryptorError

    arguments, script = _arguments(argv)
    signals.handle()
    try:
        return _work(arguments, script)
    except DecryptorError as error:
        print(f"error: {arguments.file}: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename or arguments.file}: {error.strerror}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    # Python puts a program's folder on its path by itself, but not with -P or -I.
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
    sys.exit(main(sys.argv[1:]))
