"""Which of this project's rules a template itself turns off.

cfn-lint reads configuration from a template's own Metadata, so the author of a template can hide
security findings from its auditor. Therefore such rules are reported.

Source: https://github.com/aws-cloudformation/cfn-lint#metadata
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from generator.nodes import mapping

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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


def _ignored(node: Mapping[str, object]) -> list[str]:
    config = mapping(mapping(mapping(node.get("Metadata")).get("cfn-lint")).get("config"))
    ignored = config.get("ignore_checks")
    return [str(each) for each in ignored] if isinstance(ignored, list) else []
