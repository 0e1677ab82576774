"""Command line: render, validate and explain templates. Starts fast: each verb imports its own."""

import argparse
import os
import sys
from pathlib import Path

from generator.errors import GeneratorError

TEMPLATES = Path("templates")
VENV_PYTHON = ".venv/bin/python"
PIPE_WIDTH = 160
"""Columns of a table that goes into a pipe: wide enough for principals' names."""
DESCRIPTION = "Generate, validate and explain the templates that hand code to a Nitro Enclave."


def render(options: argparse.Namespace) -> int:
    """Write every template into templates/, or the encryptor's to the file that -o names."""
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


def validate(options: argparse.Namespace) -> int:
    """Lint templates with cfn-lint's rules and ours; the status is cfn-lint's."""
    from generator import validation

    files = options.files or sorted(map(str, TEMPLATES.glob("*.yaml")))
    if not files:
        raise GeneratorError(f"{TEMPLATES}/: has no *.yaml: name a file, or render first")
    for file in files:
        Path(file).open("rb").close()
    status = validation.validate(files, options.cfn_lint)
    if not status:
        print(f"{len(files)} valid: {', '.join(files)}", file=sys.stderr)
    return status


def explain(options: argparse.Namespace) -> int:
    """Say who can decrypt, and who can change that: of a template, a policy, or a live key."""
    from rich.console import Console

    from generator.explain import report
    from generator.parameters import ENCRYPTOR_TEMPLATE

    console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    if options.diff:
        old, new = (report.explain(Path(path)) for path in options.diff)
        return int(report.print_differences(old, new, console))
    drift: list[str] = []
    if options.key:
        from generator.explain import live_key

        key = live_key.read_key(options.key)
        found = report.explain_document(key.policy, key.arn, key.grants)
        drift = key.drift()
    else:
        found = report.explain(Path(options.file or TEMPLATES / ENCRYPTOR_TEMPLATE))
    if options.format == "text":
        report.print_text(found, console)
        for difference in drift:
            console.print(f"drift: {difference}", style="red", highlight=False)
    elif options.format == "json":
        print(found.as_json(drift))
    else:
        from generator.explain import page

        print(page.page(found))
    return int(found.door is not report.Door.CLOSED or bool(drift))


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
    verb = verbs.add_parser(
        "explain", help="say who can decrypt, and who can change that", description=explain.__doc__
    )
    what = verb.add_mutually_exclusive_group()
    what.add_argument(
        "file", nargs="?", metavar="FILE", help="a template or a policy document; default: ours"
    )
    what.add_argument(
        "--diff", nargs=2, metavar=("OLD", "NEW"), help="say who gains and who loses instead"
    )
    what.add_argument("--key", metavar="ARN", help="a key on AWS; compared with its stack")
    verb.add_argument("--format", choices=("text", "json", "html"), default="text")
    verb.set_defaults(run=explain)
    return result


def main() -> int:
    """Run the command line; a failure is one line and status 1."""
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser().parse_args(arguments[:split])
    options.cfn_lint = arguments[split + 1 :]
    try:
        status = int(options.run(options))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except ModuleNotFoundError as error:
        return complain(f"{error.name} is not installed: make template, then use {VENV_PYTHON}")
    except OSError as error:
        return complain(f"{error.filename or 'output'}: {error.strerror}: choose another file")
    except GeneratorError as error:
        return complain(str(error))
    return status


def complain(message: str, status: int = 1) -> int:
    """Say in one line what failed, and return the exit status."""
    print(f"error: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
