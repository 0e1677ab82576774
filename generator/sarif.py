"""SARIF for code scanning: cfn-lint's, with the path in the template and the counterexample.

Source: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cfnlint.formatters import SARIFFormatter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cfnlint.config import ConfigMixIn
    from cfnlint.match import Match
    from cfnlint.rules import Rules


def sarif(matches: Sequence[Match], rules: Rules, config: ConfigMixIn) -> str:
    """Return *matches* as SARIF.

    Each result names its rule, the lines, the path of the node (a logical location), and a
    counterexample where the rule found one (in its properties).
    """
    log = json.loads(SARIFFormatter().print_matches(matches, rules, config=config))
    for run in log["runs"]:
        for result, match in zip(run.get("results", []), matches, strict=True):
            _complete(result, match)
    return json.dumps(log, indent=2)


def _complete(result: dict[str, Any], match: Match) -> None:
    for location in result["locations"]:
        artifact = location["physicalLocation"]["artifactLocation"]
        # A URI: brackets and spaces in a file's name must be escaped.
        artifact["uri"] = quote(artifact["uri"])
        if path := getattr(match, "path", None):
            name = "/".join(map(str, path))
            location["logicalLocations"] = [{"fullyQualifiedName": name}]
    if counterexample := getattr(match, "counterexample", None):
        result["properties"] = {"counterexample": counterexample}
