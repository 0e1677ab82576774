"""E9004: a buildspec that CodeBuild can read."""

from collections.abc import Iterator, Mapping

import yaml
from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._buildspec import buildspecs, commands, parse

VERSIONS = ("0.1", "0.2")


class BuildspecParses(CloudFormationLintRule):
    """Refuse a buildspec that CodeBuild would refuse, minutes after the deployment."""

    id = "E9004"
    shortdesc = "a buildspec does not parse"
    description = (
        "CloudFormation takes any text for a buildspec; only the first build fails. It must be YAML"
        " with a version and phases, and each command a string: `echo a: b` is a mapping"
    )
    source_url = "https://docs.aws.amazon.com/codebuild/latest/userguide/build-spec-ref.html"
    tags = ["resources", "codebuild"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each fault of each buildspec."""
        return [
            RuleMatch(path, f"buildspec: {fault}")
            for path, text in buildspecs(cfn.template)
            for fault in _faults(text)
        ]


def _faults(text: str) -> Iterator[str]:
    try:
        buildspec = parse(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        yield f"is not YAML{where}: {getattr(error, 'problem', None) or error}"
        return
    if not isinstance(buildspec, Mapping):
        yield "is not a mapping: begin with `version: 0.2`"
        return
    if str(buildspec.get("version")) not in VERSIONS:
        yield f"has the version {buildspec.get('version')}: write `version: 0.2`"
    if not isinstance(buildspec.get("phases"), Mapping):
        yield "has no phases: nothing would run"
    for phase, command in commands(buildspec):
        if not isinstance(command, str):
            yield f"phase {phase} has a command that is no string: quote {command}"
