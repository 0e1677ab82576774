"""Reads templates, key policies and Terraform plans from untrusted sources.

Every limit is checked before memory is allocated for what a document would expand to. Nothing here
knows what a policy means.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import yaml

from generator.errors import GeneratorError
from generator.nodes import mapping
from generator.reading.parsing import (
    TOO_DEEP,
    AmbiguousError,
    TemplateLoader,
    UnsafeError,
    bounded_yaml,
    json_value,
)

STANDARD_INPUT = "-"
TEXT_MAX = 2 * 1024 * 1024
"""Bytes of a template or a policy: CloudFormation takes 1 MB, KMS 32 KB."""
PLAN_MAX = 64 * 1024 * 1024
"""Bytes of a Terraform plan, which describes a whole project."""
WRAPPED_MAX = 4
"""How many times a policy may be encoded as text inside another text."""


class Kind(Enum):
    """What a document is."""

    TEMPLATE = "template"
    POLICY = "key policy"
    PLAN = "Terraform plan"
    OTHER = "something else"


@dataclass(frozen=True)
class Document:
    """A document as it was read.

    ``name`` is used in messages, and ``text`` is what was read. ``content`` is the template or the
    policy, decoded; for a Terraform plan it is a template with the plan's keys. ``owner`` is the
    account that the document is for, None if it does not say. ``sha256`` is of the bytes that were
    read, in hexadecimal digits.
    """

    name: str
    text: str
    kind: Kind
    content: Mapping[str, object]
    owner: str | None = None
    sha256: str | None = None

    @property
    def is_cloudformation(self) -> bool:
        """Return whether this is a template, or would be one if it could be parsed.

        Other YAML and JSON may have Resources, too; only a template has resource types of AWS.
        """
        if self.kind is Kind.OTHER:
            return not self.content and "AWSTemplateFormatVersion" in self.text
        declared = mapping(self.content.get("Resources")).values()
        types = [str(mapping(resource).get("Type")) for resource in declared]
        return self.kind is Kind.TEMPLATE and (
            "AWSTemplateFormatVersion" in self.content
            or any(each.startswith(("AWS::", "Custom::")) for each in types)
        )


class DocumentError(GeneratorError):
    """A document cannot be read; the message says why."""


def read(name: Path | str) -> Mapping[str, object]:
    """Return the template, or the policy document, in the file *name*.

    Raises:
        DocumentError: as for `load`, or it contains neither.
    """
    document = load(str(name))
    if document.kind is Kind.OTHER:
        raise DocumentError(
            f"{document.name}: has neither Resources nor a Statement: pass a template or a policy"
        )
    return document.content


def load(name: str, *, strict: bool = True) -> Document:
    """Read the file *name*, or standard input if it is ``-``.

    Args:
        name: of the file.
        strict: refuse what cannot be parsed, and duplicate keys; otherwise such a document is of
            the kind OTHER, and a linter reports the line.

    Raises:
        DocumentError: it cannot be read, is too large, not UTF-8, neither YAML nor JSON, nested too
            deeply, or expands beyond the limits.
    """
    data = _read(name)
    text = _text(name, data)
    shown = shown_name(name)
    try:
        found = decode(text, shown, unique=strict)
        return replace(found, sha256=hashlib.sha256(data).hexdigest())
    except ValueError as error:
        if strict or isinstance(error, UnsafeError):
            raise DocumentError(f"{shown}: {error}") from error
        return Document(shown, text, Kind.OTHER, {})


def shown_name(name: str) -> str:
    """Return a file's name as messages show it."""
    return "standard input" if name == STANDARD_INPUT else name


def _read(name: str) -> bytes:
    """Return the content of the file *name*, or standard input, and one byte over the limit."""
    try:
        if name == STANDARD_INPUT:
            return sys.stdin.buffer.read(PLAN_MAX + 1)
        with Path(name).open("rb") as file:
            return file.read(PLAN_MAX + 1)
    except OSError as error:
        raise DocumentError(f"{name}: {error.strerror}: pass a template or a policy") from error
    except ValueError as error:  # a null character in the name
        raise DocumentError(f"{name}: {error}: pass a template or a policy") from error


