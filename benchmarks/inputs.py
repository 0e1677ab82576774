"""The inputs: weights that cannot be compressed, and a tree of source code."""

import itertools
import os
import shutil
import sysconfig
from pathlib import Path

MEGABYTE = 10**6
FILES_IN_COPY = 1000


def weights(directory: Path, megabytes: int) -> None:
    """Write one file of *megabytes* random bytes, which cannot be compressed."""
    directory.mkdir()
    with (directory / "weights.bin").open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(MEGABYTE))


def sparse(directory: Path, megabytes: int) -> None:
    """Write one sparse file of *megabytes*, which reads as zeros."""
    directory.mkdir()
    with (directory / "zeros.bin").open("wb") as file:
        file.truncate(megabytes * MEGABYTE)


def tree(directory: Path, files: int) -> None:
    """Copy installed Python sources repeatedly, until there are *files* files."""
    installed = Path(sysconfig.get_path("purelib"))
    sources = itertools.cycle(sorted(installed.rglob("*.py")))
    for number, source in zip(range(files), sources, strict=False):
        target = directory / f"{number // FILES_IN_COPY}" / source.relative_to(installed)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
