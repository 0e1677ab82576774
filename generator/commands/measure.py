"""Print the measurements of an enclave image file, as nitro-cli does.

PCR0 is the value that a key policy binds. PCR8, of a signed image, measures
its certificate. Neither nitro-cli nor a Nitro instance is needed.
"""

import argparse
import json
import sys
from pathlib import Path

EXAMPLES = """\
  application-encryptor measure application.eif
  application-encryptor measure application.eif --format json > pcr.json
"""
STANDARD_INPUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("image", metavar="IMAGE", help="an .eif file; - is standard input")
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="json: as nitro-cli describe-eif prints it",
    )


def run(options: argparse.Namespace) -> int:
    """Measure one image."""
    from generator.images import eif
    from generator.terminal import warn

    if options.image == STANDARD_INPUT:
        found = eif.measure_opened("standard input", sys.stdin.buffer)
    else:
        found = eif.measure(Path(options.image))
    if options.format == "json":
        print(json.dumps(found.as_described(), indent=2))
    else:
        for name, digits in found.registers().items():
            print(f"{name}: {digits}")
    if found.signature_holds is False:
        warn(f"{options.image}: its signature does not match its PCR0: sign the image again")
    return 0
