"""Say who can decrypt, and who can change that.

Of a template, of a policy document, or of a key on AWS.
"""

import argparse
import sys
from pathlib import Path

EXAMPLES = """\
  application-encryptor explain
  application-encryptor explain template.yaml --format html > explain.html
  application-encryptor explain --diff old.yaml new.yaml
  application-encryptor explain --key arn:aws:kms:eu-west-1:111122223333:key/1234abcd-…
"""
TEMPLATES = Path("templates")
PIPE_WIDTH = 160
"""Columns of a table that goes into a pipe: wide enough for principals' names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "file", nargs="?", metavar="FILE", help="a template or a policy document; default: ours"
    )
    what.add_argument(
        "--diff", nargs=2, metavar=("OLD", "NEW"), help="say who gains and who loses instead"
    )
    what.add_argument("--key", metavar="ARN", help="a key on AWS; compared with its stack")
    parser.add_argument("--format", choices=("text", "json", "html"), default="text")


def run(options: argparse.Namespace) -> int:
    """Explain; status 0 if nobody decrypts unattested and nothing drifted."""
    from rich.console import Console

    from generator.explain import report
    from generator.parameters import ENCRYPTOR_TEMPLATE

    console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    if options.diff:
        old, new = (report.explain(Path(path)) for path in options.diff)
        return int(report.print_differences(old, new, console))
    drift: list[str] = []
    if options.key:
        from generator.explain import live_key

        key = live_key.read_key(options.key)
        found = report.explain_document(key.policy, key.arn, key.grants, key.arn)
        drift = key.drift()
    else:
        found = report.explain(Path(options.file or TEMPLATES / ENCRYPTOR_TEMPLATE))
    if options.format == "text":
        report.print_text(found, console)
        for difference in drift:
            console.print(f"drift: {difference}", style="red", highlight=False)
    elif options.format == "json":
        print(found.as_json(drift))
    else:
        from generator.explain import page

        print(page.page(found))
    return int(not found.is_safe or bool(drift))
