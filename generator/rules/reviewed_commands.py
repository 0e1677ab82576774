"""W9209: the build is the reviewed one: its commands, their phases, its environment."""

from collections.abc import Iterator, Mapping

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
    """Warn of a build that differs from this project's own in anything but its limits."""

    id = "W9209"
    shortdesc = "the build is not the reviewed one"
    description = (
        "A command beside the reviewed ones, the same command in another phase, or a variable such"
        " as PYTHONPATH or AWS_ENDPOINT_URL can change the embedded encryptor before it runs, call"
        " it with another key, or send the code elsewhere. No list of bad ones is complete, so each"
        " difference needs somebody to read it"
    )
    source_url = "https://docs.aws.amazon.com/codebuild/latest/userguide/build-spec-ref.html"
    tags = ["resources", "codebuild", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each place in which a build differs from the reviewed one."""
        return [
            RuleMatch([*path, *place], f"{difference}: read and approve `{what}`")
            for path, project in encryptor_projects(cfn.template)
            for place, difference, what in _differences(project)
        ]


def _differences(project: Mapping[str, object]) -> Iterator[tuple[list[str], str, str]]:
    for text in buildspec_texts(mapping(project.get("Source")).get("BuildSpec")):
        try:
            found = parse(text)
        except yaml.YAMLError:  # a rule of its own says so
            continue
        if found != parse(buildspec()):
            yield ["Source", "BuildSpec"], *_first_difference(found)
    for variable in listed(mapping(project.get("Environment")).get("EnvironmentVariables") or []):
        name = str(mapping(variable).get("Name"))
        if name not in VARIABLES:
            yield ["Environment"], "the build's environment is not the reviewed one", name
    for member in _UNREVIEWED:
        if member in project:
            yield [member], "the project is not the reviewed one", member


def _first_difference(found: object) -> tuple[str, str]:
    """Say in what a parsed buildspec differs, and quote it."""
    reviewed = [str(command) for _, command in commands(parse(buildspec()))]
    for _, command in commands(found):
        if str(command) not in reviewed:
            first = " ".join(str(command).split())[:72]
            return "the commands are not the reviewed ones", first
    return "the commands are the reviewed ones, but not all, or not where they belong", "buildspec"
