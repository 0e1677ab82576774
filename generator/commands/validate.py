"""Lint templates, ours or any other, and key policies.

The rules are cfn-lint's and this project's; so is the status: 0 if nothing was found, else a bit
mask of the severities. Options of cfn-lint go behind --. A key policy, also as aws kms
get-key-policy prints it, and the keys in terraform show -json of a plan are judged by the rules
about keys alone.
"""

import argparse
import sys
from pathlib import Path

from generator.errors import GeneratorError

EXAMPLES = """\
  application-encryptor validate
  application-encryptor validate template.yaml -- --format sarif
  aws kms get-key-policy --key-id … | application-encryptor validate -
"""
TEMPLATES = Path("templates")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "--templates-only",
        action="store_true",
        help="skip those of the files that are not templates, as a pre-commit hook needs it",
    )
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="a template, a key policy or a Terraform plan; - is standard input;"
        " default: templates/*.yaml",
    )


def run(options: argparse.Namespace) -> int:
    """Lint with cfn-lint's rules and ours; the status is cfn-lint's."""
    from generator import documents, validation

    files = options.files or sorted(map(str, TEMPLATES.glob("*.yaml")))
    if not files:
        raise GeneratorError(f"{TEMPLATES}/: has no *.yaml: name a file, or render first")
    if options.templates_only:
        files = [name for name in files if documents.load(name, strict=False).is_cloudformation]
        if not files:
            return 0
    status, clean = validation.outcome(files, options.passed_on)
    if clean:
        print(f"{len(files)} valid: {', '.join(files)}", file=sys.stderr)
    return status
