"""The code follows its own rules: module sizes, import order, and a map with each module once."""

from __future__ import annotations

import ast
import io
import re
import tokenize

import pytest

from tests.support.paths import PROJECT
from tools import house

CODE_MAX = 400  # lines, without comments, docstrings and blank ones
ONE_FILE = {PROJECT / "encryption/envelope_encryptor.py"}  # it is distributed alone
LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.ENDMARKER)


def lines_of_code(text: str) -> int:
    layout = (*LAYOUT, tokenize.INDENT, tokenize.DEDENT)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = {
        row
        for token in tokens
        if token.type not in layout
        for row in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(text)):  # docstrings, of attributes too
        match node:
            case ast.Expr(ast.Constant(str())):
                code -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(code)


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)


def test_map_names_each_module_once() -> None:
    rooms = re.split(r"^### `(.*)/`$", house.drawn(), flags=re.MULTILINE)[1:]
    named = [
        f"{room}/{name}"
        for room, text in zip(rooms[::2], rooms[1::2], strict=True)
        for name in re.findall(r"^- `(\S+\.py)`: .*\.$", text, re.MULTILINE)
    ]
    tests = PROJECT.glob("tests/test_*.py")
    expected = [*house.modules(), *(path.relative_to(PROJECT) for path in tests)]
    assert sorted(named) == sorted(map(str, expected))


def test_every_folder_of_tests_has_a_docstring() -> None:
    folders = {path.parent for path in PROJECT.glob("tests/*/*.py")}
    for folder in folders:
        assert house.purpose(folder / "__init__.py").endswith("."), folder


def test_no_module_has_more_than_400_lines_of_code() -> None:
    for top in (*house.tops(), house.TESTS):
        for path in (PROJECT / top).rglob("*.py"):
            text = path.read_text()
            if text.count("\n") <= CODE_MAX:
                continue
            count = lines_of_code(text)
            assert count <= CODE_MAX or path in ONE_FILE, f"{path}: {count} lines of code"
