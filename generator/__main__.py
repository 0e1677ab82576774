"""Command line: render, validate and explain templates. Starts fast: each verb imports its own."""

import argparse
import sys
from pathlib import Path

TEMPLATES = Path("templates")
DESCRIPTION = "Generate, validate and explain the templates that hand code to a Nitro Enclave."


def render(options: argparse.Namespace) -> int:
    """Write every template into templates/, or the encryptor's to the file that -o names."""
    from generator import application_encryptor, rendering

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


def validate(options: argparse.Namespace) -> int:
    """Lint templates with cfn-lint's rules and ours; the status is cfn-lint's."""
    from generator import validation

    files = options.files or sorted(map(str, TEMPLATES.glob("*.yaml")))
    return validation.validate(files, options.cfn_lint)


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    result = argparse.ArgumentParser(prog="application-encryptor", description=DESCRIPTION)
    verbs = result.add_subparsers(required=True, metavar="COMMAND")
    verb = verbs.add_parser("render", help="write the templates", description=render.__doc__)
    verb.add_argument(
        "-o", "--output", metavar="FILE", help="write the encryptor's alone; - is standard output"
    )
    verb.set_defaults(run=render)
    verb = verbs.add_parser(
        "validate",
        help="lint templates, ours or any other",
        description=validate.__doc__,
        epilog="Options of cfn-lint go behind --, for instance: validate t.yaml -- --format sarif",
    )
    verb.add_argument("files", nargs="*", metavar="FILE", help="default: templates/*.yaml")
    verb.set_defaults(run=validate)
    return result


def main() -> int:
    """Run the command line; a failure is one line and status 1."""
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser().parse_args(arguments[:split])
    options.cfn_lint = arguments[split + 1 :]
    try:
        return int(options.run(options))
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
