"""What a key may be used for, and which actions then lead to plaintext."""

from __future__ import annotations

from typing import TYPE_CHECKING

from generator.deployments.comparisons import is_known, known
from generator.deployments.symbolic import NoValue, Written
from generator.nodes import KMS_KEYS, mapping, properties

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from generator.deployments.symbolic import Node, Template

DEFAULT = "ENCRYPT_DECRYPT"
_USAGES = (DEFAULT, "KEY_AGREEMENT", "SIGN_VERIFY", "GENERATE_VERIFY_MAC")
_KEY, _REPLICA = KMS_KEYS


def usages(template: Template, name: str, stated: Mapping[str, object]) -> list[str]:
    """Return the possible usages of the key *name*, whose properties are *stated*.

    These are all usages, if its usage is not known. A replica has that of its primary key, which
    may be elsewhere.
    """
    resources = mapping(template.template.get("Resources"))
    if mapping(resources.get(name)).get("Type") == _REPLICA:
        primary = mapping(resources.get(_attribute_of(stated.get("PrimaryKeyArn"))))
        if primary.get("Type") != _KEY:
            return [*_USAGES]
        stated = properties(primary)
    alternatives = template.alternatives(stated.get("KeyUsage", DEFAULT))
    return [*dict.fromkeys(usage for _, node in alternatives for usage in _possible(node))]


def _possible(node: Node) -> Sequence[str]:
    if isinstance(node, NoValue):
        return [DEFAULT]
    if not isinstance(node, Written):
        return _USAGES
    if is_known(node.text):
        return [known(node.text)]
    symbol = node.text[0]
    if len(node.text) != 1 or isinstance(symbol, str) or symbol.why:
        return _USAGES
    return [usage for usage in _USAGES if usage in symbol.language]


def _attribute_of(node: object) -> str:
    """Return the resource whose attribute *node* is, an empty text if it is something else."""
    argument = mapping(node).get("Fn::GetAtt") if len(mapping(node)) == 1 else None
    first = argument[0] if isinstance(argument, list) and argument else argument
    return first.partition(".")[0] if isinstance(first, str) else ""


def decrypting(usage: Sequence[str]) -> list[str]:
    """Return the actions that lead to plaintext with a key of one of the usages."""
    found = []
    if DEFAULT in usage or not set(usage) & set(_USAGES):
        found += ["kms:Decrypt", "kms:ReEncryptFrom"]
    if "KEY_AGREEMENT" in usage:
        found.append("kms:DeriveSharedSecret")
    return found
