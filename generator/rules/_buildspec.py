"""Buildspecs inside templates, before CloudFormation has substituted anything.

A value that an intrinsic function inserts and that is not known before deployment is represented by
a mark: a private character, the value's origin, another private character. YAML reads marks as
letters, so a marked text parses as it would with a harmless value.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice, product
from typing import TypeAlias

import yaml

from generator.nodes import CODEBUILD_PROJECT, listed, mapping, resources, substituted_names
from generator.reading.parsing import PlainLoader, bounded_yaml

Path: TypeAlias = list[str | int]

CHOICES_MAX = 64
"""How many texts of one buildspec are checked; of a template with more branches, the first ones."""

_VARIABLE = re.compile(r"\$\{(?!!)([^}]+)\}")
_MARK = re.compile("\ue000([^\ue001]*)\ue001")
_DYNAMIC = re.compile(r"\{\{resolve:(?:ssm|ssm-secure|secretsmanager):[^}]*\}\}")
_FIXED = ("Fn::FindInMap", "Fn::Base64", "Fn::Cidr", "Fn::GetAZs", "Fn::Length")
"""Functions whose value is in the template, or consists of letters and digits only."""
_UNKNOWN = ""


class _BuildspecLoader(PlainLoader):
    """Ignores tags, as CodeBuild does: `!Sub` has no meaning in a buildspec."""


def _untagged(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True)  # type: ignore[arg-type] # a mapping is left


_BuildspecLoader.add_multi_constructor("!", _untagged)


def projects(template: Mapping[str, object]) -> Iterator[tuple[Path, Mapping[str, object]]]:
    """Yield the path and the properties of each CodeBuild project of *template*."""
    for name, resource in resources(template, CODEBUILD_PROJECT):
        found = resource.get("Properties")
        if isinstance(found, Mapping):
            yield ["Resources", name, "Properties"], found


def buildspecs(template: Mapping[str, object]) -> Iterator[tuple[Path, str]]:
    """Yield the path and the text of each inline buildspec of *template*.

    A function such as Fn::If yields each of its choices. A project whose buildspec is a file in its
    repository yields nothing.
    """
    for path, found in projects(template):
        for text in buildspec_texts(mapping(found.get("Source")).get("BuildSpec")):
            yield [*path, "Source", "BuildSpec"], text


def buildspec_texts(value: object) -> Iterator[str]:
    """Yield each text that a project's BuildSpec can be, if it is inline."""
    return filter(_is_inline, _texts(value))


def stands_in_template(value: object) -> bool:
    """Return whether a project's BuildSpec is inline, in every branch.

    False if there may be more branches than are checked.
    """
    found = _texts(value)
    return 0 < len(found) < CHOICES_MAX and all(map(_is_inline, found))


def _is_inline(text: str) -> bool:
    return "\n" in text or text.lstrip().startswith("{")


def substituted(text: str) -> list[str]:
    """Return the origins of what CloudFormation writes into *text*.

    An origin is the name in a Ref or Fn::Sub, a dynamic reference, or empty for another value.
    """
    return [*_MARK.findall(text), *_DYNAMIC.findall(text)]


def literal(text: str) -> str:
    """Return *text* without the marks, which is what the template itself contains."""
    return _MARK.sub("", text)


@lru_cache(maxsize=16)
def parse(text: str) -> object:
    """Parse a buildspec.

    Raises:
        yaml.YAMLError: it is not YAML, or expands beyond the limits.
    """
    try:
        return bounded_yaml(text, _BuildspecLoader)
    except (ValueError, RecursionError) as error:  # for instance, its aliases expand too far
        raise yaml.YAMLError(str(error)) from error


def repeated_keys(text: str) -> list[str]:
    """Return each duplicate key in a mapping of a buildspec that can be parsed."""
    found = []
    pending = [yaml.compose(text, Loader=_BuildspecLoader)]
    while pending:
        node = pending.pop()
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            found += [name for name in dict.fromkeys(names) if names.count(name) > 1]
            pending += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            pending += node.value
    return found


