"""Generates the module map in CONTRIBUTING.md: packages, their modules, and what imports what.

What a module is for is the first line of its docstring; what a package is for, that of
its ``__init__.py``; a folder of programs, which is not a package, has a line in `PURPOSES`.
"""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

FIRST = ("generator", "encryption", "enclave", "scripts", "rehearsal")
"""The top folders that a newcomer should read first."""

PURPOSES = {
    "encryption": "The programs that are copied into a buildspec and into an enclave's image.",
    "enclave": "How a request to run a script reaches the decryptor, and how its output returns.",
    "scripts": "What a person runs after a deployment: to bind images, to check that KMS refuses.",
    "tools": "What only a contributor runs.",
}
IMPORT_ROOTS = ("", "encryption/")
"""Where modules are looked for: a program also imports what is in its own folder."""

TESTS = Path("tests")


def tops() -> list[Path]:
    """Return the top folders with modules, except the tests."""
    found = {each.parent for each in Path().glob("[!.]*/*.py")} - {TESTS}
    first = [Path(name) for name in FIRST]
    return [*first, *sorted(found.difference(first))]


def modules() -> Iterator[Path]:
    """Yield every module, package by package, from the top."""
    for top in tops():
        for room in (top, *sorted(each.parent for each in top.glob("*/__init__.py"))):
            yield from sorted(path for path in room.glob("*.py") if path.name != "__init__.py")


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def purpose(path: Path) -> str:
    """Return the first line of the docstring of *path*."""
    docstring = ast.get_docstring(_parsed(path)) or ""
    return docstring.partition("\n")[0].replace("``", "`")


def imported(path: Path, known: Mapping[str, Path], *, late: bool) -> Iterator[Path]:
    """Yield what *path* imports of the modules *known* by dotted name, at its start or *late*, too.

    Imports for type checking alone do not count.
    """
    for node in _executed(_parsed(path), late=late):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:  # relative to the room
                module = ".".join([*path.parent.parts, *filter(None, [module])])
            names = [f"{module}.{alias.name}" for alias in node.names]
            package = known.get(module, path)
            yield from (known.get(name, package) for name in names)
        elif isinstance(node, ast.Import):
            yield from (known.get(alias.name, path) for alias in node.names)


def _executed(node: ast.AST, *, late: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.expr):  # holds no statement, so no import
            continue
        if late or not isinstance(child, ast.FunctionDef):
            yield child
            yield from _executed(child, late=late)


def imports(*, late: bool) -> dict[Path, set[Path]]:
    """Return, for each module, the others that it imports at its start, or *late*, too."""
    found = list(modules())
    known = {
        str(path.with_suffix("")).removeprefix(root).replace("/", "."): path
        for root in IMPORT_ROOTS
        for path in found
        if str(path).startswith(root)
    }
    return {path: set(imported(path, known, late=late)) - {path} for path in found}


def in_order(room: Iterable[Path], graph: Mapping[Path, set[Path]]) -> Iterator[Path]:
    """Yield the modules of *room* so that none imports what follows it.

    Raises:
        graphlib.CycleError: two import each other.
    """
    inside = set(room)
    sorter = TopologicalSorter({path: graph[path] & inside for path in inside})
    sorter.prepare()
    while ready := sorted(sorter.get_ready()):
        yield from ready
        sorter.done(*ready)


def _room(folder: Path, own: Iterable[Path], graph: Mapping[Path, set[Path]]) -> Iterator[str]:
    own = list(own)
    package = folder / "__init__.py"
    meant = PURPOSES.get(str(folder)) or purpose(package)
    others = sorted({str(each.parent) for path in own for each in graph[path]} - {str(folder)})
    yield f"### `{folder}/`\n\n{meant}\n"
    if others:
        yield f"Imports {', '.join(f'`{name}/`' for name in others)}.\n"
    yield "\n"
    yield from (f"- `{path.name}`: {purpose(path)}\n" for path in own)
    yield "\n"


def best_order(room: list[Path], graphs: Iterable[Mapping[Path, set[Path]]]) -> list[Path]:
    """Return the order of *room* by the first of *graphs* in which nothing goes round in circles.

    Raises:
        graphlib.CycleError: none is such a graph.
    """
    circle = None
    for graph in graphs:
        try:
            return list(in_order(room, graph))
        except CycleError as error:
            circle = error
    raise circle or ValueError("no graph")


def drawn() -> str:
    """Return the map as Markdown."""
    graph, starts = imports(late=True), imports(late=False)
    rooms = defaultdict(list)
    for path in graph:
        rooms[path.parent].append(path)
    parts = [
        part
        for folder, own in rooms.items()
        for part in _room(folder, best_order(own, (graph, starts)), graph)
    ]
    parts.append(f"### `{TESTS}/`\n\n{purpose(TESTS / '__init__.py')}\n\n")
    folders = sorted(TESTS.glob("*/__init__.py"))
    parts += [f"- `{init.parent.name}/`: {purpose(init)}\n" for init in folders]
    parts += [f"- `{path.name}`: {purpose(path)}\n" for path in sorted(TESTS.glob("test_*.py"))]
    return "".join(parts)
