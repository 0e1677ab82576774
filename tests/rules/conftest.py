"""Validation by the command line: one run for many templates."""

import functools
import json
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cfnlint.config import ConfigMixIn
from cfnlint.decode import decode_str
from cfnlint.rules import Rules
from cfnlint.runner import run_template_by_data

from tests.support import verb
from tests.support.paths import PROJECT

Findings = dict[Path, list[tuple[str, str]]]


def validate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return verb.run("validate", *arguments)


NOT_ABOUT_KEYS = ("E90", "E92", "W92")
"""Prefixes of our rules that judge no key, for which a proof takes longer than all of them."""


@functools.cache
def rules(*prefixes: str) -> Rules:
    """Return this project's rules whose ids have one of *prefixes*."""
    ours = Rules.create_from_directory(PROJECT / "generator/rules")
    return Rules({name: rule for name, rule in ours.data.items() if name.startswith(prefixes)})


def judged(template: Mapping[str, Any], *prefixes: str) -> list[tuple[str, str]]:
    """Return what cfn-lint finds by `rules` alone, which saves most of the time of `validated`."""
    decoded, problems = decode_str(json.dumps(template))
    assert not problems
    found = run_template_by_data(decoded, ConfigMixIn(regions=["us-east-1"]), rules(*prefixes))
    return [
        (match.rule.id, f"{'/'.join(map(str, match.path or ()))}: {match.message}")
        for match in found
    ]


def validated(templates: Iterable[Path], *options: str) -> Findings:
    """Return rule and text (path and message) of every finding in *templates*, by file."""
    run = validate(*sorted(templates), "--", "--format", "json", *options)
    found: Findings = defaultdict(list)
    for match in json.loads(run.stdout):
        place = "/".join(map(str, match["Location"]["Path"] or ()))
        found[Path(match["Filename"])].append((match["Rule"]["Id"], f"{place}: {match['Message']}"))
    return found
