#!/usr/bin/env python3
"""Say which enclave images may decrypt: the parameter EnclaveImageSha384 of a deployed stack.

    bind_enclave_image.py --stack-name S add PCR0...      besides those that already may
    bind_enclave_image.py --stack-name S promote PCR0     of those bound, only this one stays
    bind_enclave_image.py --stack-name S retire PCR0...   these may no longer
    bind_enclave_image.py --stack-name S list             one a line

PCR0 is 96 hexadecimal digits, or a file with what `nitro-cli build-enclave` printed, or - for
that on standard input. The stack is updated with its own template and every other parameter as
it is; the change is shown first, and made after a yes.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

try:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError, NoRegionError, WaiterError
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing.name} is not installed: make template, then .venv/bin/python")

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import ParameterTypeDef, StackTypeDef

PARAMETER: Final = "EnclaveImageSha384"
NOBODY: Final = "none"  # the parameter's value when no image is bound
PROJECT: Final = Path(__file__).resolve().parent.parent
POLL_SECONDS: Final = 5
POLLS: Final = 360  # half an hour
PCR0: Final = re.compile(r"[0-9a-f]{96}")


class BindingError(Exception):
    """The images cannot be bound as asked; the message says what to do."""


# --- What is asked ----------------------------------------------------------------------------


def measurement(argument: str) -> str:
    """Return the PCR0 (96 lower-case digits) that *argument* is, or leads to.

    Raises:
        BindingError: it leads to none, or to an enclave in debug mode.
    """
    pcr0 = argument.lower()
    if not PCR0.fullmatch(pcr0):
        pcr0 = _printed_by_nitro_cli(argument)
    if not pcr0.strip("0"):
        raise BindingError(
            "PCR0 of zeros is what every enclave in debug mode attests, and anybody can start one: "
            "take the value that nitro-cli build-enclave prints"
        )
    return pcr0


def _printed_by_nitro_cli(name: str) -> str:
    """Read PCR0 from nitro-cli's JSON, which other lines may precede."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text()
        printed, _ = json.JSONDecoder().raw_decode(text, max(text.find("{"), 0))
        pcr0 = str(printed["Measurements"]["PCR0"]).lower()
    except OSError as error:
        raise BindingError(
            f"{name} is neither 96 hexadecimal digits nor a readable file ({error.strerror})"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise BindingError(
            f"{name} is not what nitro-cli build-enclave prints: it has no Measurements with a PCR0"
        ) from error
    if not PCR0.fullmatch(pcr0):
        raise BindingError(f"the PCR0 in {name} is not 96 hexadecimal digits")
    return pcr0


def changed(bound: Sequence[str], verb: str, images: Sequence[str]) -> list[str]:
    """Return what is bound after *verb*, the newest last.

    Raises:
        BindingError: an image is not bound that should be.
    """
    if verb == "add":
        return [*bound, *dict.fromkeys(image for image in images if image not in bound)]
    for image in images:
        if image not in bound:
            raise BindingError(f"{image} is not bound, so {verb} does not apply: see list")
    if verb == "promote":
        return list(images)
    return [image for image in bound if image not in images]


# --- The stack --------------------------------------------------------------------------------


def stack_named(name: str, cloudformation: CloudFormationClient) -> StackTypeDef:
    """Return the description of the stack *name*.

    Raises:
        BindingError: it has no images to bind.
    """
    stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    if PARAMETER not in {
        parameter.get("ParameterKey") for parameter in stack.get("Parameters", ())
    }:
        raise BindingError(
            f"stack {name} has no parameter {PARAMETER}: is it the application encryptor's?"
        )
    return stack


def images_bound(stack: StackTypeDef) -> list[str]:
    """Return the PCR0 of each image that may decrypt, the newest last."""
    values = {
        parameter.get("ParameterKey"): parameter.get("ParameterValue", "")
        for parameter in stack["Parameters"]
    }
    words = (word.strip().lower() for word in values[PARAMETER].split(","))
    return [word for word in words if word not in ("", NOBODY)]


def bind(stack: StackTypeDef, images: Sequence[str], cloudformation: CloudFormationClient) -> None:
    """Update *stack* so that exactly *images* may decrypt, and wait until they may.

    Raises:
        BindingError: CloudFormation rolled the change back.
    """
    others: list[ParameterTypeDef] = [
        {"ParameterKey": parameter["ParameterKey"], "UsePreviousValue": True}
        for parameter in stack["Parameters"]
        if parameter["ParameterKey"] != PARAMETER
    ]
    value = ",".join(images) or NOBODY
    cloudformation.update_stack(
        StackName=stack["StackName"],
        UsePreviousTemplate=True,
        Parameters=[*others, {"ParameterKey": PARAMETER, "ParameterValue": value}],
        Capabilities=stack.get("Capabilities", []),
    )
    try:
        cloudformation.get_waiter("stack_update_complete").wait(
            StackName=stack["StackName"], WaiterConfig={"Delay": POLL_SECONDS, "MaxAttempts": POLLS}
        )
    except WaiterError as error:
        raise BindingError(
            f"the update did not complete; {_first_failure(stack, cloudformation)}"
        ) from error


def _first_failure(stack: StackTypeDef, cloudformation: CloudFormationClient) -> str:
    events = cloudformation.describe_stack_events(StackName=stack["StackName"])["StackEvents"]
    for event in events:  # the newest first
        if event.get("ResourceStatus") == "UPDATE_FAILED":
            return f"{event.get('LogicalResourceId')}: {event.get('ResourceStatusReason')}"
    return "see the stack's events"


# --- The person -------------------------------------------------------------------------------


def show(stack: StackTypeDef, before: Sequence[str], after: Sequence[str]) -> None:
    """Print what would change, to standard error."""
    _say(f"{PARAMETER} of stack {stack['StackName']}:")
    for image in dict.fromkeys((*before, *after)):
        sign = " " if image in before and image in after else "+" if image in after else "-"
        _say(f"  {sign} {image}")
    if not after:
        _say("    none: nobody may decrypt any more")


def agreed() -> bool:
    """Ask for a yes."""
    sys.stderr.write("Update the stack? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def explain(stack: StackTypeDef) -> None:
    """Print who can decrypt now, by the key's own policy as KMS returns it."""
    outputs = {
        output.get("OutputKey"): output.get("OutputValue") for output in stack.get("Outputs", ())
    }
    if (key := outputs.get("EnclaveKeyARN")) is None:
        _say("the stack has no output EnclaveKeyARN, so who can decrypt now is not shown")
        return
    command = (sys.executable, "-m", "generator", "explain", "--key", key)
    # The update has been made, whatever is found: the explanation speaks for itself.
    subprocess.run(command, cwd=PROJECT, check=False)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stack-name", required=True, metavar="S", help="the owner's stack")
    parser.add_argument("--region", help="default: as AWS's tools find it")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--allow-none", action="store_true", help="even if nobody may then decrypt")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    # The same before the verb and behind it, wherever a hand puts them.
    changing = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    changing.add_argument("--yes", action="store_true")
    changing.add_argument("--allow-none", action="store_true")
    for verb, number in (("add", "+"), ("promote", 1), ("retire", "+")):
        verbs.add_parser(verb, parents=[changing]).add_argument(
            "images", nargs=number, metavar="PCR0"
        )
    verbs.add_parser("list")
    parsed = parser.parse_args(argv)
    if parsed.verb != "list" and "-" in parsed.images and not parsed.yes:
        parser.error("- takes standard input, where your answer would come from: add --yes")
    return parsed


def main(argv: Sequence[str]) -> int:
    """Run the command line *argv* and return its exit status."""
    options = arguments(argv)
    try:
        run(options)
    except NoRegionError:
        _say(f"error: stack {options.stack_name}: in which region is it: pass --region")
        return 1
    except (BindingError, BotoCoreError, ClientError) as error:
        _say(f"error: stack {options.stack_name}: {error}")
        return 1
    return 0


def run(options: argparse.Namespace) -> None:
    """Do what was asked.

    Raises:
        BindingError: it cannot or should not be done.
    """
    wanted = [] if options.verb == "list" else [measurement(image) for image in options.images]
    cloudformation = boto3.client("cloudformation", region_name=options.region)
    stack = stack_named(options.stack_name, cloudformation)
    before = images_bound(stack)
    if options.verb == "list":
        sys.stdout.writelines(f"{image}\n" for image in before)
        return
    after = changed(before, options.verb, wanted)
    if after == before:
        _say("nothing to change")
        return
    if not after and not options.allow_none:
        raise BindingError("nobody could decrypt any more: say --allow-none if that is wanted")
    show(stack, before, after)
    if not options.yes and not agreed():
        raise BindingError("not confirmed, so nothing was changed")
    bind(stack, after, cloudformation)
    explain(stack)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
