"""Decodes JSON and YAML, checking limits before memory is allocated for the values.

Input that is not safe to read is refused: nesting that is too deep for later code, or YAML whose
aliases expand to too many values. Optionally, so is input that parsers interpret differently.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import yaml

from generator.nodes import UncertainText, children, scalar_text

if TYPE_CHECKING:
    from yaml import SafeLoader as _FastLoader
else:  # libyaml's is ten times faster, where PyYAML was built with it
    _FastLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

DEPTH_MAX = 64
"""Levels of mappings and lists inside each other."""
NODES_MAX = 500_000
"""Values of a YAML document, each alias counted with all that it refers to."""

TOO_DEEP = f"is nested more than {DEPTH_MAX} levels deep"
_TOO_MANY = f"has more than {NODES_MAX:,} values once its aliases are expanded"
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


class UnsafeError(ValueError):
    """The text is not safe to read; the message says why."""


class AmbiguousError(ValueError):
    """Parsers interpret the text differently; the message says why."""


# --- JSON -----------------------------------------------------------------------------------------


def json_value(text: str, *, unique: bool) -> tuple[object, int]:
    """Return the JSON value at the beginning of *text*, and the position where it ends.

    Args:
        text: JSON, possibly followed by other text.
        unique: refuse a duplicate key in an object.

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
        raise AmbiguousError(_duplicate_key(next(name for name in names if names.count(name) > 1)))
    return found


def _duplicate_key(name: object) -> str:
    return f"has the key {name} twice in one mapping, and parsers differ on which one counts"


def _check_values(document: object) -> None:
    """Refuse values that are nested too deeply, or contain an unpaired surrogate."""
    level: list[object] = [document]
    for _ in range(DEPTH_MAX):
        for text in level:
            if isinstance(text, str) and _HALF_CHARACTER.search(text):
                raise UnsafeError("contains an unpaired surrogate")
        level = [child for node in level for _, child in children(node)]
        if not level:
            return
    raise UnsafeError(TOO_DEEP)


# --- YAML -----------------------------------------------------------------------------------------


def bounded_yaml(text: str, loader: type[yaml.SafeLoader], *, unique: bool = False) -> object:
    """Return the only document in *text*, unless it is nested too deeply or expands too far.

    Args:
        text: YAML.
        loader: constructs the values, after the limits have been checked.
        unique: refuse a duplicate key in a mapping.

    Raises:
        ValueError: a limit is exceeded.
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
    """Counts the values of a YAML node, where an alias or a merge counts as what it refers to.

    Nine lines of aliases of aliases would expand to gigabytes when they are walked or printed.
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
            raise UnsafeError("contains an unpaired surrogate")
        count, height = 1, 0
        for each in inside:
            more, below = self.of(each, level + 1)
            count, height = count + more, max(height, below)
            if count > NODES_MAX:
                raise UnsafeError(_TOO_MANY)
        return count, height + 1

    def _check_keys(self, node: yaml.MappingNode) -> None:
        names = [_key_text(key) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            if twice != "<<":
                raise AmbiguousError(_duplicate_key(twice))


def _key_text(key: yaml.ScalarNode) -> str:
    is_bool = str(key.tag).endswith(":bool")
    return str(yaml.SafeLoader.bool_values[key.value.lower()]).lower() if is_bool else key.value


class PlainLoader(_FastLoader):
    """Reads numbers and dates as text."""


PlainLoader.yaml_implicit_resolvers = {
    first: [each for each in resolvers if each[0].endswith((":bool", ":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


_NUMBER_TAG = "tag:yaml.org,2002:number as written"
_UNCERTAIN_NUMBER = re.compile(
    r"""(?!(0|-?[1-9][0-9]*|-?[1-9][0-9]{0,5}\.[0-9]{0,5}[1-9])$)  # read alike by all
    [-+]?(
        0[bo][0-7_]+ | 0x[0-9a-fA-F_]+
        | [0-9][0-9_]*(:[0-5]?[0-9])*(\.[0-9_]*)?([eE][-+]?[0-9]+)?
        | \.[0-9_]+([eE][-+]?[0-9]+)?
        | \.(inf|Inf|INF|nan|NaN|NAN)
    )$""",
    re.VERBOSE,
)
"""Numbers of YAML 1.1 or 1.2 whose text changes if they are read as numbers and written again."""


class TemplateLoader(PlainLoader):
    """Reads intrinsic functions in short form (!Ref) as their full form (Ref)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:  # noqa: FBT001, FBT002 - as in PyYAML
        """Return a mapping whose keys are texts: ``true: a`` has the key "true"."""
        found: dict[object, object] = {}
        for key, value in super().construct_mapping(node, deep=deep).items():
            if key is None:
                raise AmbiguousError("has an empty key in a mapping: put it in quotes")
            found[scalar_text(key) or key] = value
        return found


TemplateLoader.add_implicit_resolver(_NUMBER_TAG, _UNCERTAIN_NUMBER, [*"+-.0123456789"])
for _tag in (_NUMBER_TAG, "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    # Without !!int a number is read as text, see PlainLoader.
    TemplateLoader.add_constructor(_tag, lambda _, node: UncertainText(node.value))


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
