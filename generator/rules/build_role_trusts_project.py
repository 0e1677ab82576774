"""E9202: only this project's builds may assume the build's role."""

import re
from collections.abc import Iterator

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.deployments.concrete import OWNER
from generator.nodes import listed, mapping
from generator.rules._builds import PolicyStatement, build_roles, shown, statements

SERVICE = "codebuild.amazonaws.com"
CONFINING = ("aws:sourcearn", "aws:sourceaccount")
CONFINED = re.compile(rf"{OWNER}|arn:[^:*?]+:codebuild:[^:*?]+:{OWNER}:(project|build)/.+")
"""The stack's own account, or a project of it."""
POSITIVE = ("StringEquals", "StringEqualsIgnoreCase", "StringLike", "ArnEquals", "ArnLike")


class BuildRoleTrustsProject(CloudFormationLintRule):
    """Refuse a build's role that anyone but this account's CodeBuild may assume."""

    id = "E9202"
    shortdesc = "the build's role trusts more than its project"
    description = (
        "A role that trusts CodeBuild without a condition can be used through a project in another"
        " account (the confused deputy); one that trusts people gives them the build's permissions"
    )
    source_url = "https://docs.aws.amazon.com/codebuild/latest/userguide/cross-service-confused-deputy-prevention.html"
    tags = ["resources", "iam", "codebuild", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each other trusted principal, and each missing condition."""
        return [
            RuleMatch(statement.path, f"role {role.name} {fault}")
            for role in build_roles(cfn.template)
            for statement in statements(
                cfn.template,
                role.properties.get("AssumeRolePolicyDocument"),
                [*role.path, "AssumeRolePolicyDocument"],
            )
            for fault in _faults(statement)
        ]


def _faults(statement: PolicyStatement) -> Iterator[str]:
    if statement.effect == "Deny":
        return
    principal = statement.body.get("Principal")
    services = listed(mapping(principal).get("Service", []))
    if set(mapping(principal)) != {"Service"} or set(map(str, services)) != {SERVICE}:
        yield f"may be assumed by {shown(principal)}: trust only the service {SERVICE}"
    confined = {
        key.lower()
        for operator, keys in mapping(statement.body.get("Condition")).items()
        for key, values in mapping(keys).items()
        if operator in POSITIVE and all(CONFINED.fullmatch(str(each)) for each in listed(values))
    }
    if not confined.intersection(CONFINING):
        yield "may be assumed for any project: add aws:SourceArn and aws:SourceAccount conditions"
