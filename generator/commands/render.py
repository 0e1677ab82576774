"""Write the templates.

Every template goes into templates/, or the encryptor's alone into the file that -o names.
"""

import argparse
import sys
from pathlib import Path

EXAMPLES = """\
  application-encryptor render
  application-encryptor render -o my-template.yaml
"""
TEMPLATES = Path("templates")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write the encryptor's alone; - is standard output"
    )


def run(options: argparse.Namespace) -> int:
    """Render and write."""
    from generator.templates import application_encryptor, rendering

    if options.output == "-":
        sys.stdout.write(rendering.render(application_encryptor.FILE_NAME))
        return 0
    if options.output:
        targets = {Path(options.output): application_encryptor.FILE_NAME}
    else:
        TEMPLATES.mkdir(exist_ok=True)
        targets = {TEMPLATES / name: name for name in rendering.TEMPLATES}
    for path, name in targets.items():
        print(rendering.write(name, path))
    return 0
