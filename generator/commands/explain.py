"""Explain who can decrypt, and who can change that.

For a template, a key policy, the keys in a Terraform plan, or a key on AWS.
The status is 0 if it is proved that nobody decrypts without attesting a bound
image, if nobody outside the key's account controls the key, and, for a key on
AWS, if it does not differ from its stack's template and everything about it
could be read; else 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from generator.command_line import account_number

if TYPE_CHECKING:
    import argparse

    from generator.explain.report import Explanation

EXAMPLES = """\
  application-encryptor explain
  application-encryptor explain template.yaml --format html -o explain.html
  application-encryptor explain policy.json --owner 111122223333 \\
      --images image.eif
  application-encryptor explain --diff old.yaml new.yaml
  application-encryptor explain --key \\
      arn:aws:kms:eu-west-1:111122223333:key/1234abcd-…
  application-encryptor explain --stack code-for-them
"""
TEMPLATES = Path("templates")
USAGES = ("ENCRYPT_DECRYPT", "KEY_AGREEMENT", "SIGN_VERIFY", "GENERATE_VERIFY_MAC")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    from generator import output
    from generator.services import aws

    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="a template, a key policy or a Terraform plan; - is standard input;"
        " default: templates/Deploy-ApplicationEncryptor-Cfn.yaml",
    )
    what.add_argument(
        "--diff",
        nargs=2,
        metavar=("OLD", "NEW"),
        help="compare two documents: who gains or loses access",
    )
    what.add_argument(
        "--key", metavar="ARN", help="a key on AWS; its policy is compared with its stack's"
    )
    what.add_argument("--stack", metavar="NAME", help="the key of this stack")
    parser.add_argument(
        "--owner",
        type=account_number,
        metavar="ACCOUNT",
        help="with a key policy: the account that owns the key",
    )
    parser.add_argument(
        "--usage",
        choices=USAGES,
        metavar="KEY_USAGE",
        help="with a key policy: the key's usage; default: ENCRYPT_DECRYPT",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        action="extend",
        metavar="FILE",
        help="show which of these files each bound image is: .eif files or nitro-cli's output",
    )
    output.add_arguments(parser)
    aws.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Explain; status 0 if nobody decrypts unattested and nothing drifted."""
    if options.diff:
        return _differences(options)
    from dataclasses import replace

    found = replace(_explanation(options), files=_files(options.images or []))
    _print(options, found)
    return int(found.alarming)


def _explanation(options: argparse.Namespace) -> Explanation:
    from generator.explain import report
    from generator.parameters import ENCRYPTOR_TEMPLATE

    if not (options.key or options.stack):
        name = options.file or str(TEMPLATES / ENCRYPTOR_TEMPLATE)
        return report.explain(name, options.owner, options.usage)
    from generator.explain import live_key
    from generator.services import aws

    account = aws.Account(options, options.key)
    arn = options.key or live_key.key_of_stack(options.stack, account)
    return live_key.read_key(arn, account).explained()


def _files(names: list[str]) -> dict[str, list[str]]:
    """Return the names of image files by their PCR0; names may also be separated by commas."""
    from generator.images import golden

    found: dict[str, list[str]] = {}
    for name in names:
        for each in [name] if Path(name).exists() else name.split(","):
            for pcr0 in golden.pcr0s(each):
                found.setdefault(pcr0, []).append(each)
    return found


def _print(options: argparse.Namespace, found: Explanation) -> None:
    from generator import output
    from generator.explain import text
    from generator.explain.page import page

    output.show(
        options,
        text=lambda out: text.print_text(found, out),
        json=found.as_json,
        html=lambda: page(found),
    )


def _differences(options: argparse.Namespace) -> int:
    from generator import output
    from generator.explain import report
    from generator.explain.differences import differences, print_differences
    from generator.explain.page import differences_page

    old, new = (report.explain(name, options.owner, options.usage) for name in options.diff)
    found = differences(old, new)
    output.show(
        options,
        text=lambda out: print_differences(found, out),
        json=found.as_json,
        html=lambda: differences_page(found),
    )
    return int(bool(found))