def commands(buildspec: object) -> Iterator[tuple[str, object]]:
    """Yield the phase and the command of every shell command of a parsed *buildspec*."""
    for phase, steps in mapping(mapping(buildspec).get("phases")).items():
        for part in ("commands", "finally"):
            found = mapping(steps).get(part)
            for command in [found] if isinstance(found, str) else listed(found or []):
                yield str(phase), command


def _texts(value: object) -> list[str]:
    """Return the texts that *value* can become, at most CHOICES_MAX."""
    if isinstance(value, str):
        return [str(value)]  # PyYAML refuses cfn-lint's subclass of str
    if not isinstance(value, Mapping) or len(value) != 1:
        return [] if value is None or isinstance(value, (Mapping, list)) else [str(value)]
    ((function, argument),) = value.items()
    found = [_marks(value)]
    match function, argument:
        case "Fn::Sub", _:
            found = _substitution(argument)
        case "Fn::Join", [str() as delimiter, list() as parts]:
            choices = map(_texts_or_mark, parts)
            found = [delimiter.join(texts) for texts in _combined(choices)]
        case "Fn::If", [_, *branches]:
            found = [text for branch in branches for text in _texts(branch)]
        case "Fn::ToJsonString", _:
            found = [json.dumps(each, ensure_ascii=False) for each in _documents(argument)]
    return found[:CHOICES_MAX]


def _texts_or_mark(value: object) -> list[str]:
    return _texts(value) or [_marks(value)]


def _combined(choices: Iterator[list[str]]) -> Iterator[tuple[str, ...]]:
    return islice(product(*choices), CHOICES_MAX)


def _documents(node: object) -> list[object]:
    """Return the JSON values that *node* can be, with marks in their texts."""
    if isinstance(node, Mapping):
        if len(node) == 1 and str(next(iter(node))).startswith(("Ref", "Fn::")):
            return [*_texts_or_mark(node)]
        parts = [_documents(child) for child in node.values()]
        found = islice(product(*parts), CHOICES_MAX)
        return [dict(zip(map(str, node), values, strict=True)) for values in found]
    if isinstance(node, list):
        return [list(values) for values in islice(product(*map(_documents, node)), CHOICES_MAX)]
    return [node]


def _marks(node: object) -> str:
    """Return a mark for each value that *node* may yield; at least one."""
    return "".join(map(_mark, _references(node))) or _mark(_UNKNOWN)


def _references(node: object) -> list[str]:
    """Return the names whose values *node* may include, at any depth."""
    if isinstance(node, list):
        return [name for child in node for name in _references(child)]
    found = []
    for key, child in mapping(node).items():
        if key == "Ref":
            found.append(str(child))
        elif key == "Fn::Sub":
            text, own = _arguments(child)
            found += [name for name in substituted_names(text) if name not in own]
            found += _references(own)
        elif key == "Fn::FindInMap":
            found += _references(listed(child)[3:])  # its DefaultValue
        elif key == "Fn::If":
            found += _references(listed(child)[1:])
        elif key not in _FIXED:
            found += _references(child)
    return found


def _mark(name: object) -> str:
    return f"\ue000{name}\ue001"


def _arguments(of_sub: object) -> tuple[object, Mapping[str, object]]:
    text, variables = (*listed(of_sub), {}, {})[:2]
    return text, mapping(variables)


def _substitution(argument: object) -> list[str]:
    text, variables = _arguments(argument)
    if not isinstance(text, str):
        return []
    names = list(dict.fromkeys(name.strip() for name in _VARIABLE.findall(text)))
    choices = (_texts_or_mark(variables.get(name, {"Ref": name})) for name in names)
    return [_fill(text, dict(zip(names, chosen, strict=True))) for chosen in _combined(choices)]


def _fill(text: str, values: Mapping[str, str]) -> str:
    filled = _VARIABLE.sub(lambda match: values[match[1].strip()], text)
    return filled.replace("${!", "${")
