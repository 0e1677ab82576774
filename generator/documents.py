"""Reads templates and policy documents, YAML or JSON, as CloudFormation and KMS give them."""

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from generator.errors import GeneratorError


class _Loader(yaml.SafeLoader):
    """Reads short intrinsic functions as long ones, and leaves numbers and dates as text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":bool", ":null"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


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


_Loader.add_multi_constructor("!", _intrinsic)


def read(path: Path) -> Mapping[str, object]:
    """Return the template, or the policy document, in the file *path*.

    What ``aws kms get-key-policy`` prints is unwrapped: its ``Policy`` is a document as text.

    Raises:
        GeneratorError: there is no such file, or neither of the two in it.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GeneratorError(f"{path}: {error.strerror}: name a template or a policy") from error
    except ValueError as error:
        raise GeneratorError(f"{path}: {error}: name a template or a policy") from error


def parse(text: str) -> Mapping[str, object]:
    """Return the template or the policy document in *text*.

    Raises:
        ValueError: *text* is neither.
    """
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else _yaml(text)
    except (json.JSONDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"is neither YAML nor JSON ({' '.join(str(error).split())})") from error
    if isinstance(found, Mapping) and isinstance(found.get("Policy"), str):
        return parse(str(found["Policy"]))
    if not isinstance(found, Mapping) or not ("Resources" in found or is_policy(found)):
        raise ValueError("has neither Resources nor a Statement")
    return found


def is_policy(document: Mapping[str, object]) -> bool:
    """Say whether *document* is a policy, not a template."""
    return "Statement" in document


def _yaml(text: str) -> object:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - derived from SafeLoader
