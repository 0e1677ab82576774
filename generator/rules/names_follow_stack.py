"""W9207: names do not block a second stack."""

from collections.abc import Iterator, Mapping

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.nodes import mapping
from generator.rules._buildspec import Path
from generator.rules._scope import is_application_encryptor

NAMES = {
    "AWS::CodeBuild::Project": "Name",
    "AWS::IAM::Role": "RoleName",
    "AWS::Logs::LogGroup": "LogGroupName",
}
"""Names that must be unique in an account or a region."""


class NamesFollowStack(CloudFormationLintRule):
    """Warn about a fixed name, which a second stack cannot use."""

    id = "W9207"
    shortdesc = "a fixed name blocks a second stack"
    description = (
        "Each application has its own stack. If the template gives a resource or an export a"
        " fixed name, deploying a second stack fails: derive the name from AWS::StackName"
    )
    source_url = "https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-stack-exports.html"
    tags = ["resources", "outputs", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each fixed name of a project, role, log group or export."""
        if not is_application_encryptor(cfn.template):
            return []
        return [
            RuleMatch(path, f"the name {name} is fixed: derive it from AWS::StackName")
            for path, name in _names(cfn.template)
            if isinstance(name, str)
        ]


def _names(template: Mapping[str, object]) -> Iterator[tuple[Path, object]]:
    for title, resource in mapping(template.get("Resources")).items():
        named = NAMES.get(str(mapping(resource).get("Type")))
        if named:
            properties = mapping(mapping(resource).get("Properties"))
            yield ["Resources", title, "Properties", named], properties.get(named)
    for title, output in mapping(template.get("Outputs")).items():
        export = mapping(mapping(output).get("Export"))
        yield ["Outputs", title, "Export", "Name"], export.get("Name")
