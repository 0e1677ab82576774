"""E9003: a parameter in a shell command is an injection."""

from collections.abc import Iterator, Mapping

import yaml
from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._buildspec import buildspecs, commands, parse, substituted


class NoParameterInShell(CloudFormationLintRule):
    """Refuse a buildspec into whose shell commands CloudFormation writes a parameter."""

    id = "E9003"
    shortdesc = "a parameter is substituted into a shell command"
    description = (
        "Whoever chooses a parameter's value writes part of the command, quotes or not. An"
        " environment variable of the project, in double quotes, is only ever a value"
    )
    source_url = (
        "https://docs.aws.amazon.com/codebuild/latest/userguide/build-env-ref-env-vars.html"
    )
    tags = ["resources", "codebuild", "injection"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each parameter in a buildspec's commands."""
        declared = cfn.template.get("Parameters")
        parameters = set(declared) if isinstance(declared, Mapping) else set()
        matches = []
        for path, text in buildspecs(cfn.template):
            for name in dict.fromkeys(_in_commands(text)):
                if name in parameters or name.startswith("AWS::"):
                    message = (
                        f"{name} is substituted into a shell command: pass it as an environment"
                        " variable of the project and quote that"
                    )
                    matches.append(RuleMatch(path, message))
        return matches


def _in_commands(text: str) -> Iterator[str]:
    try:
        found = [str(command) for _, command in commands(parse(text))]
    except yaml.YAMLError:
        found = [text]  # no telling what a shell would see of it
    for command in found:
        yield from substituted(command)
