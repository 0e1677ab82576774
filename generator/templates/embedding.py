"""A program as it is embedded in a buildspec: without comments, docstrings and blank lines.

CodeBuild accepts an inline buildspec of at most 25,600 characters, and that should not limit the
comments. What is left is the same program: the same lines in the same order, indented by one column
per level. Nothing is renamed, joined or folded, so it can be reviewed where it runs.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

_LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.ENDMARKER)
_ENCODING = re.compile(r"\s*#.*coding[:=]")  # PEP 263
_Documented: TypeAlias = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class _Line:
    """The part of a line that is code: its new indentation, and where it begins and ends."""

    indentation: int
    start: int
    end: int


def embedded(source: str) -> str:
    """Return *source* without comments, docstrings and blank lines.

    A body that consists of a docstring alone becomes ``...``. The text is the same on every Python
    that the project supports.

    Raises:
        SyntaxError: *source* is not Python.
        ValueError: what is left would not be the same program, because of a backslash at the end of
            a line, for instance.
    """
    lines, kept = source.splitlines(), _code(source)
    texts = {row: lines[row - 1][line.start : line.end] for row, line in kept.items()}
    for node in _documented(ast.parse(source)):
        docstring = node.body[0]
        for row in range(docstring.lineno, (docstring.end_lineno or 0) + 1):
            del texts[row]
        if len(node.body) == 1 and not isinstance(node, ast.Module):
            texts[docstring.lineno] = "..."
    text = "".join(f"{' ' * kept[row].indentation}{line}\n" for row, line in sorted(texts.items()))
    if not same_program(text, source):
        raise ValueError(
            "without comments and docstrings it would be another program: simplify its formatting"
        )
    return text


def _code(source: str) -> dict[int, _Line]:
    """Map the number of each line with code to the part of the line that is code."""
    lines = source.splitlines()
    found: dict[int, _Line] = {}
    level = brackets = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        level += (token.type == tokenize.INDENT) - (token.type == tokenize.DEDENT)
        if token.type in (*_LAYOUT, tokenize.INDENT, tokenize.DEDENT):
            continue
        brackets -= token.type == tokenize.OP and token.string in ")]}"
        (first, start), (last, end) = token.start, token.end
        found.setdefault(first, _Line(level + brackets, start, end)).end = end
        for row in range(first, last):  # a string of several lines keeps its own indentation
            found[row].end = len(lines[row - 1])
            found[row + 1] = _Line(0, 0, end)
        brackets += token.type == tokenize.OP and token.string in "([{"
    return found


def _documented(tree: ast.Module) -> Iterator[_Documented]:
    """Yield the module, classes and functions that have a docstring."""
    for node in ast.walk(tree):
        if isinstance(node, _Documented) and node.body:
            match node.body[0]:
                case ast.Expr(ast.Constant(str())):
                    yield node


def same_program(text: str, source: str) -> bool:
    """Return whether *text* is the program *source*, apart from comments and docstrings.

    A comment that declares an encoding does count: Python would read the file in that encoding.
    """
    if any(_ENCODING.match(line) for line in text.splitlines()[:2]):
        return False
    try:
        return _without_docstrings(text) == _without_docstrings(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # *text* is not a program
        return False


def _without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in _documented(tree):
        node.body = node.body[1:] or [ast.Expr(ast.Constant(...))]
    return ast.dump(tree)
