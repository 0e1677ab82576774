"""E9004: CodeBuild can read the buildspec."""

from collections.abc import Iterator, Mapping

import yaml
from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.nodes import mapping
from generator.rules._buildspec import buildspecs, commands, parse, repeated_keys, substituted

VERSIONS = (0.1, 0.2)
PHASES = ("install", "pre_build", "build", "post_build")
NO_PHASES = f"has no phases, so nothing would run: add one of {', '.join(PHASES)}"


class BuildspecParses(CloudFormationLintRule):
    """Refuse a buildspec that CodeBuild would refuse when the first build starts."""

    id = "E9004"
    shortdesc = "a buildspec does not parse"
    description = (
        "CloudFormation accepts any text as a buildspec; only the first build fails. It must be"
        " YAML with a version, and with phases (install, pre_build, build, post_build) or a batch;"
        " it must have no duplicate keys; and each command must be a string: `echo a: b` is a"
        " mapping"
    )
    source_url = "https://docs.aws.amazon.com/codebuild/latest/userguide/build-spec-ref.html"
    tags = ["resources", "codebuild"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each fault of each buildspec."""
        found = {
            (tuple(path), fault): path
            for path, text in buildspecs(cfn.template)
            for fault in _faults(text)
        }
        return [RuleMatch(path, f"buildspec: {fault}") for (_, fault), path in found.items()]


def _faults(text: str) -> Iterator[str]:
    try:
        buildspec = parse(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        yield f"is not YAML{where}: {getattr(error, 'problem', None) or error}"
        return
    if not isinstance(buildspec, Mapping):
        if not substituted(text):  # else it may become a mapping
            yield "is not a mapping: begin with `version: 0.2`"
        return
    for key in repeated_keys(text):
        yield f"has the key {key} twice in one mapping, and only one counts: remove the other"
    yield from _structure_faults(buildspec)
    for phase, command in commands(buildspec):
        if command is None or isinstance(command, (Mapping, list)):
            yield f"phase {phase} has a command that is not a string: quote {command}"


def _is_known(version: str) -> bool:
    try:
        return float(version) in VERSIONS
    except ValueError:
        return False


def _structure_faults(buildspec: Mapping[str, object]) -> Iterator[str]:
    version, phases = str(buildspec.get("version")), buildspec.get("phases")
    if not _is_known(version) and not substituted(version):
        found = f"has the version {version}" if "version" in buildspec else "has no version"
        yield f"{found}: write `version: 0.2`"
    if not isinstance(phases, Mapping):
        # A batch names the buildspecs of its builds, which have the phases.
        if "batch" not in buildspec or phases is not None:
            yield NO_PHASES
        return
    for phase in phases:
        if str(phase) not in PHASES and not substituted(str(phase)):
            yield f"has an unknown phase {phase}: choose from {', '.join(PHASES)}"
    if not mapping(phases) and "batch" not in buildspec:
        yield NO_PHASES
