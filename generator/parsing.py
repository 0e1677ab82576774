"""Decodes JSON and YAML within limits that hold before memory is taken for the values.

What is not safe to read is refused: nested too deep for whoever walks it, or YAML whose aliases
expand without end. So is, if wanted, what readers would understand differently.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import yaml

from generator.nodes import children

if TYPE_CHECKING:
    from yaml import SafeLoader as _FastLoader
else:  # libyaml's is ten times faster, where PyYAML was built with it
    _FastLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

DEPTH_MAX = 64
"""Levels of mappings and lists inside each other."""
NODES_MAX = 500_000
"""Values of a YAML document, each alias counted as what it stands for."""

TOO_DEEP = f"is nested more than {DEPTH_MAX} levels deep"
_TOO_MANY = f"has more than {NODES_MAX:,} values once its aliases are expanded"
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


class UnsafeError(ValueError):
    """A text that is not safe to read, and why."""


class AmbiguousError(ValueError):
    """A text that readers understand differently, and why."""


# --- JSON -----------------------------------------------------------------------------------------


def json_value(text: str, *, unique: bool) -> tuple[object, int]:
    """Return the JSON value with which *text* begins, and where it ends.

    Args:
        text: JSON, and perhaps more behind it.
        unique: refuse a key that stands twice in one object.

    Raises:
        UnsafeError, AmbiguousError: as their names say.
        ValueError: it is not JSON.
        RecursionError: it is nested deeper than Python's parser goes.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_unique if unique else None)
    found, end = decoder.raw_decode(text)
    _check_values(found)
    return found, end


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise AmbiguousError(_stands_twice(next(name for name in names if names.count(name) > 1)))
    return found


def _stands_twice(name: object) -> str:
    return f"has {name} twice in one mapping, and readers differ on which one counts"


def _check_values(document: object) -> None:
    """Refuse what is nested too deep, or has half a character."""
    level: list[object] = [document]
    for _ in range(DEPTH_MAX):
        for text in level:
            if isinstance(text, str) and _HALF_CHARACTER.search(text):
                raise UnsafeError("has half of a surrogate pair in a text")
        level = [child for node in level for _, child in children(node)]
        if not level:
            return
    raise UnsafeError(TOO_DEEP)


# --- YAML -----------------------------------------------------------------------------------------


def bounded_yaml(text: str, loader: type[yaml.SafeLoader], *, unique: bool = False) -> object:
    """Return the one document in *text*, unless it is nested too deep or expands too far.

    Args:
        text: YAML.
        loader: constructs the values, once the limits are known to hold.
        unique: refuse a key that stands twice in one mapping.

    Raises:
        ValueError: a limit does not hold.
        yaml.YAMLError: it is not YAML.
    """
    reader = loader(text)
    try:
        node = reader.get_single_node()
        if node is None:
            return None
        _Expansion(unique=unique).of(node, 1)
        return reader.construct_document(node)
    finally:
        reader.dispose()


class _Expansion:
    """Counts what a YAML node becomes: an alias, or a merge, is as large as what it stands for.

    Nine lines of aliases of aliases expand to gigabytes as soon as somebody walks or prints them.
    """

    def __init__(self, *, unique: bool) -> None:
        self._unique = unique
        self._known: dict[int, tuple[int, int]] = {}

    def of(self, node: yaml.Node, level: int) -> tuple[int, int]:
        """Return how many values *node* holds, and how many levels; *level* is its own."""
        if id(node) not in self._known:
            if level > DEPTH_MAX:  # or a node that holds itself
                raise UnsafeError(TOO_DEEP)
            self._known[id(node)] = self._counted(node, level)
        count, height = self._known[id(node)]
        if level + height > DEPTH_MAX + 1:
            raise UnsafeError(TOO_DEEP)
        return count, height

    def _counted(self, node: yaml.Node, level: int) -> tuple[int, int]:
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inside = node.value
        elif isinstance(node, yaml.MappingNode):
            inside = [each for pair in node.value for each in pair]
            if self._unique:
                self._check_keys(node)
        elif _HALF_CHARACTER.search(str(node.value)):
            raise UnsafeError("has half of a surrogate pair in a text")
        count, height = 1, 0
        for each in inside:
            more, below = self.of(each, level + 1)
            count, height = count + more, max(height, below)
            if count > NODES_MAX:
                raise UnsafeError(_TOO_MANY)
        return count, height + 1

    def _check_keys(self, node: yaml.MappingNode) -> None:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            if twice != "<<":
                raise AmbiguousError(_stands_twice(twice))


class PlainLoader(_FastLoader):
    """Leaves numbers and dates as the text that they are."""


PlainLoader.yaml_implicit_resolvers = {
    first: [each for each in resolvers if each[0].endswith((":bool", ":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class TemplateLoader(PlainLoader):
    """Reads short intrinsic functions as long ones."""


def _intrinsic(loader: yaml.SafeLoader, name: str, node: yaml.Node) -> dict[str, object]:
    value: object
    if isinstance(node, yaml.ScalarNode):
        text = loader.construct_scalar(node)
        value = str(text).split(".", 1) if name == "GetAtt" else text
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)  # type: ignore[arg-type] # a mapping is left
    return {name if name in ("Ref", "Condition") else f"Fn::{name}": value}


TemplateLoader.add_multi_constructor("!", _intrinsic)
