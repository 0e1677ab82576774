"""Validation by the command line: one run for many templates."""

import json
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.support import verb

Findings = dict[Path, list[tuple[str, str]]]


def validate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return verb.run("validate", *arguments)


def validated(templates: Iterable[Path]) -> Findings:
    """Return rule and text (path and message) of every finding in *templates*, by file."""
    run = validate(*sorted(templates), "--", "--format", "json")
    found: Findings = defaultdict(list)
    for match in json.loads(run.stdout):
        place = "/".join(map(str, match["Location"]["Path"] or ()))
        found[Path(match["Filename"])].append((match["Rule"]["Id"], f"{place}: {match['Message']}"))
    return found
