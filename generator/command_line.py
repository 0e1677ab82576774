"""The command line's grammar and its one-line errors, the same for every verb."""

import argparse
import re
from importlib import import_module
from typing import NoReturn

from generator.commands import VERBS
from generator.terminal import complain

PROGRAM = "application-encryptor"
DESCRIPTION = "Generate, validate, explain and deploy templates that hand code to a Nitro Enclave."
USAGE_ERROR = 2


class Parser(argparse.ArgumentParser):
    """Reports what is wrong with the arguments in one line, and how to get help."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(complain(f"{_corrected(message)}: see {self.help_command} --help", USAGE_ERROR))

    @property
    def help_command(self) -> str:
        """The command whose --help applies; the parent parser reports a verb's excess arguments."""
        return str(self._defaults.get("help_command", self.prog))


class _Version(argparse.Action):
    """Prints the version; the package's metadata are read only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version(PROGRAM)
        except PackageNotFoundError:
            number = "(not installed: no version)"
        print(f"{PROGRAM} {number}")
        parser.exit()


def add_version(to: argparse.ArgumentParser) -> None:
    """Declare --version."""
    to.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")


def account_number(text: str) -> str:
    """Return the argument *text* if it is an account's number.

    Raises:
        argparse.ArgumentTypeError: it is not.
    """
    if not re.fullmatch(r"[0-9]{12}", text):
        raise argparse.ArgumentTypeError(f"{text} is not an account number: 12 digits")
    return text


def _corrected(message: str) -> str:
    """Return argparse's *message*, or for an unknown verb the verb that it resembles."""
    unknown = re.match(r"argument COMMAND: invalid choice: '(.*)' \(choose from", message)
    if not unknown:
        return message
    from difflib import get_close_matches

    close = get_close_matches(unknown[1], VERBS, 1)
    known = f"did you mean {close[0]}?" if close else f"choose from {', '.join(VERBS)}"
    return f"{unknown[1]} is not a command: {known}"


def parser(wanted: str | None = None) -> Parser:
    """Return the parser; if *wanted* is a verb, a parser for that verb alone."""
    result = Parser(prog=PROGRAM, description=DESCRIPTION, allow_abbrev=False)
    add_version(result)
    verbs = result.add_subparsers(required=True, metavar="COMMAND", dest="verb")
    if wanted in VERBS:
        result.set_defaults(help_command=f"{PROGRAM} {wanted}")
    for name in (wanted,) if wanted in VERBS else VERBS:
        module = import_module(f"generator.commands.{name}")
        description = module.__doc__ or ""
        verb = verbs.add_parser(
            name,
            help=description.partition("\n")[0].rstrip("."),
            description=description,
            epilog=f"examples:\n{module.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add_version(verb)
        module.add_arguments(verb)
        verb.set_defaults(run=module.run)
    return result
