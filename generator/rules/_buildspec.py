"""Buildspecs inside templates, before CloudFormation has substituted anything."""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import product
from typing import TypeAlias

import yaml

from generator.policy.operators import listed

Path: TypeAlias = list[str | int]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_VARIABLE = re.compile(r"\$\{(?!!)([^}]+)\}")
_MARK = re.compile("\ue000([^\ue001]*)\ue001")
_UNKNOWN = ""


def projects(template: Mapping[str, object]) -> Iterator[tuple[Path, Mapping[str, object]]]:
    """Yield the path and the properties of each CodeBuild project of *template*."""
    resources = template.get("Resources")
    for name, resource in resources.items() if isinstance(resources, Mapping) else ():
        if isinstance(resource, Mapping) and resource.get("Type") == "AWS::CodeBuild::Project":
            properties = resource.get("Properties")
            if isinstance(properties, Mapping):
                yield ["Resources", name, "Properties"], properties


def buildspecs(template: Mapping[str, object]) -> Iterator[tuple[Path, str]]:
    """Yield the path and the text of each buildspec written into *template*.

    Where an intrinsic function puts a value into the text, a mark stands for it, see
    substituted(). A function that chooses yields each of its choices. A project whose
    buildspec is a file elsewhere yields nothing.
    """
    for path, properties in projects(template):
        source = properties.get("Source")
        value = source.get("BuildSpec") if isinstance(source, Mapping) else None
        for text in _texts(value):
            if _is_inline(text):
                yield [*path, "Source", "BuildSpec"], text


def stands_in_template(value: object) -> bool:
    """Say whether a project's BuildSpec is a text in the template, in every branch."""
    texts = _texts(value)
    return bool(texts) and all(map(_is_inline, texts))


def _is_inline(text: str) -> bool:
    return "\n" in text or text.lstrip().startswith("{")


def substituted(text: str) -> list[str]:
    """Return the names behind the marks in *text*; a value of unknown origin has an empty name."""
    return _MARK.findall(text)


@lru_cache(maxsize=16)
def parse(text: str) -> object:
    """Parse a buildspec.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    try:
        return yaml.load(text, Loader=_LOADER)  # noqa: S506 - both loaders are the safe ones
    except (ValueError, RecursionError) as error:  # of a date that does not exist, for instance
        raise yaml.YAMLError(str(error)) from error


def commands(buildspec: object) -> Iterator[tuple[str, object]]:
    """Yield the phase and the command of every shell command of a parsed *buildspec*."""
    phases = buildspec.get("phases") if isinstance(buildspec, Mapping) else None
    for phase, steps in phases.items() if isinstance(phases, Mapping) else ():
        for part in ("commands", "finally"):
            found = steps.get(part) if isinstance(steps, Mapping) else None
            for command in found if isinstance(found, list) else ():
                yield str(phase), command


def _texts(value: object) -> list[str]:
    """Return every text that *value* can become."""
    if isinstance(value, str):
        return [str(value)]  # PyYAML refuses cfn-lint's own kind of string
    if not isinstance(value, Mapping) or len(value) != 1:
        return []
    ((function, argument),) = value.items()
    if function == "Fn::Sub":
        return _substitution(argument)
    if function == "Fn::Join" and isinstance(argument, list) and len(argument) == 2:  # noqa: PLR2004 - delimiter and list
        return _joined(*argument)
    if function == "Fn::If" and isinstance(argument, list):
        return [text for branch in argument[1:] for text in _texts(branch)]
    return ["".join(map(_mark, _references(value))) or _mark(_UNKNOWN)]


def _references(node: object) -> list[object]:
    """Return what *node* refers to, however deep."""
    if isinstance(node, Mapping):
        children = [name for child in node.values() for name in _references(child)]
        return [node["Ref"], *children] if "Ref" in node else children
    return [name for child in node for name in _references(child)] if isinstance(node, list) else []


def _mark(name: object) -> str:
    return f"\ue000{name}\ue001"


def _substitution(argument: object) -> list[str]:
    text, variables = (*listed(argument), {}, {})[:2]
    if not isinstance(text, str) or not isinstance(variables, Mapping):
        return []
    names = [name.strip() for name in _VARIABLE.findall(text)]
    choices = {name: _texts(variables.get(name, {"Ref": name})) for name in names}
    return [
        _fill(text, dict(zip(choices, chosen, strict=True)))
        for chosen in product(*choices.values())
    ]


def _fill(text: str, values: Mapping[str, str]) -> str:
    filled = _VARIABLE.sub(lambda match: values[match[1].strip()], text)
    return filled.replace("${!", "${")


def _joined(delimiter: object, parts: object) -> list[str]:
    if not isinstance(delimiter, str) or not isinstance(parts, list):
        return []
    return [delimiter.join(texts) for texts in product(*map(_texts, parts))]
