"""Run programs in turn and measure their time and memory.

    python -m benchmarks.measure PROGRAM [ARGUMENT...]    one run, as JSON

The programs run in turn, round after round, so that other activity on the machine affects all of
them equally; only ratios within one call are meaningful.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MIB = 1 << 20
INTERVAL = 0.003  # seconds between two samples of memory


class Contender(Protocol):
    """Something that can be run repeatedly."""

    def __call__(self, *, watched: bool) -> Run:
        """Run it once."""


Contenders = dict[str, Contender]


@dataclass(frozen=True)
class Run:
    """One start of a program or a pipe of programs, to the end of the last."""

    seconds: float
    cpu_seconds: float
    user_seconds: float  # of these, outside the kernel
    peak_bytes: int  # of all its processes together


class FailedError(Exception):
    """A program failed."""


def measured(
    *pipe: Sequence[str], environment: Mapping[str, str] | None = None, watched: bool = False
) -> Run:
    """Run *pipe*, where each program's output is the next one's input; the last is discarded.

    Its peak is the sum of the programs' own peaks. If *watched*, child processes are included, if
    that is more: memory is sampled every few milliseconds, which takes time, so the duration of
    such a run is not meaningful.

    Call it from a small process: on Linux the peak of a new process is at least that of the process
    that starts it.

    Raises:
        FailedError: a program ended with a status other than 0.
    """
    start = time.perf_counter()
    processes: list[subprocess.Popen[bytes]] = []
    source: int | None = subprocess.DEVNULL
    for number, command in enumerate(pipe, 1):
        sink = subprocess.DEVNULL if number == len(pipe) else subprocess.PIPE
        process = subprocess.Popen(command, stdin=source, stdout=sink, env=environment)
        if processes and (handed_on := processes[-1].stdout):
            handed_on.close()
        source = process.stdout.fileno() if process.stdout else None
        processes.append(process)
    user, system, peak, together = 0.0, 0.0, 0, 0
    while watched and not _over(processes[-1].pid):
        together = max(together, sum(_memory(process.pid) for process in processes))
        time.sleep(INTERVAL)
    for process in processes:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        user += usage.ru_utime
        system += usage.ru_stime
        peak += usage.ru_maxrss * 1024
    seconds = time.perf_counter() - start
    for process, command in zip(processes, pipe, strict=True):
        if process.returncode:
            raise FailedError(f"{command[0]} ended with {process.returncode}: see above")
    return Run(seconds, user + system, user, max(peak, together))


def _over(pid: int) -> bool:
    """Return whether a child has ended, without reaping it."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _memory(pid: int) -> int:
    """Return the memory of a process and its descendants, counting shared pages once (Pss)."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended
        return 0
    own = sum(int(line.split()[1]) << 10 for line in rollup if line.startswith("Pss:"))
    return own + sum(_memory(int(child)) for child in children)


class Report(ABC):
    """A titled table, for a terminal or a page; the first column is text, the others numbers."""

    title: str
    headings: ClassVar[tuple[str, ...]]

    @abstractmethod
    def rows(self) -> Iterator[Sequence[str]]:
        """Yield the cells of each row."""

    def table(self) -> Table:
        """Return a table for a terminal."""
        table = Table(title=self.title, title_justify="left")
        for heading in self.headings:
            table.add_column(heading, justify="left" if heading == self.headings[0] else "right")
        for row in self.rows():
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """Return a table for a page."""
        rule = "|".join(["---", *["---:"] * (len(self.headings) - 1)])
        lines = [f"### {self.title}", "", f"| {' | '.join(self.headings)} |", f"|{rule}|"]
        for row in self.rows():
            cells = (cell.replace("|", "\\|") for cell in row)
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Runs:
    """The measurements of one program over several rounds."""

    timed: Sequence[Run]
    watched: Run  # for its memory only

    @property
    def seconds(self) -> float:
        """Return the median."""
        return statistics.median(run.seconds for run in self.timed)

    @property
    def cpu_seconds(self) -> float:
        """Return the median."""
        return statistics.median(run.cpu_seconds for run in self.timed)

    @property
    def user_seconds(self) -> float:
        """Return the median."""
        return statistics.median(run.user_seconds for run in self.timed)

    @property
    def spread(self) -> float:
        """Return the difference between the slowest and the fastest, relative to the median."""
        seconds = [run.seconds for run in self.timed]
        return (max(seconds) - min(seconds)) / self.seconds

    @property
    def peak(self) -> float:
        """Return the greatest memory of a run, in MiB."""
        return max(run.peak_bytes for run in (self.watched, *self.timed)) / MIB


@dataclass(frozen=True)
class Comparison(Report):
    """The runs of each program, compared with those of *reference*."""

    headings = ("way", "times faster", "median s", "spread", "peak MiB", "CPU s")
    title: str
    reference: str
    runs: Mapping[str, Runs]

    def faster(self, name: str) -> float:
        """Return how many times faster than the reference a program is."""
        return self.runs[self.reference].seconds / self.runs[name].seconds

    def rows(self) -> Iterator[Sequence[str]]:
        """Yield a row for each program."""
        for name, runs in self.runs.items():
            yield (
                name,
                f"{self.faster(name):.1f}x",
                f"{runs.seconds:.2f}",
                f"{runs.spread:.0%}",
                f"{runs.peak:.0f}",
                f"{runs.cpu_seconds:.2f}",
            )


def interleaved(contenders: Contenders, rounds: int) -> dict[str, Runs]:
    """Run each program *rounds* times, in turn, and once more to sample its memory.

    Every other round is in reverse order, because the previous program leaves caches warm or cold.
    """
    timed: dict[str, list[Run]] = {name: [] for name in contenders}
    order = list(contenders)
    for _ in range(rounds):
        for name in order:
            timed[name].append(contenders[name](watched=False))
        order.reverse()
    return {name: Runs(timed[name], run(watched=True)) for name, run in contenders.items()}


if __name__ == "__main__":
    print(json.dumps(asdict(measured(sys.argv[1:], watched=True))))
