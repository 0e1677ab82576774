"""E9008: an inline buildspec is within CodeBuild's limit."""

from collections.abc import Mapping

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.limits import BUILDSPEC_MAX, PARAMETER_VALUE_MAX
from generator.nodes import listed, mapping
from generator.rules._buildspec import buildspecs, literal, substituted

PSEUDO_PARAMETERS = {
    "AWS::AccountId": 12,
    "AWS::Partition": 16,
    "AWS::Region": 24,
    "AWS::StackId": 256,
    "AWS::StackName": 128,
    "AWS::URLSuffix": 32,
}
"""Characters that each may have; an upper estimate where AWS documents no maximum."""


class BuildspecFits(CloudFormationLintRule):
    """Refuse a project whose inline buildspec CodeBuild would refuse when the stack is created."""

    id = "E9008"
    shortdesc = "a buildspec is longer than CodeBuild accepts"
    description = (
        f"An inline buildspec can have at most {BUILDSPEC_MAX:,} characters; CodeBuild refuses a"
        " longer one (`Max buildspec length is 25600`), and the stack rolls back. AWS does not"
        " document this limit. The values of parameters count, too"
    )
    source_url = "https://github.com/aws/aws-cdk/issues/30326"
    tags = ["resources", "codebuild", "limits"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each project whose buildspec is, or can become, too long."""
        parameters = mapping(cfn.template.get("Parameters"))
        faults: dict[tuple[str | int, ...], str] = {}
        # A function such as Fn::If gives several texts; the first that is too long is enough.
        for path, text in buildspecs(cfn.template):
            fault = _fault(text, parameters)
            if fault:
                faults.setdefault(tuple(path), fault)
        return [RuleMatch(list(path), fault) for path, fault in faults.items()]


def _fault(text: str, parameters: Mapping[str, object]) -> str | None:
    """Return how long a buildspec is, or can become, if that is too long."""
    shortest = len(literal(text))
    names = substituted(text)
    longest = shortest + sum(_longest(name, parameters) for name in names)
    takes = f"CodeBuild accepts {BUILDSPEC_MAX:,}"
    known = [name for name in dict.fromkeys(names) if name]
    if shortest > BUILDSPEC_MAX:
        least = "at least " if names else ""
        more = f", plus the value of {', '.join(known) or 'a function'}" if names else ""
        return (
            f"the buildspec has {least}{shortest:,} characters{more}: {takes}; shorten it, or keep"
            " it in the source as buildspec.yml"
        )
    if longest > BUILDSPEC_MAX:
        growing = [name for name in known if _longest(name, parameters)]
        return (
            f"the buildspec has {shortest:,} characters, and up to {longest:,} with the longest"
            f" value of {', '.join(growing)}: {takes}; add a MaxLength, or shorten it"
        )
    return None


def _longest(name: str, parameters: Mapping[str, object]) -> int:
    """Return how many characters a value may add; 0 if the template does not say."""
    if name in PSEUDO_PARAMETERS:
        return PSEUDO_PARAMETERS[name]
    declared = mapping(parameters.get(name))
    if "AllowedValues" in declared:
        return max((len(str(value)) for value in listed(declared["AllowedValues"])), default=0)
    stated = str(declared.get("MaxLength", ""))
    if stated.isdecimal():
        return int(stated)
    # A pattern or another type than String bounds the value in a way that is not computed here.
    free = declared.get("Type") == "String" and "AllowedPattern" not in declared
    return PARAMETER_VALUE_MAX if free else 0
