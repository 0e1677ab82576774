"""The embedded program is the same whichever Python renders it."""

import subprocess

import pytest

from generator.templates.embedding import embedded, same_program
from tests.support.paths import PROJECT

PROGRAMS = ("encryption/envelope_encryptor.py", "encryption/artifact_uploader.py")
PYTHONS = ("python3.11", "python3.12", "python3.13", "python3.14", "python3.15")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param('"""Docstring."""\n\nx = 1  # why\n', "x = 1\n", id="module"),
        pytest.param("def f():\n    # why\n\n    return 1\n", "def f():\n return 1\n", id="body"),
        pytest.param('class C:\n    """D."""\n', "class C:\n ...\n", id="docstring-alone"),
        pytest.param('class C:\n    """D."""\n    x: int\n', "class C:\n x: int\n", id="class"),
        pytest.param("x = (\n    1,\n    2,\n)\n", "x = (\n 1,\n 2,\n)\n", id="brackets"),
        pytest.param(
            "if x:\n        y = [\n            1,\n        ]\n",
            "if x:\n y = [\n  1,\n ]\n",
            id="nested",
        ),
        pytest.param('x = "# no comment"  # one\n', 'x = "# no comment"\n', id="hash-in-text"),
        pytest.param(
            'if x:\n    y = """a\n\n    # b\n"""\n', 'if x:\n y = """a\n\n    # b\n"""\n', id="text"
        ),
        pytest.param('x = f"{y!r:>{z}} # {w}"\n', 'x = f"{y!r:>{z}} # {w}"\n', id="f-string"),
        pytest.param(
            'x = f"""{\n    y}\n  z"""\n', 'x = f"""{\n    y}\n  z"""\n', id="long-f-string"
        ),
        pytest.param("async def f():\n    'D.'\n", "async def f():\n ...\n", id="async"),
        pytest.param("@a\n# why\n@b\ndef f(): pass\n", "@a\n@b\ndef f(): pass\n", id="decorators"),
    ],
)
def test_comments_docstrings_and_blank_lines_are_removed(source: str, expected: str) -> None:
    assert embedded(source) == expected
    assert same_program(expected, source)


@pytest.mark.parametrize(
    "text",
    [
        "# coding: raw_unicode_escape\nx = 1\n",
        "x = 2\n",
        "x = 1\ny = 1\n",
        "'x = 1'\n",
        "",
        "x =\n",
        "\0",
        "(" * 10_000,
        "-" * 10_000 + "1",
    ],
)
def test_any_other_change_is_a_different_program(text: str) -> None:
    assert not same_program(text, "x = 1  # why\n")


@pytest.mark.parametrize("source", ["x = 1 + \\\n  2\n", "def f(): 'doc'\n", "'doc'; x = 1\n"])
def test_source_that_cannot_be_embedded_faithfully_is_refused(source: str) -> None:
    with pytest.raises((ValueError, SyntaxError, KeyError)):
        embedded(source)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_python_renders_the_same_text(name: str) -> None:
    ours = embedded((PROJECT / name).read_text())
    assert same_program(ours, (PROJECT / name).read_text())
    program = "import sys; from generator.templates.embedding import embedded; "
    program += f"sys.stdout.write(embedded(open({name!r}).read()))"
    compared = 0
    for python in PYTHONS:
        command = ["sh", "-c", f"{python} -c '' 2>/dev/null && exec {python} -c \"$0\"", program]
        run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        compared += run.returncode == 0
        assert run.stdout in ("", ours), python
    assert compared, "none of these is on PATH"
