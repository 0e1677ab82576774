"""Run programs against each other and say how long they took, and how much memory.

    python -m benchmarks.measure PROGRAM [ARGUMENT...]    one run, as JSON

Contenders run in turn, round after round, so that whatever else the machine does meets all alike;
only ratios within one call mean anything.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MIB = 1 << 20
INTERVAL = 0.003  # seconds between two looks at memory
HEADINGS = ("way", "times faster", "median s", "spread", "peak MiB", "CPU s")


class Contender(Protocol):
    """What can be run again and again."""

    def __call__(self, *, watched: bool) -> Run:
        """Run it once."""


Contenders = dict[str, Contender]


@dataclass(frozen=True)
class Run:
    """One start of a program or a pipe of programs, to the end of the last."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int  # of all its processes together


class FailedError(Exception):
    """A contender did not do its work."""


def measured(
    *pipe: Sequence[str], environment: Mapping[str, str] | None = None, watched: bool = False
) -> Run:
    """Run *pipe*, each program's output the next one's input; the last one's is thrown away.

    Its peak is the sum of what the programs alone had resident. *watched*, it is also that of the
    programs with their processes, if that is more: every few milliseconds the kernel is asked,
    which takes time, so the seconds of such a run count for nothing.

    Call it from a small process: on Linux the peak of a new process is at least that of the
    one which starts it.

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
    cpu, peak, together = 0.0, 0, 0
    while watched and not _over(processes[-1].pid):
        together = max(together, sum(_memory(process.pid) for process in processes))
        time.sleep(INTERVAL)
    for process in processes:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        cpu += usage.ru_utime + usage.ru_stime
        peak += usage.ru_maxrss * 1024
    seconds = time.perf_counter() - start
    for process, command in zip(processes, pipe, strict=True):
        if process.returncode:
            raise FailedError(f"{command[0]} ended with {process.returncode}: see above")
    return Run(seconds, cpu, max(peak, together))


def _over(pid: int) -> bool:
    """Tell whether a child has ended; its status stays to be read."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _memory(pid: int) -> int:
    """Return the bytes of a process and its descendants; what some share counts once (Pss)."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended
        return 0
    own = sum(int(line.split()[1]) << 10 for line in rollup if line.startswith("Pss:"))
    return own + sum(_memory(int(child)) for child in children)


def interleaved(title: str, reference: str, contenders: Contenders, rounds: int) -> Result:
    """Run each contender *rounds* times, in turn, and once more to watch its memory."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            runs[name].append(run(watched=False))
    peaks = {name: run(watched=True).peak_bytes for name, run in contenders.items()}
    return Result(title, reference, runs, peaks)


@dataclass(frozen=True)
class Result:
    """What a comparison found: the runs of each contender, compared with *reference*'s."""

    title: str
    reference: str
    runs: Mapping[str, Sequence[Run]]
    peaks: Mapping[str, int]  # bytes

    def seconds(self, name: str) -> float:
        """Return the median of a contender's seconds."""
        return statistics.median(run.seconds for run in self.runs[name])

    def faster(self, name: str) -> float:
        """Return how many times faster than the reference a contender is."""
        return self.seconds(self.reference) / self.seconds(name)

    def _rows(self) -> Iterator[list[str]]:
        for name, runs in self.runs.items():
            seconds = [run.seconds for run in runs]
            spread = (max(seconds) - min(seconds)) / self.seconds(name)
            peak = max(self.peaks[name], *(run.peak_bytes for run in runs)) / MIB
            cpu = statistics.median(run.cpu_seconds for run in runs)
            faster = f"{self.faster(name):.1f}x"
            yield [
                name,
                faster,
                f"{self.seconds(name):.2f}",
                f"{spread:.0%}",
                f"{peak:.0f}",
                f"{cpu:.2f}",
            ]

    def table(self) -> Table:
        """Return a table for a terminal."""
        rounds = len(self.runs[self.reference])
        table = Table(title=f"{self.title}, {rounds} rounds", title_justify="left")
        for heading in HEADINGS:
            table.add_column(heading, justify="left" if heading == HEADINGS[0] else "right")
        for row in self._rows():
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """Return a table for a page."""
        rule = "|".join(["---", *["---:"] * (len(HEADINGS) - 1)])
        lines = [f"### {self.title}", "", f"| {' | '.join(HEADINGS)} |", f"|{rule}|"]
        for row in self._rows():
            cells = (cell.replace("|", "\\|") for cell in row)
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(json.dumps(asdict(measured(sys.argv[1:], watched=True))))
