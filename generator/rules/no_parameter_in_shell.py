"""E9003: free text in a shell command is an injection."""

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
        "Whoever chooses a parameter's value, or writes the SSM parameter behind it, writes part of"
        " the command, quotes or not. An environment variable of the project, in double quotes, is"
        " only ever a value. Values that cannot hold a character that a shell reads are no"
        " injection: pseudo parameters, numbers, AllowedValues, a pattern that excludes them"
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
        found = [text]  # what a shell would see of it is not known
    for command in found:
        yield from substituted(command)
