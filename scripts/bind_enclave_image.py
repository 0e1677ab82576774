#!/usr/bin/env python3
"""Set which enclave images may decrypt: EnclaveImageSha384 of a deployed stack.

  bind_enclave_image.py --stack-name S add IMAGE...     also bind these images
  bind_enclave_image.py --stack-name S promote IMAGE    keep only this one
  bind_enclave_image.py --stack-name S retire IMAGE...  unbind these images
  bind_enclave_image.py --stack-name S list             print the bound images

IMAGE is a PCR0 (96 hexadecimal digits), an .eif file, a file with nitro-cli's
output for the image, or - for any of these on standard input. The stack keeps
its template and all other parameters. The change is shown first, and made after
confirmation. list prints one PCR0 per line.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

PROJECT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))  # Python puts only the script's own folder on the path

try:
    import boto3  # noqa: F401 - generator.services.aws imports it late; report now if it is missing

    from generator import command_line, terminal
    from generator.errors import GeneratorError
    from generator.images import golden
    from generator.parameters import ENCLAVE_IMAGES, NO_IMAGE
    from generator.services import aws, stacks
except ModuleNotFoundError as missing:
    sys.exit(
        f"error: {missing.name} is not installed: run make template, then use .venv/bin/python"
    )

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import ParameterTypeDef, StackTypeDef

PARAMETER: Final = ENCLAVE_IMAGES.name
IMAGES: Final = {"add": (1, None), "promote": (1, 1), "retire": (1, None), "list": (0, 0)}
"""Each verb with the least and the greatest number of images that it takes."""
PAST: Final = {"promote": "promoted", "retire": "retired"}
UNCHANGED: Final = "interrupted: nothing was changed"


# --- What is bound ----------------------------------------------------------------------------


def changed(bound: Sequence[str], verb: str, images: Sequence[str]) -> list[str]:
    """Return the images that are bound after *verb*, the newest last.

    Raises:
        GeneratorError: an image to promote or retire is not bound.
    """
    if verb == "add":
        return [*bound, *dict.fromkeys(image for image in images if image not in bound)]
    for image in images:
        if image not in bound:
            raise GeneratorError(
                f"{image} is not bound, so it cannot be {PAST[verb]}: list prints the bound images"
            )
    if verb == "promote":
        if len(images) != 1:
            raise GeneratorError(f"promote takes one image, not {len(images)}: name one")
        return list(images)
    return [image for image in bound if image not in images]


def images_bound(stack: StackTypeDef) -> list[str]:
    """Return the PCR0 of each bound image, the newest last.

    Raises:
        GeneratorError: the stack does not have the parameter.
    """
    values = stacks.parameters(stack)
    if PARAMETER not in values:
        raise GeneratorError(
            f"it has no parameter {PARAMETER}: name the application encryptor's stack"
        )
    words = (word.strip().lower() for word in values[PARAMETER].split(","))
    return [word for word in words if word not in ("", NO_IMAGE)]


def bind(stack: StackTypeDef, images: Sequence[str], cloudformation: CloudFormationClient) -> None:
    """Update *stack* so that exactly *images* may decrypt, and print its events meanwhile.

    Raises:
        GeneratorError: CloudFormation rolled the change back.
    """
    others: list[ParameterTypeDef] = [
        {"ParameterKey": name, "UsePreviousValue": True}
        for name in stacks.parameters(stack)
        if name != PARAMETER
    ]
    value = ",".join(images) or NO_IMAGE
    mark = stacks.newest_event(cloudformation, stack["StackName"])
    cloudformation.update_stack(
        StackName=stack["StackName"],
        UsePreviousTemplate=True,
        Parameters=[*others, {"ParameterKey": PARAMETER, "ParameterValue": value}],
        Capabilities=stack.get("Capabilities", []),
    )
    try:
        status = stacks.follow(cloudformation, stack["StackId"], mark)
    except KeyboardInterrupt as interrupt:
        interrupt.args = ("interrupted: the update continues: follow the stack's events",)
        raise
    if status != "UPDATE_COMPLETE":
        why = stacks.first_failure(cloudformation, stack["StackId"], mark)
        raise GeneratorError(f"the update ended in {status}: {why}")


# --- The terminal -----------------------------------------------------------------------------


def show(stack: str, before: Sequence[str], after: Sequence[str], names: Mapping[str, str]) -> None:
    """Print what would change, with the files' *names* where images came from files."""
    terminal.say(f"{PARAMETER} of stack {stack}:")
    for image in dict.fromkeys((*before, *after)):
        sign = " " if image in before and image in after else "+" if image in after else "-"
        terminal.say(f"  {sign} {image}{f'  {names[image]}' if image in names else ''}")
    if not after:
        terminal.say("    none: nobody may decrypt any longer")


