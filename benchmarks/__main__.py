"""Speed and memory compared with the alternatives, as ratios measured in one run: `make bench`.

All files are in a memory file system, because on a disk the write-back would be measured, and every
figure includes the start of the process. The programs run in turn, round after round. Prints
tables, and updates the figures and the chart of docs/performance.md.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pygal
from pygal.style import CleanStyle
from rich.console import Console

from benchmarks import contenders, inputs
from benchmarks.growth import ROUNDS, SIZES, growth
from benchmarks.measure import Comparison, FailedError, Report, interleaved
from tests.support.kms import KmsServer

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/performance.md"
CHART = ROOT / "docs/performance.svg"
STARTS = 4  # rounds of starting a program, for each of the others


def reports(options: argparse.Namespace, work: Path) -> Iterator[Report]:
    """Yield a table for each input, each artifact, growth with size, and starting up."""
    weights = (f"{options.megabytes} MB of weights", inputs.weights, options.megabytes)
    tree = (f"a tree of {options.files:,} files", inputs.tree, options.files)
    reference = contenders.WHOLE_FILE
    for title, make, amount in (weights, tree):
        artifact = work / "artifact"
        with _made(make, amount, work) as source, KmsServer() as kms:
            ways = contenders.encrypting(source, work, kms.environment)
            yield Comparison(f"Encrypt {title}", reference, interleaved(ways, options.rounds))
            _, data_key = contenders.encrypted(source, artifact, kms)
        ways = contenders.decrypting(artifact, data_key, work)
        yield Comparison(f"Decrypt {title}", reference, interleaved(ways, options.rounds))
        artifact.unlink()
    if options.growth:
        yield growth(SIZES, min(options.rounds, ROUNDS), work)
    runs = interleaved(contenders.starting(), options.rounds * STARTS)
    yield Comparison("Start", "python -c pass", runs)


@contextmanager
def _made(make: Callable[[Path, int], None], amount: int, work: Path) -> Iterator[Path]:
    source = work / "source"
    make(source, amount)
    try:
        yield source
    finally:
        shutil.rmtree(source)


def record(found: list[Report]) -> None:
    """Update docs/performance.md and its chart."""
    page = PAGE.read_text(encoding="utf-8")
    page = re.sub(
        r"(<!-- figures -->\n).*(<!-- end -->)",
        lambda mark: mark[1] + table(found) + mark[2],
        page,
        flags=re.DOTALL,
    )
    PAGE.write_text(page, encoding="utf-8", newline="\n")
    CHART.write_text(chart(found) + "\n", encoding="utf-8", newline="\n")


def table(found: list[Report]) -> str:
    """Return the page's table: how many times faster than the whole-file script, and memory."""
    ways = (contenders.OURS, contenders.UNACCELERATED, contenders.AGE)
    lines = [
        f"| work | {' | '.join(ways).replace(contenders.AGE, 'tar, age')} | memory | whole file |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for each in _compared(found):
        ratios = [f"{each.faster(way):.1f} x" if way in each.runs else "–" for way in ways]
        memory = f"{each.runs[contenders.OURS].peak:,.0f} MiB"
        whole = each.runs[contenders.WHOLE_FILE]
        reference = f"{whole.seconds:.1f} s, {whole.peak:,.0f} MiB"
        lines.append(f"| {each.title} | {' | '.join(ratios)} | {memory} | {reference} |")
    return "".join(f"{line}\n" for line in lines)


def _compared(found: list[Report]) -> list[Comparison]:
    comparisons = [report for report in found if isinstance(report, Comparison)]
    return [each for each in comparisons if each.reference == contenders.WHOLE_FILE]


def chart(found: list[Report]) -> str:
    """Return an SVG: how many times faster than the whole-file script each program is."""
    bars = pygal.HorizontalBar(
        style=CleanStyle, show_legend=True, print_values=True, js=[], disable_xml_declaration=True
    )
    bars.title = "Times faster than the whole-file way"
    bars.value_formatter = "{:.1f}x".format
    compared = _compared(found)
    bars.x_labels = [result.title for result in reversed(compared)]
    for name in dict.fromkeys(name for result in compared for name in result.runs):
        if name not in ("cp", "tar"):  # they only copy, and would be off the scale
            bars.add(name, [_bar(result, name) for result in reversed(compared)])
    return str(bars.render(is_unicode=True))


def _bar(result: Comparison, name: str) -> float | None:
    return result.faster(name) if name in result.runs else None


def main() -> int:
    """Create the inputs, compare, print, record, and remove everything."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--files", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--growth", action="store_true", help="also sizes up to 4 GB; takes minutes"
    )
    parser.add_argument("--keep", action="store_true", help="do not change docs/performance.md")
    options = parser.parse_args()
    console = Console()
    if not shutil.which("age"):
        print("age is not installed: apt-get install age adds it to the tables", file=sys.stderr)
    memory = os.environ.get("TMPDIR") or "/dev/shm"  # noqa: S108 - see above
    found: list[Report] = []
    with tempfile.TemporaryDirectory(dir=memory) as work:
        try:
            for report in reports(options, Path(work)):
                console.print(report.table())
                found.append(report)
        except FailedError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    if not options.keep:
        record(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
