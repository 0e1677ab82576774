"""The report of a run, as a table or as JSON, without account numbers."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from conformance.step import Result, Verdict
from generator import terminal
from generator.command_line import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Callable

    from conformance.removal import Removal

PIPE_WIDTH: Final = 160
STYLES: Final = {
    Verdict.AS_EXPECTED: "green",
    Verdict.DIFFERENT: "bold red",
    Verdict.SKIPPED: "dim",
}


@dataclass(frozen=True)
class Report:
    """The results of a run; *anonymous* removes accounts from a text."""

    run: str
    region: str
    results: list[Result]
    removal: Removal | None
    anonymous: Callable[[str], str]

    @property
    def differs(self) -> bool:
        """Whether AWS did anything that was not expected."""
        return any(result.verdict is Verdict.DIFFERENT for result in self.results)

    @property
    def sentence(self) -> str:
        """Return how many steps ended how."""
        count = Counter(result.verdict for result in self.results)
        counted = ", ".join(f"{count[verdict]} {verdict.value}" for verdict in Verdict)
        return f"{len(self.results)} steps: {counted}"

    def as_json(self) -> str:
        """Return everything as JSON."""
        removal = self.removal
        facts: dict[str, Any] = {
            "run": self.run,
            "version": _version(),
            "region": self.region,
            "steps": [
                {
                    "step": result.step,
                    "expected": result.expected,
                    "answer": self.anonymous(result.answer),
                    "verdict": result.verdict.value,
                    "seconds": result.seconds,
                }
                for result in self.results
            ],
            "removed": _all(self.anonymous, removal.removed if removal else []),
            "pending": _all(self.anonymous, removal.pending if removal else []),
            "not_removed": _all(self.anonymous, removal.failed if removal else []),
        }
        return json.dumps(facts, indent=2)

    def print_text(self) -> None:
        """Print everything as a table."""
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        width = None if sys.stdout.isatty() else PIPE_WIDTH
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=True)
        for title in ("step", "expected", "AWS answered", ""):
            table.add_column(title, overflow="fold", no_wrap=title in ("step", ""))
        for result in self.results:
            answer = terminal.printable(self.anonymous(result.answer))
            verdict = Text(result.verdict.value, STYLES[result.verdict])
            table.add_row(Text(result.step), Text(result.expected), Text(answer), verdict)
        console = Console(width=width, highlight=False, markup=False)
        console.print(table)
        console.print(f"run {self.run}, {self.sentence}", soft_wrap=True)


def _version() -> str | None:
    try:
        return version(PROGRAM)
    except PackageNotFoundError:
        return None


def _all(anonymous: Callable[[str], str], texts: list[str]) -> list[str]:
    return [anonymous(text) for text in texts]
