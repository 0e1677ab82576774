"""The options of `decrypt`, `run` and the server: what may be decrypted, and how.

They belong in an image's entry point, where PCR0 measures them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .archive import Limits
    from .attester import Attester
    from .kmstool import Kmstool

ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
PORT_MAX = 65_535  # the tool would cut a larger number to 16 bits and use another port
TIMEOUT_MAX = 86_400  # seconds: a day
REGION = re.compile(r"[a-z0-9-]+")
KEY_ARN = re.compile(r"arn:aws[a-z-]*:kms:([a-z0-9-]+):[0-9]{12}:key/[A-Za-z0-9-]+")


class Parser(argparse.ArgumentParser):
    """Reports what is wrong with the arguments in one line, whatever was typed."""

    def error(self, message: str) -> NoReturn:
        """End with the status of a usage error."""
        sys.exit(complain(f"{message}: see {self.prog} --help", status=2))


def complain(message: str, status: int = 1) -> int:
    """Write *message* as one line of standard error and return *status*."""
    from .errors import printable

    with contextlib.suppress(OSError):  # standard error is closed
        os.write(2, f"error: {printable(message)}\n".encode(errors="backslashreplace"))
    return status


def port(text: str) -> int:
    """Read a port number."""
    return number_of(text, 1, PORT_MAX)


def count(text: str) -> int:
    """Read a number that is not negative."""
    return number_of(text, 0, sys.maxsize)


def number_of(text: str, least: int, most: int) -> int:
    """Read a whole number within bounds."""
    if not re.fullmatch("[0-9]{1,20}", text) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number from {least} to {most}")
    return int(text)


def seconds(text: str) -> float:
    """Read a number of seconds."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= TIMEOUT_MAX:  # false for NaN, too
            return float(text)
    raise argparse.ArgumentTypeError(
        f"{text[:40]!r} is not a number of seconds above 0 and up to {TIMEOUT_MAX}"
    )


def moment_of(text: str) -> float:
    """Return ISO 8601 as seconds since 1970; without an offset it means UTC."""
    from datetime import UTC, datetime

    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if (seconds := (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) >= 0:
            return seconds
    raise argparse.ArgumentTypeError(
        f"{text[:40]!r} is not a time since 1970 like 2026-11-28T12:00:00Z"
    )


def add_options(verb: argparse.ArgumentParser) -> None:
    """Add all of them to the parser of a verb or of a program."""
    add = verb.add_argument
    key = verb.add_mutually_exclusive_group(required=True)
    key.add_argument("--key-id", metavar="ARN", help="the only KMS key that may decrypt artifacts")
    key.add_argument("--any-key", action="store_true", help="accept artifacts under any KMS key")
    add(
        "--not-before",
        metavar="TIME",
        type=moment_of,
        default=0.0,
        help="refuse artifacts that were encrypted earlier; ISO 8601, UTC unless it has an offset",
    )
    add(
        "--attest",
        choices=("kmstool", "nsm"),
        default="kmstool",
        help="how to get the data key: AWS's kmstool, or /dev/nsm directly; default: %(default)s",
    )
    add(
        "--kmstool",
        metavar="PATH",
        default="kmstool_enclave_cli",
        help="AWS's tool that calls KMS; default: %(default)s",
    )
    add(
        "--region", help="the key's region; default: the ARN's, else AWS_REGION, AWS_DEFAULT_REGION"
    )
    add(
        "--proxy-port",
        metavar="N",
        type=port,
        default=8000,
        help="vsock port of vsock-proxy on the parent; default: %(default)s",
    )
    add(
        "--timeout",
        metavar="S",
        type=seconds,
        default=60,
        help="seconds to wait for a call to KMS, or for data from a pipe; default: %(default)s",
    )
    add(
        "--max-bytes",
        metavar="N",
        type=count,
        help="largest size of the decrypted tree, in bytes; default: what the file system can hold",
    )
    add(
        "--max-members",
        metavar="N",
        type=count,
        default=1_000_000,
        help="largest number of files and directories in the tree; default: %(default)s",
    )


def settle_region(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Set the key's region in *arguments*: the ARN's, if a key is pinned.

    An invalid key ARN, and an invalid or contradicting region, are usage errors.
    """
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
        parser.error("--any-key needs a region: pass --region, or set AWS_REGION")
    if not REGION.fullmatch(arguments.region):
        parser.error(f"{arguments.region!r} is not the name of a region, like eu-central-1")


def key_source(arguments: argparse.Namespace, credentials: Mapping[str, str]) -> Kmstool | Attester:
    """Return how to ask KMS for a data key, with *credentials*.

    Raises:
        KeyReleaseError: a package that --attest nsm needs is missing.
    """
    if arguments.attest == "nsm":
        return _attester(arguments, credentials)
    from .kmstool import Kmstool

    return Kmstool(
        path=arguments.kmstool,
        region=arguments.region,
        proxy_port=arguments.proxy_port,
        timeout=arguments.timeout,
        key_id=arguments.key_id,
        credentials=credentials,
    )


def _attester(arguments: argparse.Namespace, credentials: Mapping[str, str]) -> Attester:
    from .errors import KeyReleaseError

    try:
        from .attester import Attester
    except ModuleNotFoundError as error:
        raise KeyReleaseError(
            f"--attest nsm needs {error.name}, which is not installed here: "
            "install requirements/enclave-nsm.txt, or use --attest kmstool"
        ) from error
    return Attester(
        region=arguments.region,
        proxy_port=arguments.proxy_port,
        timeout=arguments.timeout,
        key_id=arguments.key_id,
        credentials=credentials,
    )


def limits(arguments: argparse.Namespace) -> Limits:
    """Return the limits of a tree's size and of its artifact's age."""
    from .archive import Limits

    return Limits(arguments.max_bytes, arguments.max_members, arguments.not_before)
