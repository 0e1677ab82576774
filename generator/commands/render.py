"""Render the templates.

All templates are written to templates/; with -o, the encryptor template alone
to that file.
"""

import argparse
import sys
from pathlib import Path

EXAMPLES = """\
  application-encryptor render
  application-encryptor render -o my-template.yaml
  application-encryptor render --source s3
"""
TEMPLATES = Path("templates")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write the encryptor template alone, to this file; - is standard output",
    )
    parser.add_argument(
        "--source",
        choices=("codecommit", "s3", "connection"),
        help="write only the encryptor template for this source of the application;"
        " connection: GitHub, GitLab or Bitbucket",
    )


def run(options: argparse.Namespace) -> int:
    """Render and write."""
    from generator.templates import rendering
    from generator.templates.sources import SOURCES

    name = SOURCES[options.source or "codecommit"].file_name
    if options.output == "-":
        sys.stdout.write(rendering.render(name))
        return 0
    if options.output:
        targets = {Path(options.output): name}
    else:
        TEMPLATES.mkdir(exist_ok=True)
        names = [name] if options.source else list(rendering.TEMPLATES)
        targets = {TEMPLATES / each: each for each in names}
    for path, each in targets.items():
        print(rendering.write(each, path))
    return 0
