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


OUR_RULES = ("--ignore-checks", *(f"{severity}{n}" for severity in "EW" for n in range(1, 9)), "I")
"""cfn-lint's options for this project's rules alone, which takes half of the time."""


def validated(templates: Iterable[Path], *options: str) -> Findings:
    """Return rule and text (path and message) of every finding in *templates*, by file."""
    run = validate(*sorted(templates), "--", "--format", "json", *options)
    found: Findings = defaultdict(list)
    for match in json.loads(run.stdout):
        place = "/".join(map(str, match["Location"]["Path"] or ()))
        found[Path(match["Filename"])].append((match["Rule"]["Id"], f"{place}: {match['Message']}"))
    return found
