"""W9208: the build's log is the stack's, and ends."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._builds import encryptor_projects
from generator.template_values import mapping


class LogHasEnd(CloudFormationLintRule):
    """Warn of a build log outside the template, or one that is kept for ever."""

    id = "W9208"
    shortdesc = "the build's log is not a log group with a retention"
    description = (
        "Without a group of its own the project writes to one that CodeBuild makes, which is kept"
        " for ever and needs permissions on more than one group"
    )
    source_url = "https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/Working-with-log-groups-and-streams.html"
    tags = ["resources", "codebuild", "logs", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each project without a log group of the template, with retention."""
        resources = mapping(cfn.template.get("Resources"))
        matches = []
        for path, properties in encryptor_projects(cfn.template):
            logs = mapping(mapping(properties.get("LogsConfig")).get("CloudWatchLogs"))
            group = mapping(resources.get(str(mapping(logs.get("GroupName")).get("Ref"))))
            if "RetentionInDays" not in mapping(group.get("Properties")):
                message = "the build's log has no end: refer to a log group with RetentionInDays"
                matches.append(RuleMatch([*path], message))
        return matches
