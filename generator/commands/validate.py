"""Lint templates, ours or any other.

The rules are cfn-lint's and this project's; so is the status: 0 if nothing was found, else a bit
mask of the severities. Options of cfn-lint go behind --.
"""

import argparse
import sys
from pathlib import Path

from generator.errors import GeneratorError

EXAMPLES = """\
  application-encryptor validate
  application-encryptor validate template.yaml -- --format sarif
"""
TEMPLATES = Path("templates")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("files", nargs="*", metavar="FILE", help="default: templates/*.yaml")


def run(options: argparse.Namespace) -> int:
    """Lint with cfn-lint's rules and ours; the status is cfn-lint's."""
    from generator import validation

    files = options.files or sorted(map(str, TEMPLATES.glob("*.yaml")))
    if not files:
        raise GeneratorError(f"{TEMPLATES}/: has no *.yaml: name a file, or render first")
    for file in files:
        Path(file).open("rb").close()
    status = validation.validate(files, options.passed_on)
    if not status:
        print(f"{len(files)} valid: {', '.join(files)}", file=sys.stderr)
    return status
