"""Small helpers for decoded JSON and YAML from untrusted sources, which may have any shape.

Each accepts any node and returns a value that the caller can use: a template with a list in the
place of a mapping is for CloudFormation to refuse, and must not cause a traceback here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""The position of a node in its document: keys and indices from the top."""

CODEBUILD_PROJECT = "AWS::CodeBuild::Project"
KMS_KEYS = ("AWS::KMS::Key", "AWS::KMS::ReplicaKey")
SPREADS = ("Fn::Transform", "Fn::ForEach")
"""Functions that CloudFormation replaces by members of the mapping that contains them."""


class UncertainText(str):
    """A number as it is written in YAML, of which parsers make different texts: 010, 1e3, 1.10."""

    __slots__ = ()


def scalar_text(node: object) -> str | None:
    """Return the text that CloudFormation makes of a scalar, None if that is not certain.

    Every value of a template is a text for CloudFormation: the boolean ``true`` is "true", and so
    are ``yes`` and ``on`` without quotes.

    Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/template-formats.html
        (YAML 1.1)
    """
    if isinstance(node, bool):
        return str(node).lower()
    if isinstance(node, UncertainText) or not isinstance(node, (str, int)):
        return None
    return str(node)


def mapping(node: object) -> Mapping[str, object]:
    """Return *node* if it is a mapping, else an empty one."""
    return node if isinstance(node, Mapping) else {}


def listed(node: object) -> Sequence[object]:
    """Return a list; IAM and CloudFormation take a single value in place of a list of one."""
    return node if isinstance(node, (list, tuple)) else [node]


def spreads(node: object) -> bool:
    """Return whether CloudFormation adds members to *node*, which may replace others."""
    return any(str(name).startswith(SPREADS) for name in mapping(node))


def unique_json(text: str) -> object:
    """Decode JSON in which no object has the same key twice: parsers differ on which one counts.

    Raises:
        ValueError: *text* is not JSON, or not unique.
        RecursionError: it is nested deeper than Python's parser goes.
    """
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def children(node: object) -> Iterator[tuple[str | int, object]]:
    """Yield the members of a mapping or a list, each with its key or its index."""
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, (list, tuple)):
        yield from enumerate(node)


def walk(node: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Yield *node* and everything inside it, however deep, each with its path."""
    pending: list[tuple[Path, object]] = [(path, node)]
    while pending:
        place, found = pending.pop()
        yield place, found
        inside = [((*place, key), child) for key, child in children(found)]
        pending += reversed(inside)


def texts(node: object) -> Iterator[str]:
    """Yield every text inside *node* in the document's order, without the keys of mappings."""
    for _, found in walk(node):
        if isinstance(found, str):
            yield found


def resources(
    template: Mapping[str, object], *types: str
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the resources of *template* with their logical IDs; only of *types*, if given."""
    for name, resource in mapping(template.get("Resources")).items():
        if isinstance(resource, Mapping) and (not types or resource.get("Type") in types):
            yield str(name), resource


def properties(resource: object) -> Mapping[str, object]:
    """Return the properties of a resource."""
    return mapping(mapping(resource).get("Properties"))


def references(node: object) -> Iterator[str]:
    """Yield the logical names that Ref, Fn::GetAtt and Fn::Sub inside *node* refer to."""
    for _, found in walk(node):
        if not isinstance(found, Mapping):
            continue
        if isinstance(found.get("Ref"), str):
            yield str(found["Ref"])
        for argument in listed(found.get("Fn::GetAtt", []))[:1]:
            yield str(argument).partition(".")[0]
        for argument in listed(found.get("Fn::Sub", []))[:1]:
            yield from (name.partition(".")[0] for name in substituted_names(argument))


def substituted_names(text: object) -> list[str]:
    """Return the names in ``${...}`` that Fn::Sub replaces in *text*; ``${!...}`` is literal."""
    found = []
    rest = text if isinstance(text, str) else ""
    while (start := rest.find("${")) >= 0 and (end := rest.find("}", start)) >= 0:
        name = rest[start + 2 : end].strip()
        rest = rest[end:]
        if not name.startswith("!"):
            found.append(name)
    return found
