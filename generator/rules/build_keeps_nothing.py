"""E9204: code in the clear stays inside the build."""

from collections.abc import Iterator, Mapping

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.condition_operators import listed
from generator.rules._builds import encryptor_projects
from generator.template_values import mapping


class BuildKeepsNothing(CloudFormationLintRule):
    """Refuse a project that takes code from elsewhere, or leaves it in the clear somewhere."""

    id = "E9204"
    shortdesc = "the project leaves or exposes code in the clear"
    description = (
        "The build is where the code is in the clear: build artifacts and caches would store it,"
        " a public project would show its log, privileged mode lets a command out of its container"
    )
    source_url = "https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-codebuild-project.html"
    tags = ["resources", "codebuild", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each way out of the build."""
        return [
            RuleMatch([*path, place], f"the project {fault}")
            for path, properties in encryptor_projects(cfn.template)
            for place, fault in _faults(properties)
        ]


def _faults(properties: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    if str(mapping(properties.get("Environment")).get("PrivilegedMode", False)).lower() != "false":
        yield "Environment", "runs in privileged mode: set PrivilegedMode to false"
    artifacts = [*listed(properties.get("Artifacts", []))]
    if any(mapping(each).get("Type") != "NO_ARTIFACTS" for each in artifacts):
        yield "Artifacts", "stores artifacts in the clear: set the type NO_ARTIFACTS"
    if properties.get("SecondaryArtifacts"):
        yield "SecondaryArtifacts", "stores artifacts in the clear: remove them"
    if mapping(properties.get("Cache")).get("Type", "NO_CACHE") != "NO_CACHE":
        yield "Cache", "keeps the code in a cache: remove it"
    if properties.get("Visibility", "PRIVATE") != "PRIVATE":
        yield "Visibility", "shows its builds to everybody: make it PRIVATE"
    if mapping(properties.get("Source")).get("Type") != "CODECOMMIT":
        yield "Source", "takes its source from elsewhere: set the type CODECOMMIT"
