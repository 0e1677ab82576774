"""Progress on a terminal."""

from __future__ import annotations

import sys
import time
from typing import Self

SECONDS_SHOWN = 0.1  # between two progress lines


class Progress:
    """Bytes, rate and time left, on one line of the terminal; silent where there is none."""

    def __init__(self, verb: str, total: int) -> None:
        """Show *verb* and how much of *total* bytes has been added."""
        self._verb, self._total, self._done = verb, total, 0
        self._start = self._shown = time.monotonic()
        self._visible = sys.stderr is not None and sys.stderr.isatty()

    def __enter__(self) -> Self:
        """Begin; nothing is shown yet."""
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """Leave a summary, or nothing after a failure."""
        if self._visible:
            seconds = time.monotonic() - self._start
            size, rate = self._done / 1e6, self._done / 1e6 / seconds
            summary = f"{self._verb} took {seconds:.1f} s: {size:.0f} MB, {rate:.0f} MB/s\n"
            self._show("" if failure else summary)

    def add(self, size: int) -> None:
        """Count *size* more bytes."""
        if not self._visible:
            return
        self._done += size
        now = time.monotonic()
        if now - self._shown > SECONDS_SHOWN:
            self._shown = now
            rate = self._done / (now - self._start)
            left = max(0, self._total - self._done) / rate
            self._show(
                f"{self._verb} {self._done / 1e6:.0f} of {self._total / 1e6:.0f} MB, "
                f"{rate / 1e6:.0f} MB/s, {left:.0f} s left"
            )

    def _show(self, line: str) -> None:
        sys.stderr.write(f"\r\033[K{line}")
        sys.stderr.flush()