def explain(stack: StackTypeDef, profile: str | None) -> None:
    """Print who can decrypt now, according to the key policy that KMS returns."""
    key = stacks.outputs(stack).get("EnclaveKeyARN")
    if key is None:
        terminal.say("the stack has no output EnclaveKeyARN: who can decrypt now is not shown")
        return
    command = (sys.executable, "-m", "generator", "explain", "--key", key)
    environment = os.environ | ({"AWS_PROFILE": profile} if profile else {})
    # The update has succeeded; the explanation's status does not change that.
    subprocess.run(command, cwd=PROJECT, env=environment, check=False)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line, whose options may be anywhere."""
    parser = command_line.Parser(
        prog="bind_enclave_image.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command_line.add_version(parser)
    parser.add_argument("verb", choices=IMAGES, metavar="VERB", help="add, promote, retire or list")
    parser.add_argument("images", nargs="*", metavar="IMAGE")
    parser.add_argument("--stack-name", required=True, metavar="S", help="the code owner's stack")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    parser.add_argument(
        "--allow-none", action="store_true", help="proceed even if nobody may decrypt afterwards"
    )
    aws.add_arguments(parser)
    parsed = parser.parse_intermixed_args(argv)
    least, most = IMAGES[parsed.verb]
    if not least <= len(parsed.images) <= (most if most is not None else len(parsed.images)):
        wanted = "no image" if most == 0 else "one image" if most == 1 else "at least one image"
        parser.error(f"{parsed.verb} takes {wanted}, not {len(parsed.images)}")
    if "-" in parsed.images and not parsed.yes:
        parser.error(
            "- reads standard input, so the confirmation cannot come from there: add --yes"
        )
    return parsed


def main(argv: Sequence[str]) -> int:
    """Run the command line *argv* and return its exit status."""
    options = arguments(argv)
    terminal.listen()
    try:
        named = {pcr0: source for source in options.images for pcr0 in golden.pcr0s(source)}
        with aws.failures(f"stack {options.stack_name}"):
            run(options, named)
    except GeneratorError as error:
        return terminal.complain(error)
    except KeyboardInterrupt as interrupt:
        interrupt.args = interrupt.args or (UNCHANGED,)
        return terminal.interrupted(interrupt)
    return 0


def run(options: argparse.Namespace, named: Mapping[str, str]) -> None:
    """Carry out the command, for the PCR0s that were *named*, each with where it is from.

    Raises:
        GeneratorError: it fails, or was not confirmed.
    """
    cloudformation: CloudFormationClient = aws.Account(options).client("cloudformation")
    stack = stacks.existing(cloudformation, options.stack_name)
    before = images_bound(stack)
    if options.verb == "list":
        sys.stdout.writelines(f"{image}\n" for image in before)
        if not before:
            terminal.say("no image is bound: nobody may decrypt")
        return
    after = changed(before, options.verb, list(named))
    if after == before:
        terminal.say("nothing to change")
        return
    if not after and not options.allow_none:
        raise GeneratorError(
            "nobody could decrypt any longer: pass --allow-none if that is what you want"
        )
    files = {pcr0: source for pcr0, source in named.items() if source.lower() != pcr0}
    show(stack["StackName"], before, after, files)
    if not options.yes and not terminal.agreed("Update the stack?"):
        raise GeneratorError("not confirmed, so nothing was changed")
    bind(stack, after, cloudformation)
    explain(stack, options.profile)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