def _text(name: str, data: bytes) -> str:
    name = shown_name(name)
    # Only a Terraform plan, which is JSON with this key, may be larger.
    limit = PLAN_MAX if b'"terraform_version"' in data[:TEXT_MAX] else TEXT_MAX
    if len(data) > limit:
        raise DocumentError(
            f"{name}: has more than {limit:,} bytes, more than CloudFormation accepts: "
            "pass a template or a policy"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"{name}: is not UTF-8 (at byte {error.start + 1}): save it as UTF-8"
        ) from error


def parse(text: str) -> Mapping[str, object]:
    """Return the template or the policy document in *text*.

    Raises:
        ValueError: *text* is neither.
    """
    found = decode(text)
    if found.kind is Kind.OTHER:
        raise ValueError("has neither Resources nor a Statement")
    return found.content


def is_policy(document: Mapping[str, object]) -> bool:
    """Return whether *document* is a policy, not a template."""
    return "Statement" in document


def decode(text: str, name: str = "", *, unique: bool = True) -> Document:
    """Decode *text* and determine what it is.

    A key policy may be in any form that ``aws kms get-key-policy`` prints, with any --query and
    --output: the document, an object whose ``Policy`` is the document as text, that text in quotes,
    or with its quotes escaped.

    Raises:
        ValueError: *text* is neither YAML nor JSON, or cannot be read safely.
    """
    found = _unwrapped(_decoded(text, unique=unique))
    if not isinstance(found, Mapping):
        return Document(name, text, Kind.OTHER, {})
    if is_policy(found):
        return Document(name, text, Kind.POLICY, found)
    if "Resources" in found:
        return Document(name, text, Kind.TEMPLATE, found)
    from generator.reading import terraform

    if terraform.is_plan(found):
        content, owner = terraform.keys_as_template(found)
        return Document(name, text, Kind.PLAN, content, owner)
    return Document(name, text, Kind.OTHER, found)


def _unwrapped(found: object) -> object:
    """Return the policy that is encoded as text in *found*, or *found* if there is none."""
    for _ in range(WRAPPED_MAX):
        policy = found.get("Policy") if isinstance(found, Mapping) else found
        if isinstance(policy, Mapping) and is_policy(policy):
            return policy
        if not isinstance(policy, str) or "{" not in policy:
            return found
        found = _decoded(policy)
    return found


def _decoded(text: str, *, unique: bool = True) -> object:
    start = text.lstrip()
    try:
        if start.startswith(("{", "[", '"')):
            return _json(start, unique=unique)
        return bounded_yaml(text, TemplateLoader, unique=unique)
    except (UnsafeError, AmbiguousError):
        raise
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, RecursionError) or "maximum nesting depth" in reason:
            raise UnsafeError(TOO_DEEP) from error
        raise ValueError(
            f"is neither YAML nor JSON ({reason}): pass a template or a policy"
        ) from error


def _json(text: str, *, unique: bool = True) -> object:
    try:
        found, end = json_value(text, unique=unique)
    except json.JSONDecodeError as error:
        if re.match(r"\{\s*\\+[\"n]", text):  # escaped quotes, but not inside quotes
            return _json_text(text)
        try:  # YAML's flow style looks like JSON
            return bounded_yaml(text, TemplateLoader, unique=unique)
        except yaml.YAMLError:
            raise error from None
    # With --output text, the policy's name follows it.
    if text[end:].strip() not in ("", "default"):
        raise ValueError(f"has text after the document, at character {end + 1}: remove it")
    return found


def _json_text(text: str) -> object:
    """Decode JSON that is escaped as if it were inside a string."""
    unescaped = json.JSONDecoder(strict=False).decode(f'"{text.strip()}"')
    return _json(str(unescaped))
