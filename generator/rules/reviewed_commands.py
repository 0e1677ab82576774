"""W9209: the build's commands, phases and environment are the reviewed ones."""

from collections.abc import Iterator, Mapping
from functools import cache

import yaml
from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.nodes import listed, mapping
from generator.rules._builds import encryptor_projects
from generator.rules._buildspec import buildspec_texts, commands, parse
from generator.templates.buildspec import VARIABLES, buildspec

_UNREVIEWED = ("SourceVersion", "BuildBatchConfig")
"""Members of a project that change what is built, or how."""


class ReviewedCommands(CloudFormationLintRule):
    """Warn about a build that differs from this project's in anything but its limits."""

    id = "W9209"
    shortdesc = "the build is not the reviewed one"
    description = (
        "An additional command, the same command in another phase, or a variable such as PYTHONPATH"
        " or AWS_ENDPOINT_URL can change the embedded encryptor before it runs, pass it another"
        " key, or send the code somewhere else. No list of dangerous commands is complete, so"
        " somebody must review each difference"
    )
    source_url = "https://docs.aws.amazon.com/codebuild/latest/userguide/build-spec-ref.html"
    tags = ["resources", "codebuild", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each place in which a build differs from the reviewed one."""
        return [
            RuleMatch([*path, *place], f"{difference}: review `{what}`")
            for path, project in encryptor_projects(cfn.template)
            for place, difference, what in _differences(project)
        ]


def _differences(project: Mapping[str, object]) -> Iterator[tuple[list[str], str, str]]:
    for text in buildspec_texts(mapping(project.get("Source")).get("BuildSpec")):
        try:
            found = parse(text)
        except yaml.YAMLError:  # E9004 reports it
            continue
        if found != _reviewed():
            yield ["Source", "BuildSpec"], *_first_difference(found)
    for variable in listed(mapping(project.get("Environment")).get("EnvironmentVariables") or []):
        name = str(mapping(variable).get("Name"))
        if name not in VARIABLES:
            yield ["Environment"], "the build's environment is not the reviewed one", name
    for member in _UNREVIEWED:
        if member in project:
            yield [member], "the project is not the reviewed one", member


@cache
def _reviewed() -> object:
    return parse(buildspec())


def _first_difference(found: object) -> tuple[str, str]:
    """Return how a parsed buildspec differs, and the first command that does."""
    reviewed = [str(command) for _, command in commands(_reviewed())]
    for _, command in commands(found):
        if str(command) not in reviewed:
            first = " ".join(str(command).split())[:72]
            return "the commands are not the reviewed ones", first
    return "reviewed commands are missing, or in another phase or order", "buildspec"
