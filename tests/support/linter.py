"""cfn-lint's rules, imported once.

It imports them again for each run, which takes longer than to check one of the tests' templates.
"""

from __future__ import annotations

import functools
from typing import Any

import cfnlint.helpers

load_plugins = cfnlint.helpers.load_plugins


@functools.cache
def rules_in(folder: str) -> list[type]:
    return [type(rule) for rule in load_plugins(folder)]


def load_rules_once() -> None:
    """Make each later run in this process create its rules from the classes of the first one."""

    def load(folder: str) -> list[Any]:
        return [rule() for rule in rules_in(folder)]

    cfnlint.helpers.load_plugins = load
