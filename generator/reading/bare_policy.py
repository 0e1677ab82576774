"""A key policy on its own: the account that owns the key, and a template with such a key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from generator.nodes import listed, mapping

ACCOUNT = re.compile(r"(?:arn:[^:]+:iam::)?(\d{12})(?::root)?")
"""An account as a principal: its root's ARN, or its number alone.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html
"""
GOVERNS = re.compile(r"\*|kms:(\*|put(\*|keypolicy))", re.IGNORECASE)


def likely_owner(policy: Mapping[str, object]) -> str | None:
    """Return the account that most likely owns the key: the first that may change its *policy*.

    KMS refuses a policy under which nobody may change it, and its default policy begins with the
    owner's account. None if no account may change it.
    """
    for statement in map(mapping, listed(policy.get("Statement", []))):
        governs = any(GOVERNS.fullmatch(str(each)) for each in listed(statement.get("Action", [])))
        if statement.get("Effect") != "Allow" or not governs or statement.get("Condition"):
            continue
        for principal in listed(mapping(statement.get("Principal")).get("AWS", [])):
            if found := ACCOUNT.fullmatch(str(principal)):
                return found[1]
    return None


def as_template(policy: Mapping[str, object], owner: str | None) -> dict[str, Any]:
    """Return a template with one key, ``Key``, that has *policy*, in the account *owner*."""
    key_policy = for_account(policy, owner)
    return {
        "Resources": {"Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": key_policy}}}
    }


def for_account(policy: Mapping[str, object], owner: str | None) -> Mapping[str, object]:
    """Return *policy* as a template would have it: with AWS::AccountId in place of its *owner*.

    It is changed in place, not copied: cfn-lint's mappings and lists know their line numbers.
    """
    if owner is not None:
        _refer_to_account(policy, owner)
    return policy


def _refer_to_account(node: Any, owner: str) -> None:  # noqa: ANN401 - JSON
    keys = list(node) if isinstance(node, Mapping) else range(len(node))
    for key in keys:
        child = node[key]
        if isinstance(child, str):
            if re.search(rf"(?<!\d){owner}(?!\d)", child):
                literal = child.replace("${", "${!")
                node[key] = {"Fn::Sub": literal.replace(owner, "${AWS::AccountId}")}
        elif isinstance(child, (Mapping, list)):
            _refer_to_account(child, owner)
