"""Which of this project's rules a template itself turns off.

cfn-lint reads configuration from a template's own Metadata, so the author of a template can hide
security findings from its auditor. Therefore such rules are reported.

Source: https://github.com/aws-cloudformation/cfn-lint#metadata
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from generator.nodes import mapping

if TYPE_CHECKING:
    from collections.abc import Iterable

OURS = re.compile(r"[EWI]9[0-9]{3}|E0002")
"""The range of ids that cfn-lint leaves to its users; and E0002, which says that a rule crashed."""


def silenced(template: Mapping[str, object], rules: Iterable[str]) -> str:
    """Return which of *rules* the *template* turns off, and for which resources; empty if none.

    For the whole template cfn-lint accepts prefixes of ids; for a resource, only whole ids.
    """
    ours = sorted(rule for rule in rules if OURS.fullmatch(rule))
    everywhere = [rule for rule in ours if rule.startswith(tuple(_ignored(template)))]
    found = list(everywhere)
    resources = mapping(template.get("Resources"))
    for rule in (each for each in ours if each not in everywhere):
        names = [str(name) for name, node in resources.items() if rule in _ignored(mapping(node))]
        if names:
            found.append(f"{rule} for {' and '.join(names)}")
    return ", ".join(found)


def malformed(template: Mapping[str, object]) -> str:
    """Return where *template* has Metadata of a shape on which cfn-lint fails; empty: nowhere."""
    resources = mapping(template.get("Resources"))
    nodes = {"": template} | {f"Resources/{name}/": mapping(resources[name]) for name in resources}
    for start, node in nodes.items():
        place, inside = start, cast("object", node)
        for name in ("Metadata", "cfn-lint", "config"):
            if name not in mapping(inside):
                break
            place, inside = f"{place}{name}/", mapping(inside)[name]
            if not isinstance(inside, Mapping):
                return place.rstrip("/")
        for name in ("ignore_checks", "include_checks"):
            checks = mapping(inside).get(name, []) if place.endswith("/config/") else []
            if not isinstance(checks, list) or not all(isinstance(each, str) for each in checks):
                return f"{place}{name}"
    return ""


def _ignored(node: Mapping[str, object]) -> list[str]:
    config = mapping(mapping(mapping(node.get("Metadata")).get("cfn-lint")).get("config"))
    ignored = config.get("ignore_checks")
    return [str(each) for each in ignored] if isinstance(ignored, list) else []
