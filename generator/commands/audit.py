"""Report who decrypted with a key, and who changed it, from CloudTrail.

Lists every decryption with the key: when, by whom, with which enclave image,
whether that image was bound at the time, whether it ran in debug mode, and
whether anything was attested at all. Also lists every change of the key's
policy, grants and aliases.

The events come from CloudTrail's event history in the key's region (90 days),
or from the files that a trail delivers. The bound images are taken from the
key policies in the events, else from the key's present policy; --images
names them instead.

Status 1: there was a decryption that no bound image attested, or for which
that cannot be determined.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from generator import output, terminal
from generator.errors import GeneratorError
from generator.services import aws

if TYPE_CHECKING:
    from generator.audit.judgement import Audit

EXAMPLES = """\
  application-encryptor audit --key \\
      arn:aws:kms:eu-west-1:111122223333:key/1234abcd-…
  application-encryptor audit --key ARN --days 7 --format html -o audit.html
  application-encryptor audit --key ARN --from AWSLogs/ --images application.eif
"""
HISTORY_DAYS = 90


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "--key", required=True, metavar="ARN", help="the key: the stack's output EnclaveKeyARN"
    )
    parser.add_argument(
        "--days",
        type=_days,
        metavar="N",
        help=f"how many days to look back; default: {HISTORY_DAYS}, or everything with --from",
    )
    parser.add_argument(
        "--from",
        dest="files",
        nargs="+",
        action="extend",
        metavar="FILE",
        help="a trail's files or folders, or the output of aws cloudtrail lookup-events;"
        " - is standard input",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        action="extend",
        metavar="IMAGE",
        help="the bound images: PCR0s, .eif files, or nitro-cli's JSON",
    )
    output.add_arguments(parser)
    aws.add_arguments(parser)


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 36_500:  # noqa: PLR2004 - a century
        raise argparse.ArgumentTypeError(f"{text} is not a number of days from 1 to 36500")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Audit; status 0 if every decryption is known to be attested by a bound image, else 1."""
    from generator.audit import judgement, report
    from generator.explain.live_key import KEY_ARN
    from generator.images import golden

    if not KEY_ARN.fullmatch(options.key):
        raise GeneratorError(
            f"{options.key}: is not the ARN of a KMS key: copy the stack's output EnclaveKeyARN"
        )
    if not options.files and (options.days or 0) > HISTORY_DAYS:
        raise GeneratorError(
            f"--days {options.days}: CloudTrail's event history has only {HISTORY_DAYS} days: "
            "add --from with a trail's files"
        )
    bound = [pcr0 for each in options.images or () for pcr0 in golden.pcr0s(each)]
    now = datetime.now(UTC)
    days = options.days or (None if options.files else HISTORY_DAYS)
    audit = judgement.Audit(options.key, now - timedelta(days=days) if days else None, now)
    judge = _from_files if options.files else _from_history
    judge(options, audit, set(bound) if options.images else None)
    output.show(
        options,
        text=lambda out: report.print_text(audit, out),
        json=lambda: report.as_json(audit),
        html=lambda: report.page(audit),
    )
    return int(bool(audit.alarming or audit.undetermined))


def _from_files(options: argparse.Namespace, audit: Audit, bound: set[str] | None) -> None:
    from generator.audit import judgement, trail

    with terminal.counting("events read") as count:
        events = (event for name in options.files for event in trail.read(name, count))
        judgement.judge(events, audit, bound, policy=None)


def _from_history(options: argparse.Namespace, audit: Audit, bound: set[str] | None) -> None:
    from botocore.exceptions import ClientError

    from generator.audit import judgement, trail

    with aws.failures(options.key):
        account = aws.Account(options, options.key)
        policy = None
        if bound is None:
            try:
                found = account.client("kms").get_key_policy(KeyId=options.key)
                policy = found["Policy"]
            except ClientError as error:
                if aws.code(error) == "NotFoundException":  # it would have no events either
                    raise GeneratorError(
                        "KMS has no such key: check the ARN; if the key was deleted, add --images"
                    ) from error
                if aws.code(error) != "AccessDeniedException":
                    raise
                terminal.warn(f"the key's policy cannot be read ({aws.code(error)}): pass --images")
        with terminal.counting("events read") as count:
            cloudtrail = account.client("cloudtrail", patient=True)
            events = trail.lookup(cloudtrail, options.key, audit.since, count)
            judgement.judge(events, audit, bound, policy)
