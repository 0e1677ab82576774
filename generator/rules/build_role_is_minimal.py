"""E9201: the build's role can encrypt and upload, and nothing else."""

import re
from collections.abc import Iterator, Mapping

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.parameters import (
    BUCKET_KEY,
    BUCKET_NAME,
    CONNECTION_ARN,
    REPOSITORY_NAME,
    SOURCE_BUCKET,
    SOURCE_KEY,
)
from generator.rules._builds import (
    PolicyStatement,
    build_roles,
    encryptor_projects,
    named_roles,
    role_policies,
    shown,
    statements,
)

_EXTERNAL_KEY = rf"\$\{{{BUCKET_KEY.name}\}}"
_OWN_KEY = r"arn:[^:]+:kms:[^:]+:\d+:key/\w+"
_OBJECT = rf"arn:[^:]+:s3:::\$\{{{BUCKET_NAME.name}\}}/.+"
_LOG = r"arn:[^:]+:logs:.*log-group:/[^*].*|\ufffd(:\*)?"
_REPOSITORY = rf"arn:[^:]+:codecommit:[^:]+:\d+:\$\{{{REPOSITORY_NAME.name}\}}"

_SOURCE_BUCKET = rf"arn:[^:]+:s3:::\$\{{{SOURCE_BUCKET.name}\}}"
_SOURCE = rf"{_SOURCE_BUCKET}/\$\{{{SOURCE_KEY.name}\}}\*?"
_CONNECTION = rf"\$\{{{CONNECTION_ARN.name}\}}"

NEEDED: Mapping[str, str] = {
    "codecommit:gitpull": _REPOSITORY,
    "s3:getobject": _SOURCE,
    "s3:getobjectversion": _SOURCE,
    "s3:listbucket": _SOURCE_BUCKET,
    **{
        f"{service}:{action}": _CONNECTION
        for service in ("codeconnections", "codestar-connections")
        for action in ("getconnection", "getconnectiontoken")
    },
    "logs:createloggroup": _LOG,
    "logs:createlogstream": _LOG,
    "logs:putlogevents": _LOG,
    "kms:encrypt": _OWN_KEY,
    "kms:generatedatakey": rf"{_OWN_KEY}|{_EXTERNAL_KEY}",
    "kms:decrypt": _EXTERNAL_KEY,
    "s3:putobject": _OBJECT,
    "s3:putobjectacl": _OBJECT,
    "s3:abortmultipartupload": _OBJECT,
}
"""Every action that a build needs, and on which resources, with parameters by name."""


class BuildRoleIsMinimal(CloudFormationLintRule):
    """Refuse a build's role that may do more than encrypt and upload."""

    id = "E9201"
    shortdesc = "the build's role has more permissions than it needs"
    description = (
        "Anyone who may start a build can override its commands and do all that the role may. The"
        " role needs kms:Encrypt and kms:GenerateDataKey on the key, kms:Decrypt on the bucket's"
        " key only, and access to one repository or source, one log group, one path of one bucket"
    )
    source_url = "https://docs.aws.amazon.com/codebuild/latest/APIReference/API_StartBuild.html"
    tags = ["resources", "iam", "codebuild", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each permission that a build does not need."""
        matches = []
        for path, properties in encryptor_projects(cfn.template):
            if not named_roles(cfn.template, properties.get("ServiceRole")):
                message = "the project uses a role from outside the template: declare it there"
                matches.append(RuleMatch([*path, "ServiceRole"], message))
        for role in build_roles(cfn.template):
            if "ManagedPolicyArns" in role.properties:
                path = [*role.path, "ManagedPolicyArns"]
                message = f"role {role.name} has managed policies: write out what the build needs"
                matches.append(RuleMatch(path, message))
            for document, path in role_policies(cfn.template, role):
                for statement in statements(cfn.template, document, path):
                    matches += _findings(role.name, statement)
        return list({(str(match.path), match.message): match for match in matches}.values())


def _findings(role: str, statement: PolicyStatement) -> Iterator[RuleMatch]:
    if statement.effect == "Deny":
        return
    for element in ("NotAction", "NotResource"):
        if element in statement.body:
            yield RuleMatch(
                [*statement.path, element],
                f"role {role} has an open-ended permission: write {element[3:]} instead",
            )
    for action in statement.actions:
        needed = NEEDED.get(action.lower())
        if needed is None:
            message = f"role {role} may {shown(action)}: a build does not need it, remove it"
            yield RuleMatch([*statement.path, "Action"], message)
            continue
        for resource in statement.resources:
            # A log's streams, and what lies below a prefix, are named by a wildcard at the end.
            named = resource.removesuffix(":*" if needed != _SOURCE else "*")
            if not re.fullmatch(needed, resource) or re.search(r"[*?]", named):
                yield RuleMatch(
                    [*statement.path, "Resource"],
                    f"role {role} may {action} on {shown(resource)}: name the one resource needed",
                )
