"""Check for what would make a deployment, a build or an enclave fail.

Each line begins with ok; with fix, followed by what to do; or with look, if
something is unusual or cannot be determined from here. Status 1 if anything
must be fixed.

The parameters are those of the stack, if it exists, overridden by --parameters
and PARAMETER=VALUE; the file need not exist before the first deploy. --host
checks the host's side: its bucket and key, the parent's role, and, on the
parent instance, its metadata service, nitro-cli, the allocator and vsock-proxy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from generator import terminal
from generator.errors import GeneratorError
from generator.services import aws

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from generator.doctor.checks import Context, Finding

EXAMPLES = """\
  application-encryptor doctor --stack-name my-application --parameters my.json
  application-encryptor doctor --host --stack-name code-from-acme
  application-encryptor doctor --host --key ARN --image application.eif
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    from generator.commands.deploy import add_stack_arguments

    add_stack_arguments(parser)
    parser.add_argument("--host", action="store_true", help="check the host's side")
    parser.add_argument("--key", metavar="ARN", help="host: the owner's output EnclaveKeyARN")
    parser.add_argument("--image", type=Path, metavar="FILE", help="host: the enclave image (.eif)")
    parser.add_argument(
        "--etc",
        type=Path,
        metavar="DIR",
        default=Path("/etc/nitro_enclaves"),
        help="host: nitro-cli's configuration directory; default: %(default)s",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    aws.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run the checks; status 1 if anything must be fixed."""
    from generator.doctor.checks import Status

    if options.image and not options.image.is_file():
        raise GeneratorError(f"{options.image}: is not a file: pass an .eif file")
    found = []
    for finding in _findings(options):
        found.append(finding)
        if options.format == "text":
            _print(finding)
    wrong = [each for each in found if each.status is Status.FIX]
    if options.format == "json":
        checks = [
            {"name": each.name, "status": each.status.value, "text": each.text, "todo": each.todo}
            for each in found
        ]
        print(json.dumps({"ok": not wrong, "checks": checks}, indent=2))
    return int(bool(wrong))


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    from generator.doctor import checks, owner

    with aws.failures("credentials"):
        context = checks.Context(aws.Account(options), options.stack_name)
    yield checks.credentials(context)
    _learn(context, options)
    for check in _of_host(options) if options.host else owner.CHECKS:
        yield from checks.run(check, context)


def _of_host(options: argparse.Namespace) -> tuple[Callable[[Context], Iterator[Finding]], ...]:
    from generator.doctor import host

    return (
        *(host.stack, host.bucket, host.bucket_key, host.parent_role),
        host.decrypt_permission(options.key),
        *(host.instance, host.nitro_cli),
        host.allocator(options.etc, options.image),
        host.allowlist(options.etc, aws.region_of(options.key)),
    )


def _learn(context: Context, options: argparse.Namespace) -> None:
    """Take the parameters from the stack, from a file, and from the command line."""
    from botocore.exceptions import BotoCoreError, ClientError

    from generator.services import parameter_values, stacks

    file = options.parameters
    if file and file != parameter_values.STANDARD_INPUT and not file.exists():
        terminal.say(f"{file} does not exist yet: the first deploy with --parameters writes it")
    given = {**parameter_values.read_if_there(file), **dict(options.wanted)}
    try:
        stack = stacks.find(context.client("cloudformation"), context.stack_name)
    except (BotoCoreError, ClientError):  # the check of the stack reports it
        stack = None
    has = stacks.parameters(stack) if stack else {}
    context.outputs = stacks.outputs(stack) if stack else {}
    # The host's outputs have the names of the owner's parameters.
    named = context.outputs if options.host else {}
    context.parameters = {**has, **named, **given}


def _print(finding: Finding) -> None:
    text = f"{finding.text}{f': {finding.todo}' if finding.todo else ''}"
    line = f"{finding.status.value:<5} {finding.name:<13} {terminal.printable(text)}"
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        from generator.doctor.checks import Status

        styles = {Status.OK: "green", Status.LOOK: "yellow", Status.FIX: "bold red"}
        styled = Text(line)
        styled.stylize(styles[finding.status], 0, len(finding.status.value))
        Console().print(styled, soft_wrap=True)
    else:
        print(line, flush=True)
