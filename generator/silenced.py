"""Which of this project's rules a template itself silences.

cfn-lint takes wishes from a template's own Metadata. For a security finding that means: whoever
wrote the template decides what its auditor is told. So it is said.

Source: https://github.com/aws-cloudformation/cfn-lint#metadata
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from generator.nodes import mapping

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OURS = re.compile(r"[EWI]9[0-9]{3}")
"""The range of ids that cfn-lint leaves to its users."""


def silenced(template: Mapping[str, object], rules: Iterable[str]) -> str:
    """Say which of *rules* are silenced by *template*, and for which resources; empty: none.

    For the whole template, cfn-lint takes the beginning of an id; for a resource, whole ids alone.
    """
    ours = sorted(rule for rule in rules if OURS.fullmatch(rule))
    everywhere = [rule for rule in ours if rule.startswith(tuple(_ignored(template)))]
    told = list(everywhere)
    resources = mapping(template.get("Resources"))
    for rule in (each for each in ours if each not in everywhere):
        names = [str(name) for name, node in resources.items() if rule in _ignored(mapping(node))]
        if names:
            told.append(f"{rule} for {' and '.join(names)}")
    return ", ".join(told)


def _ignored(node: Mapping[str, object]) -> list[str]:
    config = mapping(mapping(mapping(node.get("Metadata")).get("cfn-lint")).get("config"))
    ignored = config.get("ignore_checks")
    return [str(each) for each in ignored] if isinstance(ignored, list) else []
