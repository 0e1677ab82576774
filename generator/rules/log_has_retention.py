"""W9208: the build's log is the stack's, and has a retention period."""

from collections.abc import Mapping

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.nodes import mapping
from generator.rules._builds import encryptor_projects


class LogHasRetention(CloudFormationLintRule):
    """Warn about a build log that is not in the template, or is kept forever."""

    id = "W9208"
    shortdesc = "the build's log has no retention period"
    description = (
        "Without its own log group the project writes to one that CodeBuild creates, which is kept"
        " forever, and its role needs permissions on more than one group"
    )
    source_url = "https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/Working-with-log-groups-and-streams.html"
    tags = ["resources", "codebuild", "logs", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each project without a log group of the template, with retention."""
        groups = {
            name: mapping(mapping(resource).get("Properties"))
            for name, resource in mapping(cfn.template.get("Resources")).items()
            if mapping(resource).get("Type") == "AWS::Logs::LogGroup"
        }
        message = (
            "the build's log has no retention period: send it to a log group with RetentionInDays"
        )
        return [
            RuleMatch([*path], message)
            for path, properties in encryptor_projects(cfn.template)
            if not any(
                "RetentionInDays" in group and _writes_to(properties, name, group)
                for name, group in groups.items()
            )
        ]


def _writes_to(project: Mapping[str, object], name: str, group: Mapping[str, object]) -> bool:
    """Return whether the log of *project* is the group with the logical *name*."""
    logs = mapping(mapping(project.get("LogsConfig")).get("CloudWatchLogs"))
    said = logs.get("GroupName")
    referred = said in ({"Ref": name}, {"Fn::Sub": f"${{{name}}}"})
    same = said is not None and said == group.get("LogGroupName")
    return logs.get("Status") == "ENABLED" and (referred or same)
