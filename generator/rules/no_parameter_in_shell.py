"""E9003: no free text is substituted into a shell command."""

from collections.abc import Iterator

import yaml
from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._buildspec import buildspecs, commands, parse, substituted
from generator.rules._free_text import holds_shell_characters


class NoParameterInShell(CloudFormationLintRule):
    """Refuse a buildspec into whose shell commands CloudFormation writes free text."""

    id = "E9003"
    shortdesc = "free text is substituted into a shell command"
    description = (
        "Anyone who chooses the value of a parameter, or of an SSM parameter that it refers to,"
        " writes part of the command, with or without quotes around it. An environment variable of"
        " the project, in double quotes, is always just a value. Values that cannot contain a shell"
        " metacharacter are safe: pseudo parameters, numbers, AllowedValues, a restrictive"
        " AllowedPattern"
    )
    source_url = (
        "https://docs.aws.amazon.com/codebuild/latest/userguide/build-env-ref-env-vars.html"
    )
    tags = ["resources", "codebuild", "injection"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each value in a buildspec's commands."""
        found = {
            (tuple(path), origin): path
            for path, text in buildspecs(cfn.template)
            for origin in _in_commands(text)
            if holds_shell_characters(origin, cfn.template)
        }
        return [
            RuleMatch(
                path,
                f"{origin} is substituted into a shell command: pass it as an environment"
                " variable of the project and quote that",
            )
            for (_, origin), path in found.items()
        ]


def _in_commands(text: str) -> Iterator[str]:
    try:
        found = [str(command) for _, command in commands(parse(text))]
    except yaml.YAMLError:
        found = [text]  # which part a shell would see is not known
    for command in found:
        yield from substituted(command)
