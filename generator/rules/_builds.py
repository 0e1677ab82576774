"""What the rules about builds share: projects, their roles, policies in parameters' names."""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import NamedTuple, TypeAlias

from generator.condition_operators import listed
from generator.rules._buildspec import Path, buildspecs, commands, parse, projects
from generator.rules._scope import is_application_encryptor
from generator.template_values import Deployment, mapping

Template: TypeAlias = Mapping[str, object]


class Role(NamedTuple):
    """A role that a project of the template builds as."""

    name: str
    properties: Mapping[str, object]
    path: Path


class PolicyStatement(NamedTuple):
    """One statement in one branch of the template's conditions, parameters by their names."""

    path: Path
    effect: str
    actions: list[str]
    resources: list[str]
    body: Mapping[str, object]


def encryptor_projects(template: Template) -> Iterator[tuple[Path, Mapping[str, object]]]:
    """Yield the CodeBuild projects of an application-encryptor template, of another none."""
    if is_application_encryptor(template):
        yield from projects(template)


def shell_commands(template: Template) -> Iterator[tuple[Path, list[str]]]:
    """Yield the commands of each buildspec written into an application-encryptor template."""
    if is_application_encryptor(template):
        for path, text in buildspecs(template):
            yield path, [str(command) for _, command in commands(parse(text))]


def build_roles(template: Template) -> Iterator[Role]:
    """Yield each role of *template* that one of its projects builds as."""
    resources = mapping(template.get("Resources"))
    found = set()
    for _, properties in encryptor_projects(template):
        text = json.dumps(properties.get("ServiceRole"), default=str)
        found |= set(re.findall(r"[A-Za-z0-9]+", text)) & set(resources)
    for name in sorted(found):
        role = mapping(resources[name])
        if role.get("Type") == "AWS::IAM::Role":
            yield Role(name, mapping(role.get("Properties")), ["Resources", name, "Properties"])


def branches(template: Template, node: object) -> Iterator[Deployment]:
    """Yield a stack for each combination of conditions in *node*; each parameter is ``${Name}``."""
    names: dict[str, str | list[str]] = {
        name: f"${{{name}}}" for name in mapping(template.get("Parameters"))
    }
    text = json.dumps(node, default=str)
    conditions = [name for name in mapping(template.get("Conditions")) if f'"{name}"' in text]
    for truths in product((True, False), repeat=min(len(conditions), 5)):
        yield Deployment(template, names, dict(zip(conditions, truths, strict=False)))


def statements(template: Template, document: object, path: Path) -> Iterator[PolicyStatement]:
    """Yield the statements of a policy *document* at *path*, in every branch of its conditions."""
    for stack in branches(template, document):
        found = mapping(document).get("Statement")
        for body, place in stack.items(found, (*path, "Statement")):
            fields = mapping(body)
            yield PolicyStatement(
                list(place),
                str(fields.get("Effect")),
                [str(action) for action in listed(fields.get("Action", []))],
                [str(resource) for resource in listed(fields.get("Resource", []))],
                fields,
            )


def role_policies(template: Template, role: Role) -> Iterator[tuple[object, Path]]:
    """Yield each policy document that the template gives *role*, inline or by a resource."""
    for index, policy in enumerate(listed(role.properties.get("Policies", []))):
        path = [*role.path, "Policies", index, "PolicyDocument"]
        yield mapping(policy).get("PolicyDocument"), path
    for name, resource in mapping(template.get("Resources")).items():
        properties = mapping(mapping(resource).get("Properties"))
        attached = listed(properties.get("Roles", [])), properties.get("RoleName")
        if f'"{role.name}"' in json.dumps(attached, default=str):
            yield (
                properties.get("PolicyDocument"),
                ["Resources", name, "Properties", "PolicyDocument"],
            )
