"""The commands' options for docs/commands.md, from their parsers, and make's targets."""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING
from unittest import mock

from generator.command_line import PROGRAM, parser
from generator.commands import VERBS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).parents[1]
WIDTH = 120
TARGET = re.compile(r"^([a-z]+):.*## (.*)$", re.MULTILINE)
sys.path.append(str(ROOT / "encryption"))  # as a program there finds its modules


class _ParsedError(Exception):
    """Carries the parser of a program that builds it only to parse its arguments."""


def targets() -> str:
    """Return a table of make's targets."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    rows = [f"| `make {name}` | {_cell(text)} |\n" for name, text in TARGET.findall(makefile)]
    return "| command | does |\n|---|---|\n" + "".join(rows)


def verb(name: str) -> str:
    """Return the description and the options of one verb of the command line."""
    found = _verbs_of(parser(name))[name]
    return _command(f"{PROGRAM} {name}", found, _examples(found))


def encryptor() -> str:
    """Return the options of the encryptor's only verb."""
    import envelope_encryptor as program

    with mock.patch.object(sys, "argv", ["envelope_encryptor.py", "encrypt"]):
        whole = _parser_of(program.parse_arguments)
    found = _verbs_of(whole)["encrypt"]
    found.description = whole.description  # every character of the encryptor is in a buildspec
    return _command("python3 encryption/envelope_encryptor.py encrypt", found)


def decryptor(name: str) -> str:
    """Return the options of one of the decryptor's verbs."""
    import envelope_decryptor as program

    found = _verbs_of(program._parser())[name]  # noqa: SLF001 - its command line
    script = " -- SCRIPT [ARG…]" if name == "run" else ""
    return _command(f"python3 encryption/envelope_decryptor.py {name}", found, after=script)


def server() -> str:
    """Return the options of the enclave's server."""
    from enclave import server as program

    return _command("python3 enclave/server.py", program._parser())  # noqa: SLF001


def client() -> str:
    """Return the options of the enclave's client."""
    from enclave import client as program

    found = _verbs_of(program._parser())["run"]  # noqa: SLF001
    return _command("python3 enclave/client.py run", found, after=" -- SCRIPT [ARG…]")


def binder() -> str:
    """Return the options of the script that binds images."""
    from scripts import bind_enclave_image as program

    found = _parser_of(lambda: program.arguments(["--stack-name", "S", "list"]))
    return _command("python scripts/bind_enclave_image.py", found)


def extractor() -> str:
    """Return the options of the script that extracts the encrypted data key."""
    from scripts import extract_decryption_key as program

    found = _parser_of(lambda: program.parsed([]))
    return _command("python3 scripts/extract_decryption_key.py", found)


def conformance() -> str:
    """Return the options of the conformance run."""
    from conformance.__main__ import PROGRAM as NAME
    from conformance.__main__ import parser as grammar

    return _command(NAME, grammar())


PARTS: dict[str, Callable[[], str]] = {
    "make": targets,
    **{f"command {name}": partial(verb, name) for name in VERBS},
    "command encrypt": encryptor,
    "command decrypt": partial(decryptor, "decrypt"),
    "command run": partial(decryptor, "run"),
    "command server": server,
    "command client": client,
    "command bind": binder,
    "command extract": extractor,
    "command conformance": conformance,
}
"""The generated parts of docs/commands.md, by their marks."""


# --- parsers as Markdown --------------------------------------------------------------------------


def _parser_of(program: Callable[[], object]) -> argparse.ArgumentParser:
    """Return the parser that *program* builds and parses its arguments with."""

    def stop(self: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _ParsedError(self)

    with mock.patch.multiple(argparse.ArgumentParser, parse_args=stop, parse_intermixed_args=stop):
        try:
            program()
        except _ParsedError as error:
            (found,) = error.args
            assert isinstance(found, argparse.ArgumentParser)  # noqa: S101 - for the type checker
            return found
    raise AssertionError("the program parsed no arguments")


def _verbs_of(found: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in found._actions:  # noqa: SLF001 - argparse has no public way to list them
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            return dict(action.choices)
    return {}


def _command(name: str, found: argparse.ArgumentParser, examples: str = "", after: str = "") -> str:
    """Return a command's synopsis, description, options and examples."""
    actions = [
        each
        for each in found._actions  # noqa: SLF001
        if not isinstance(each, (argparse._HelpAction, argparse._SubParsersAction))  # noqa: SLF001
        and "--version" not in each.option_strings
    ]
    words = [_word(each) for each in actions if not each.option_strings]
    synopsis = " ".join([name, "[option …]", *words]) + after
    text = _paragraphs(found.description or "")
    needed = _needed(found)
    rows = "".join(
        f"| {_option(each)} | {_meaning(each)}{needed.get(each.dest, '')} |\n"
        for each in actions
        if each.help
    )
    table = f"| option | meaning |\n|---|---|\n{rows}" if rows else ""
    return "\n".join(filter(None, (f"```text\n{synopsis}\n```\n", text, table, examples)))


def _needed(found: argparse.ArgumentParser) -> dict[str, str]:
    """Return, for each option of a group of which one is required, the others, in words."""
    words = {}
    for group in found._mutually_exclusive_groups:  # noqa: SLF001
        for each in group._group_actions if group.required else ():  # noqa: SLF001
            others = [
                f"`{other.option_strings[-1]}`"
                for other in group._group_actions  # noqa: SLF001
                if other is not each
            ]
            words[each.dest] = f"; this or {' or '.join(others)} is required"
    return words


def _paragraphs(text: str) -> str:
    """Return a description as Markdown: joined lines, but as it is where it is indented."""
    parts = []
    for paragraph in text.strip().split("\n\n"):
        if paragraph.startswith(" "):
            parts.append(f"```text\n{paragraph}\n```\n")
        else:
            parts.append(fill(" ".join(paragraph.split()), WIDTH) + "\n")
    return "\n".join(parts)


def _examples(found: argparse.ArgumentParser) -> str:
    lines = [line.removeprefix("  ") for line in (found.epilog or "").splitlines()[1:]]
    shown = "".join(f"{'' if line.startswith(' ') else '$ '}{line}\n" for line in lines if line)
    return f"```console\n{shown}```\n" if shown else ""


def _word(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    return {"*": f"[{name} …]", "?": f"[{name}]"}.get(str(action.nargs), name)


def _option(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{_escaped(str(action.metavar or action.dest))}`"
    value = ""
    if action.nargs != 0:
        value = f" {_value(action)}"
    return ", ".join(f"`{name}{_escaped(value)}`" for name in action.option_strings)


def _value(action: argparse.Action) -> str:
    if action.metavar is not None:
        names: Sequence[str] = (
            (action.metavar,) if isinstance(action.metavar, str) else action.metavar
        )
        return " ".join(names) + (" …" if action.nargs == "+" else "")
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    return action.dest.upper()


def _meaning(action: argparse.Action) -> str:
    text = str(action.help or "")
    if "%(default)s" in text:
        text = text.replace("%(default)s", str(action.default))
    if action.required and action.option_strings:
        text += "; required"
    return _cell(text)


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split()))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
