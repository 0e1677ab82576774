"""How time and memory depend on the size: memory is constant, time is linear.

Weights of several sizes are encrypted, decrypted and copied in turn. A program's constant costs are
excluded by comparing with the smallest size. The time to provide memory for files is in the
kernel's time, not in the user's, and in that of `cp`.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import contenders, inputs
from benchmarks.measure import MIB, Report, Run, Runs, measured
from tests.support.kms import KmsServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

SIZES = (64, 256, 1024, 4096)  # MB of weights
ROUNDS = 3  # at most: the largest takes half a minute
SPARSE = 8192  # MB of zeros that take no space
WAYS = ("encrypt", "decrypt", "cp")
ROOM = 4  # times the largest size: source, artifact, tree, and a margin


@dataclass(frozen=True)
class Growth(Report):
    """The runs of each program for each size, in MB, and separately those with zeros."""

    headings = (
        "way",
        "MB",
        "median s",
        "spread",
        "ms per extra MB",
        "user ms per extra MB",
        "peak MiB",
    )
    title: str
    runs: Mapping[tuple[str, int], Runs]
    zeros: Mapping[str, Run]

    def rows(self) -> Iterator[Sequence[str]]:
        """Yield a row for each program and size."""
        least = min(size for _, size in self.runs)
        for (way, size), runs in self.runs.items():
            rates = ["", ""]
            if size > least:
                smallest, more = self.runs[way, least], (size - least) / 1000
                seconds = runs.seconds - smallest.seconds
                user = runs.user_seconds - smallest.user_seconds
                rates = [f"{seconds / more:.2f}", f"{user / more:.2f}"]
            measures = f"{runs.seconds:.2f}", f"{runs.spread:.0%}"
            yield way, f"{size:,}", *measures, *rates, f"{runs.peak:.0f}"
        for way, run in self.zeros.items():
            yield f"{way} zeros", f"{SPARSE:,}", "", "", "", "", f"{run.peak_bytes / MIB:.0f}"


def growth(sizes: Sequence[int], rounds: int, work: Path) -> Growth:
    """Measure sizes in *work*, as far as it has room."""
    status = os.statvfs(work)
    room = status.f_bavail * status.f_frsize // inputs.MEGABYTE
    sizes = [size for size in sizes if size * ROOM < room]
    timed: dict[tuple[str, int], list[Run]] = {(way, s): [] for way in WAYS for s in sizes}
    for _ in range(rounds):
        for size in sizes:
            inputs.weights(work / "source", size)
            for way, run in _once(work, watched=False).items():
                timed[way, size].append(run)
    watched: dict[tuple[str, int], Run] = {}
    for size in sizes:
        inputs.weights(work / "source", size)
        for way, run in _once(work, watched=True).items():
            watched[way, size] = run
    zeros: dict[str, Run] = {}
    if room > SPARSE * 5 // 4:  # decrypted they need the space, and a margin
        inputs.sparse(work / "source", SPARSE)
        zeros = _once(work, watched=True)
        del zeros["cp"]
    runs = {case: Runs(timed[case], watched[case]) for case in timed}
    return Growth(f"Growth from {sizes[0]} to {sizes[-1]:,} MB of weights", runs, zeros)


def _once(work: Path, *, watched: bool) -> dict[str, Run]:
    """Copy, encrypt and decrypt the `source` in *work*, and leave nothing there."""
    source, artifact, copy = work / "source", work / "artifact", work / "copy"
    copied = measured(["cp", "-r", str(source), str(copy)], watched=watched)
    shutil.rmtree(copy)
    with KmsServer() as kms:
        sealed, data_key = contenders.encrypted(source, artifact, kms, watched=watched)
    shutil.rmtree(source)
    opened = contenders.decrypting(artifact, data_key, work)[contenders.OURS](watched=watched)
    artifact.unlink()
    return dict(zip(WAYS, (sealed, opened, copied), strict=True))
