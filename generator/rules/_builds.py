"""What the rules about builds share: projects, roles, and policies with parameters by name."""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import NamedTuple, TypeAlias

import yaml

from generator.deployments.concrete import Deployment, parsed
from generator.nodes import listed, mapping
from generator.policy.operators import UNKNOWN
from generator.rules._buildspec import Path, buildspecs, commands, parse, projects
from generator.rules._scope import is_application_encryptor, runs_encryptor

CONDITIONS_MAX = 5
"""Further conditions are left open, and values that depend on them are unknown."""

UNKNOWN_SHOWN = "(unknown)"

Template: TypeAlias = Mapping[str, object]


class Role(NamedTuple):
    """A role that a project of the template uses."""

    name: str
    properties: Mapping[str, object]
    path: Path


class PolicyStatement(NamedTuple):
    """One statement in one branch of the template's conditions, with parameters by name."""

    path: Path
    effect: str
    actions: list[str]
    resources: list[str]
    body: Mapping[str, object]


def shown(resolved: object) -> str:
    """Return a resolved value for a message; parts that only AWS knows are shown as unknown."""
    return str(resolved).replace(UNKNOWN, UNKNOWN_SHOWN)


def encryptor_projects(template: Template) -> Iterator[tuple[Path, Mapping[str, object]]]:
    """Yield the encrypting projects of an application-encryptor template, or all if none does."""
    if is_application_encryptor(template):
        found = list(projects(template))
        encrypting = [(path, body) for path, body in found if runs_encryptor(body)]
        yield from encrypting or found


def shell_commands(template: Template) -> Iterator[tuple[Path, list[str]]]:
    """Yield the commands of each buildspec written into an application-encryptor template."""
    if is_application_encryptor(template):
        judged = [path for path, _ in encryptor_projects(template)]
        for path, text in buildspecs(template):
            if path[:3] not in judged:
                continue
            try:
                yield path, [str(command) for _, command in commands(parse(text))]
            except yaml.YAMLError:  # E9004 reports it
                continue


def build_roles(template: Template) -> Iterator[Role]:
    """Yield each role of *template* that one of its projects uses, alone or in a batch."""
    resources = mapping(template.get("Resources"))
    found = set()
    for _, properties in encryptor_projects(template):
        batch = mapping(properties.get("BuildBatchConfig")).get("ServiceRole")
        found |= named_roles(template, properties.get("ServiceRole"))
        found |= named_roles(template, batch)
    for name in sorted(found):
        properties = mapping(mapping(resources[name]).get("Properties"))
        yield Role(name, properties, ["Resources", name, "Properties"])


def named_roles(template: Template, node: object) -> set[str]:
    """Return the logical names of the roles of *template* that occur in *node*."""
    words = set(re.findall(r"[A-Za-z0-9]+", json.dumps(node, default=str)))
    resources = mapping(template.get("Resources"))
    return {
        name
        for name in words & set(resources)
        if mapping(resources[name]).get("Type") == "AWS::IAM::Role"
    }


def branches(template: Template, node: object) -> Iterator[Deployment]:
    """Yield a stack for each combination of conditions in *node*; each parameter is ``${Name}``."""
    names: dict[str, str | list[str]] = {
        name: f"${{{name}}}" for name in mapping(template.get("Parameters"))
    }
    text = json.dumps(node, default=str)
    conditions = [name for name in mapping(template.get("Conditions")) if f'"{name}"' in text]
    for truths in product((True, False), repeat=min(len(conditions), CONDITIONS_MAX)):
        yield Deployment(template, names, dict(zip(conditions, truths, strict=False)))


def statements(template: Template, document: object, path: Path) -> Iterator[PolicyStatement]:
    """Yield the statements of a policy *document* at *path*, in every branch of its conditions."""
    for stack in branches(template, document):
        node, top = stack.branch(document, tuple(path))
        if "Statement" not in mapping(node):  # the policy is a text, or a function's value
            node, top = parsed(stack.resolve(node)), tuple(path)
        found = mapping(node).get("Statement", UNKNOWN)
        for body, place in stack.items(found, (*top, "Statement")):
            fields = mapping(body)
            yield PolicyStatement(
                [*place] if node is document else [*path],
                str(fields.get("Effect")),
                [str(action) for action in listed(fields.get("Action", UNKNOWN))],
                [str(resource) for resource in listed(fields.get("Resource", UNKNOWN))],
                fields,
            )


def _documents(node: object, path: Path) -> Iterator[tuple[object, Path]]:
    """Yield each PolicyDocument in *node*, in any branch of a condition."""
    children = node.items() if isinstance(node, Mapping) else enumerate(listed(node))
    if isinstance(node, (Mapping, list)):
        for key, child in children:
            if key == "PolicyDocument":
                yield child, [*path, key]
            else:
                yield from _documents(child, [*path, key])


def role_policies(template: Template, role: Role) -> Iterator[tuple[object, Path]]:
    """Yield each policy document that the template gives *role*, inline or by a resource."""
    yield from _documents(role.properties.get("Policies"), [*role.path, "Policies"])
    own = json.dumps(role.properties.get("RoleName", {"Ref": role.name}), default=str)
    for name, resource in mapping(template.get("Resources")).items():
        properties = mapping(mapping(resource).get("Properties"))
        attached = json.dumps([properties.get("Roles"), properties.get("RoleName")], default=str)
        named = own in attached or re.search(rf'["{{]{role.name}["}}.]', attached)
        if named and "PolicyDocument" in properties:
            yield (
                properties.get("PolicyDocument"),
                ["Resources", name, "Properties", "PolicyDocument"],
            )
