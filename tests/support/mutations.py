"""Mutates valid inputs at random, and keeps mutants that reach new code.

A seed reproduces a run. Coverage is Python's own trace function, for one folder: enough to get past
one check after another, without a dependency.
"""

from __future__ import annotations

import sys
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
CHANGES_MAX = 4


def mutated(content: bytes, others: Sequence[bytes], dice: Random) -> bytes:
    """Return *content* with one to four changes, some of them spliced from *others*."""
    for _ in range(dice.randint(1, CHANGES_MAX)):
        content = _changed(content, dice.choice(others), dice)
    return content


def _changed(content: bytes, other: bytes, dice: Random) -> bytes:
    at = dice.randrange(len(content) + 1)
    end = min(len(content), at + dice.choice((1, 2, 4, dice.randint(1, 64))))
    width = dice.choice((1, 2, 4))
    start = dice.randrange(len(other) + 1)
    piece = other[start : start + dice.randint(1, 64)]
    edge = dice.choice(EDGES) % (1 << 8 * width)
    new = dice.choice(
        (
            bytes([content[at] ^ 1 << dice.randrange(8)]) if at < len(content) else b"",  # a bit
            edge.to_bytes(width, "little") + content[at + width : end],  # a number
            b"",  # removed
            2 * content[at:end],  # repeated
            piece,  # spliced
            piece + content[at:end],  # inserted
        )
    )
    return content[:at] + new + content[end:]


class Guided:
    """Mutants of valid inputs, and of mutants that reached new code."""

    def __init__(self, corpus: Sequence[bytes], folder: Path, seed: str) -> None:
        """Begin with *corpus*; coverage counts the code in *folder*."""
        self._corpus = list(corpus)
        self._folder = f"{folder}/"
        self._dice = Random(seed)  # noqa: S311 - nothing here is secret
        self._seen: set[tuple[str, int]] = set()

    def inputs(self, count: int) -> Iterator[bytes]:
        """Yield *count* mutants, for `run`."""
        for _ in range(count):
            yield mutated(self._dice.choice(self._corpus), self._corpus, self._dice)

    def run(self, judge: Callable[[bytes], str], content: bytes) -> str:
        """Run *judge* on *content*, which is kept if it reaches a new line."""
        before, outer = len(self._seen), sys.gettrace()
        sys.settrace(self._trace)
        try:
            return judge(content)
        finally:
            sys.settrace(outer)
            if len(self._seen) > before:
                self._corpus.append(content)

    @property
    def reached(self) -> int:
        """The number of lines reached."""
        return len(self._seen)

    def _trace(self, frame: Any, event: str, _argument: object) -> Any:  # noqa: ANN401
        name = frame.f_code.co_filename
        if not name.startswith(self._folder):
            return None
        if event == "line":
            self._seen.add((name, frame.f_lineno))
        return self._trace
