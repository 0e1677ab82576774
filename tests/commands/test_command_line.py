"""The command line as a whole: help, version, and wrong invocations in one line each."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from generator.command_line import parser
from generator.commands import VERBS
from generator.terminal import printable
from tests.support.paths import PROJECT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "generator", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    result = run(verb, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    _, _, examples = result.stdout.partition("\nexamples:\n")
    assert f"  application-encryptor {verb}" in examples


@pytest.mark.parametrize(
    "words",
    [
        "-m generator",
        *(f"-m generator {verb}" for verb in VERBS),
        "encryption/envelope_encryptor.py encrypt",
        "encryption/envelope_decryptor.py",
        "encryption/envelope_decryptor.py decrypt",
        "encryption/envelope_decryptor.py run",
        "enclave/server.py",
        "enclave/client.py",
        "enclave/client.py run",
        "scripts/bind_enclave_image.py",
        "scripts/extract_decryption_key.py",
        "-m conformance",
        "-m rehearsal.demo",
    ],
)
def test_no_help_is_wider_than_a_terminal(words: str) -> None:
    result = subprocess.run(
        [sys.executable, *words.split(), "--help"],
        cwd=PROJECT,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line for line in result.stdout.splitlines() if len(line) > 80] == []
    copied = re.sub(r"\\\n", "", result.stdout.partition("\nexample")[2])
    assert not re.search(r"(?:arn:\S*-|--[a-z]+)$", copied, re.MULTILINE)  # broken over two lines


@pytest.mark.parametrize("verb", VERBS)
def test_help_lists_every_command(verb: str) -> None:
    assert any(line.startswith(f"    {verb} ") for line in run("--help").stdout.splitlines())


@pytest.mark.parametrize("arguments", [(), *((verb,) for verb in VERBS)])
def test_every_verb_prints_the_version(arguments: tuple[str, ...]) -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert run(*arguments, "--version").stdout == f"application-encryptor {version}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param((), "arguments are required: COMMAND", id="nothing"),
        pytest.param(("explan",), "explan is not a command: did you mean explain?", id="misspelt"),
        pytest.param(("frobnicate",), "choose from render, validate, explain", id="unknown"),
        pytest.param(("expl\x1b[31min",), "\\x1b[31m", id="control-characters"),
        pytest.param(("--form",), "see application-encryptor --help", id="unknown-option"),
        pytest.param(
            ("explain", "a", "b"), "see application-encryptor explain --help", id="excess"
        ),
        pytest.param(("explain", "--form", "json"), "arguments: --form", id="no-abbreviation"),
        pytest.param(("explain", "--format", "xml"), "'xml'", id="unknown-format"),
        pytest.param(("render", "-o"), "expected one argument", id="no-value"),
    ],
)
def test_usage_error_is_one_line_and_status_2(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr


PAGES = [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]


def commands(text: str) -> list[list[str]]:
    """Return the arguments of each of our commands in *text*, without those of other programs."""
    typed = re.findall(
        r"application-encryptor ((?!\w+ \[option)[^`\n]+)", re.sub(r"\\\n", " ", text)
    )
    # A placeholder for the reader is a word like any other; a redirection belongs to the shell.
    whole = (re.split(r" -- | > ", re.sub(r"[<>](?=\S)|(?<=\S)>", "", each))[0] for each in typed)
    split = (shlex.split(each.replace("…", ""), comments=True) for each in whole)
    return [words for words in split if words and words[0] in VERBS]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_in_the_documentation_parse(page: Path) -> None:
    for arguments in commands(page.read_text()):
        parser(arguments[0]).parse_args(arguments)


@pytest.mark.parametrize("verb", VERBS)
def test_examples_in_the_help_parse(verb: str) -> None:
    examples = commands(run(verb, "--help").stdout.partition("\nexamples:\n")[2])
    assert examples
    for arguments in examples:
        parser(verb).parse_args(arguments)


def test_control_characters_are_escaped() -> None:
    assert printable("a\nb\r\x1b[2Jc\u202ed") == "a b \\x1b[2Jc\\u202ed"


def test_output_may_have_the_longest_file_name(tmp_path: Path) -> None:
    name = "\N{CJK UNIFIED IDEOGRAPH-8A9E}" * 85  # 255 bytes
    result = run("render", "-o", str(tmp_path / name))
    assert result.returncode == 0, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]
