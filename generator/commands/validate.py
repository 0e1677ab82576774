"""Validate templates, this project's or any other, and key policies.

Applies cfn-lint's rules and this project's. The status is cfn-lint's: 0 if
nothing was found, else a bit mask of severities (2 errors, 4 warnings, 8
informational); a template whose own Metadata turns off this project's rules
counts as a warning. cfn-lint's own options go after --. Key policies, also as
printed by aws kms get-key-policy, and the keys in a Terraform plan
(terraform show -json) are checked only by the rules about keys.
"""

import argparse
import sys
from pathlib import Path

from generator import terminal
from generator.command_line import account_number
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
        help="skip files that are not templates, for a pre-commit hook",
    )
    parser.add_argument(
        "--owner",
        type=account_number,
        metavar="ACCOUNT",
        help="with key policies: the account that owns the keys",
    )
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="a template, a key policy or a Terraform plan; - is standard input;"
        " default: templates/*.yaml",
    )


def run(options: argparse.Namespace) -> int:
    """Validate with cfn-lint's rules and this project's; the status is cfn-lint's."""
    from generator import validation
    from generator.reading import documents

    files = options.files or sorted(map(str, TEMPLATES.glob("*.yaml")))
    if not files:
        raise GeneratorError(f"{TEMPLATES}/: has no *.yaml files: name a file, or render first")
    if options.templates_only:
        files = [name for name in files if documents.load(name, strict=False).is_cloudformation]
        if not files:
            return 0
    found = validation.outcome(files, options.passed_on, options.owner)
    if found.clean:
        print(f"{len(files)} valid: {', '.join(map(documents.shown_name, files))}", file=sys.stderr)
        # Of our own templates, the host's bucket key is meant to need no attestation.
        for name, keys in found.unjudged.items() if options.files else ():
            terminal.say(
                f"note: {name}: no policy of {', '.join(keys)} names an attestation, so the rules "
                "about keys were not applied: see application-encryptor explain"
            )
    return found.status
