"""The values that a stack's parameters are to have: from a file and from the command line.

A file may hold what `aws cloudformation deploy --parameter-overrides file://…` takes, or a plain
map: {"Name": "value"}, {"Parameters": {…}}, [{"ParameterKey": …, "ParameterValue": …}], ["N=V"].
"""

from __future__ import annotations

import json
import re
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generator.errors import GeneratorError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

STANDARD_INPUT = Path("-")
FILE_MAX = 1 << 20
"""Bytes of a parameters file: sixty parameters of 4,096 bytes need a quarter of it."""


def pair(text: str) -> tuple[str, str]:
    """Return the name and the value in NAME=VALUE.

    Raises:
        ValueError: there is no =, or nothing before it.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(text)
    return name, value


def read(path: Path) -> dict[str, str]:
    """Return the parameters in the file *path*, JSON or YAML.

    Raises:
        GeneratorError: it cannot be read, or has none of the forms listed above.
    """
    import yaml

    try:
        with sys.stdin.buffer if path == STANDARD_INPUT else path.open("rb") as file:
            text = file.read(FILE_MAX + 1)
        # Every scalar as it is written: an account's number may begin with 0.
        found = yaml.load(text, Loader=yaml.BaseLoader) if len(text) <= FILE_MAX else None  # noqa: S506 - builds only text, lists and maps
        return _parameters(found)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "is not text"
        raise GeneratorError(f"{path}: {why}: pass a parameters file") from error
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, KeyError) as error:
        raise GeneratorError(
            f'{path}: is not a parameters file: write {{"Parameters": {{"Name": "value"}}}}'
        ) from error


def read_if_there(path: Path | None) -> dict[str, str]:
    """Return the parameters as `read` does; none if the file does not exist, or none is named.

    The first deployment writes the file, so before that it need not exist.
    """
    if path is None or not (path == STANDARD_INPUT or path.exists()):
        return {}
    return read(path)


def _parameters(found: Any) -> dict[str, str]:  # noqa: ANN401 - whatever a file holds
    if isinstance(found, dict) and isinstance(found.get("Parameters"), dict):
        found = found["Parameters"]
    if isinstance(found, dict):
        pairs = list(found.items())
    else:
        pairs = [
            pair(each) if isinstance(each, str) else (each["ParameterKey"], each["ParameterValue"])
            for each in found
        ]
    return {str(name): _value(value) for name, value in pairs}


def _value(value: object) -> str:
    """Return a value as CloudFormation takes it: a list's items with commas between them."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ",".join(value)
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def write(path: Path, wanted: Mapping[str, str]) -> None:
    """Write a parameters file that `aws cloudformation deploy` also takes."""
    path.write_text(json.dumps({"Parameters": dict(wanted)}, indent=2) + "\n")


def check(
    declared: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, str], kept: Iterable[str]
) -> None:
    """Check that *wanted* are parameters of the template with valid values; *kept* have values.

    Raises:
        GeneratorError: names the first that is not valid, or all that are missing.
    """
    for name, value in wanted.items():
        if name not in declared:
            close = get_close_matches(name, declared, 1)
            known = f"did you mean {close[0]}?" if close else f"choose from {', '.join(declared)}"
            raise GeneratorError(f"parameter {name}: is not one of the template's: {known}")
        _check_value(name, value, declared[name])
    missing = [
        name
        for name, declaration in declared.items()
        if "Default" not in declaration and name not in {*wanted, *kept}
    ]
    if missing:
        raise GeneratorError(
            f"the template needs {', '.join(missing)}: add {missing[0]}=…, or --parameters FILE"
        )


def _check_value(name: str, value: str, declaration: Mapping[str, Any]) -> None:
    """Check that a value, or each item of a list, is one that the template allows.

    Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/parameters-section-structure.html
    """
    is_list = str(declaration.get("Type", "")) == "CommaDelimitedList"
    items = [item.strip() for item in value.split(",")] if is_list else [value]
    pattern = declaration.get("AllowedPattern")
    choices = declaration.get("AllowedValues")
    for item in items:
        fits = pattern is None or re.fullmatch(str(pattern), item)
        if not fits or (choices is not None and item not in map(str, choices)):
            rule = declaration.get("ConstraintDescription") or f"must match {pattern or choices}"
            shown = item or "an empty value"
            raise GeneratorError(f"parameter {name}: {shown} is not allowed: it {rule}")
