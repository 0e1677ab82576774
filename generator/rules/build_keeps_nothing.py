"""E9204: unencrypted code stays inside the build."""

import re
from collections.abc import Iterator, Mapping, Sequence

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.deployments.concrete import OWNER
from generator.nodes import listed, mapping
from generator.parameters import (
    CONNECTION_ARN,
    HOST_ACCOUNT,
    REPOSITORY_TYPE,
    REPOSITORY_URL,
    SOURCE_BUCKET,
    SOURCE_KEY,
)
from generator.rules._builds import branches, encryptor_projects

OWN_KEY = re.compile(rf"arn:[^:]+:kms:[^:]+:{OWNER}:key/\w+")


class BuildKeepsNothing(CloudFormationLintRule):
    """Refuse a project that takes code from another source, or stores it unencrypted."""

    id = "E9204"
    shortdesc = "the project stores or exposes unencrypted code"
    description = (
        "In the build the code is not encrypted: build artifacts and caches would store it, a"
        " public project would show its log, and privileged mode lets a command leave its container"
    )
    source_url = "https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-codebuild-project.html"
    tags = ["resources", "codebuild", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each way out of the build."""
        return [
            RuleMatch([*path, place], f"the project {fault}")
            for path, properties in encryptor_projects(cfn.template)
            for stack in branches(cfn.template, properties)
            for place, fault in _faults(mapping(stack.resolve(dict(properties))))
        ]


WANTED = {
    "Artifacts": ("Type", "NO_ARTIFACTS", "stores unencrypted artifacts"),
    "Cache": ("Type", "NO_CACHE", "keeps the code in a cache"),
    "Environment": ("PrivilegedMode", "False", "runs in privileged mode"),
}
"""What a member of a project must be if it is present, and what the project does otherwise."""

_S3 = (f"${{{SOURCE_BUCKET.name}}}/${{{SOURCE_KEY.name}}}",)
_CONNECTION = (f"${{{REPOSITORY_URL.name}}}", "CODECONNECTIONS", f"${{{CONNECTION_ARN.name}}}")
SOURCES = {"S3": _S3, f"${{{REPOSITORY_TYPE.name}}}": _CONNECTION}
"""For each source type except CodeCommit, the parameters that must make up the source."""

UNWANTED = ("SecondaryArtifacts", "SecondarySources", "FileSystemLocations", "Triggers")
"""Members that give a project code from another source, or let code out of it."""


def _faults(properties: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for place, (member, wanted, fault) in WANTED.items():
        for each in map(mapping, listed(properties.get(place, []))):
            if str(each.get(member, "False")).title() != wanted.title():
                yield place, f"{fault}: set {member} to {wanted}"
    yield from _source_faults(mapping(properties.get("Source")))
    for place in UNWANTED:
        if properties.get(place):
            yield place, f"has {place}, another way for code to get in or out: remove it"
    if properties.get("Visibility", "PRIVATE") != "PRIVATE":
        yield "Visibility", "makes its builds public: set Visibility to PRIVATE"
    s3_logs = mapping(mapping(properties.get("LogsConfig")).get("S3Logs"))
    if s3_logs.get("Status", "DISABLED") != "DISABLED":
        yield "LogsConfig", "copies its log to a bucket: remove S3Logs"
    environment = mapping(properties.get("Environment"))
    if "Certificate" in environment:
        yield "Environment", "trusts a certificate from a bucket: remove it"
    yield from _variables(listed(environment.get("EnvironmentVariables", [])))


def _source_faults(source: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    kind = str(source.get("Type"))
    auth = mapping(source.get("Auth"))
    made_of = [source.get("Location"), *filter(None, (auth.get("Type"), auth.get("Resource")))]
    if kind != "CODECOMMIT" and SOURCES.get(kind) != tuple(map(str, made_of)):
        yield "Source", "takes its source from another service: set Type to CODECOMMIT"


def _variables(found: Sequence[object]) -> Iterator[tuple[str, str]]:
    for variable in map(mapping, found):
        name, value = variable.get("Name"), str(variable.get("Value"))
        if variable.get("Type", "PLAINTEXT") != "PLAINTEXT":
            yield (
                "Environment",
                f"reads {name} from outside the template: write the value into the template",
            )
        elif name == "ENCRYPTION_KEY_ARN" and not OWN_KEY.fullmatch(value):
            yield (
                "Environment",
                "encrypts under a key from outside the template: refer to the template's key",
            )
        elif name == "EXTERNAL_BUCKET_ACCOUNT" and value != f"${{{HOST_ACCOUNT.name}}}":
            yield "Environment", f"uploads to another account: refer to {HOST_ACCOUNT.name}"
