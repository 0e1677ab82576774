"""Which of this project's rules check which template: decided by its content, not by a keyword.

- Key rules (E91xx, W91xx) check the keys that `judged_keys` returns.
- Encryptor rules check the templates for which `is_application_encryptor` is true.
- Buildspec rules check every CodeBuild project.

Other templates get no findings from these rules. Each kind is recognized by any of several
features, so that removing one of them, such as the Deny, does not silence the rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import yaml

from generator.nodes import (
    CODEBUILD_PROJECT,
    KMS_KEYS,
    SPREADS,
    mapping,
    properties,
    references,
    resources,
    texts,
    walk,
)
from generator.parameters import CONTRACT_PARAMETERS, ENCLAVE_IMAGES
from generator.rules._buildspec import buildspec_texts, commands, parse

ATTESTATION = "kms:recipientattestation"
"""The prefix of every condition key about an attestation document, in lower case."""

Template = Mapping[str, object]

MODULE = "::MODULE"
"""The suffix of the types of registry modules, which CloudFormation replaces by resources."""
_CONTRACT = frozenset(parameter.name for parameter in CONTRACT_PARAMETERS)
_ENOUGH_PARAMETERS = 4
_KEY_IN_TEXT = re.compile(rf'\\?"{ATTESTATION}:[^"]*"\s*:', re.IGNORECASE)
"""A condition key in a policy that is a text: it is a JSON name, so a colon follows it."""
_RUNS = re.compile(
    r"""(?x) (?:^|[;&|({]\s*|\b(?:exec|time|sudo|env)\s+)      # where a command begins,
    (?:\w+=\S*\s+)*                                            # variables set for it alone,
    (?:"?[\w./$~{}-]*python[\d.]*"?\s+(?:-\S+\s+)*)?           # an interpreter or none,
    "?[\w./$~{}-]*\benvelope_encryptor(?:\.py)?\b"?(?=\s|$|;)"""
)


_EVERY_KEY = ContextVar("every key is judged", default=False)
_AS_READ: ContextVar[Template | None] = ContextVar("the template as it was read", default=None)


@contextmanager
def every_key_judged() -> Iterator[None]:
    """Check every key, whatever else the template has: the user asks about this policy."""
    token = _EVERY_KEY.set(True)
    try:
        yield
    finally:
        _EVERY_KEY.reset(token)


@contextmanager
def as_read(template: Template) -> Iterator[None]:
    """Judge the keys of *template* instead of those of what cfn-lint makes of it."""
    token = _AS_READ.set(template)
    try:
        yield
    finally:
        _AS_READ.reset(token)


def template_of(cfn: Any) -> Template:  # noqa: ANN401 - cfn-lint's template
    """Return the template as its file has it.

    cfn-lint reads numbers such as 010 in its own way, and applies transforms itself, for which it
    chooses values of parameters: its template is one of many deployments.
    """
    if (read := _AS_READ.get()) is not None:
        return read
    from generator.reading import documents

    try:
        found = documents.load(cfn.filename or "", strict=False)
        if found.kind is documents.Kind.TEMPLATE:
            return found.content
    except documents.DocumentError:
        pass
    transforms = cfn.transform_pre.get("Transform")
    return {**cfn.template, "Transform": "of an unread file"} if transforms else cfn.template


def judged_keys(template: Template) -> list[str]:
    """Return the logical IDs of the keys that the key rules check, in the template's order.

    A key is checked if its policy, or an identity policy of the template that names it, has a
    condition on an attestation. All keys are checked in a template that has a parameter
    ``EnclaveImageSha384`` or is an application-encryptor template. A replica and its primary key
    decrypt the same ciphertexts, so if one is checked, so is the other. Members of Resources that
    CloudFormation replaces by resources (Fn::Transform, Fn::ForEach, modules) count as keys.
    """
    keys = dict(_keys(template))
    if not keys:
        return []
    if _EVERY_KEY.get() or has_enclave_images(template) or is_application_encryptor(template):
        return list(keys)
    named = set(_named_with_attestation(template, set(keys)))
    judged = {name for name in keys if name in named or conditions_on_attestation(keys[name])}
    groups = [{name, *_primaries(keys, name)} for name in keys]
    for _ in range(2):  # from a replica to the primary key, and from there to other replicas
        judged.update(*(group for group in groups if group & judged))
    return [name for name in keys if name in judged]


def _primaries(keys: Mapping[str, object], name: str) -> set[str]:
    """Return the primary key of the replica *name*, if it is among *keys*."""
    return set(references(properties(keys[name]).get("PrimaryKeyArn"))) & keys.keys()


def has_enclave_images(template: Template) -> bool:
    """Return whether *template* has the parameter that lists the bound images."""
    return ENCLAVE_IMAGES.name in mapping(template.get("Parameters"))


def is_application_encryptor(template: Template) -> bool:
    """Return whether *template*, decoded from YAML or JSON, is an application-encryptor template.

    It is if it has any of: a CodeBuild project whose buildspec runs ``envelope_encryptor``; a
    parameter ``EnclaveImageSha384`` and a project; four or more of the seven parameters.
    """
    if len(set(mapping(template.get("Parameters"))) & _CONTRACT) >= _ENOUGH_PARAMETERS:
        return True
    projects = [properties(project) for _, project in resources(template, CODEBUILD_PROJECT)]
    if projects and has_enclave_images(template):
        return True
    return any(map(runs_encryptor, projects))


def runs_encryptor(project: Mapping[str, object]) -> bool:
    """Return whether a command in the buildspec of a *project* runs ``envelope_encryptor``."""
    source = mapping(project.get("Source")).get("BuildSpec")
    if not any("envelope_encryptor" in text for text in texts(source)):
        return False
    return any(
        _RUNS.search(line)
        for text in buildspec_texts(source)
        for command in _commands(text)
        for line in command.replace("\\\n", " ").splitlines()
    )


def _commands(buildspec: str) -> list[str]:
    try:
        return [str(command) for _, command in commands(parse(buildspec))]
    except yaml.YAMLError:  # E9004 reports it; which part a shell would see is not known
        return [line.lstrip("- ") for line in buildspec.splitlines()]


def conditions_on_attestation(node: object) -> bool:
    """Return whether a policy inside *node*, as text or not, has a condition on attestation."""
    for path, found in walk(node):
        if isinstance(found, Mapping) and "Condition" in path:
            if any(str(key).lower().startswith(ATTESTATION) for key in found):
                return True
        elif isinstance(found, str) and _KEY_IN_TEXT.search(found):
            return True
    # A text may be joined from parts (Fn::Join) that break in the middle of the key.
    return _KEY_IN_TEXT.search("".join(texts(node))) is not None


def _keys(template: Template) -> Iterator[tuple[str, object]]:
    for name, resource in mapping(template.get("Resources")).items():
        kind = str(mapping(resource).get("Type"))
        if kind in KMS_KEYS or kind.endswith(MODULE) or str(name).startswith(SPREADS):
            yield str(name), resource


def _named_with_attestation(template: Template, keys: set[str]) -> Iterator[str]:
    """Yield the keys that an identity policy with a condition on attestation names."""
    for name, resource in resources(template):
        if name in keys:
            continue
        for path, found in walk(properties(resource)):
            is_policy = isinstance(found, Mapping) and "Statement" in found
            if (is_policy or path[-1:] == ("PolicyDocument",)) and conditions_on_attestation(found):
                yield from keys.intersection(references(found))
