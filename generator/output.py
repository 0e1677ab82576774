"""What a verb found out, in the format and to the place that its options name."""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from generator.terminal import STANDARD_OUTPUT, write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from rich.console import Console

PIPE_WIDTH = 160
"""Columns of a table that goes into a pipe: wide enough for principals' names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options for the format and the place."""
    parser.add_argument(
        "--format", choices=("text", "json", "html"), default="text", help="default: text"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="default: standard output")


def show(
    options: argparse.Namespace,
    *,
    text: Callable[[Console], object],
    json: Callable[[], str],
    html: Callable[[], str],
) -> None:
    """Write what *options* ask for, by the function for it; the others are not called.

    Raises:
        OSError: the file cannot be written.
    """
    if options.format == "text":
        with console(options.output) as out:
            text(out)
        return
    shown = {"json": json, "html": html}[options.format]()
    write(options.output, shown if shown.endswith("\n") else f"{shown}\n")


@contextmanager
def console(output: str | None = None) -> Iterator[Console]:
    """Yield a console for the file *output*, written at the end, or for standard output.

    On a terminal, lines have its width; elsewhere they are wide enough for names.
    """
    from rich.console import Console

    if output in (None, STANDARD_OUTPUT) and sys.stdout.isatty():
        # No styles at all, not even bold: https://no-color.org.
        plainly = False if os.environ.get("NO_COLOR") else None
        yield Console(highlight=False, markup=False, force_terminal=plainly)
        return
    printed = io.StringIO()
    yield Console(file=printed, highlight=False, markup=False, width=PIPE_WIDTH)
    lines = (line.rstrip() for line in printed.getvalue().splitlines())  # rich pads table rows
    write(output, "".join(f"{line}\n" for line in lines))
