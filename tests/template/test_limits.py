"""The templates stay within AWS's limits, whatever their parameters' values."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from cfnlint.decode.cfn_yaml import load

from generator import limits
from tests.support.paths import TEMPLATES

if TYPE_CHECKING:
    from pathlib import Path

OURS = sorted(TEMPLATES.glob("*.yaml"))
KEY_ARN = "arn:aws-us-gov:kms:us-isof-south-1:111122223333:key/mrk-" + 32 * "0"
PCR0 = 96 * "a"

LONGEST = {
    "ApplicationCodeDirectoryName": 255 * "d",
    "CodeCommitRepositoryName": 100 * "r",
    "EnclaveImageSha384": ",".join([PCR0] * (limits.PARAMETER_VALUE_MAX // (len(PCR0) + 1))),
    "EncryptionKeyAlias": "alias/" + 250 * "a",
    "ExternalBucketAWSAccountNumber": "111122223333",
    "ExternalBucketEncryptionKeyArn": KEY_ARN,
    "ExternalBucketName": 63 * "b",
    "ExternalBucketPath": 900 * "p",
    "ParentInstanceRoleName": 511 * "p" + "/" + 64 * "r",
    "ThirdPartyAWSAccountNumber": "111122223333",
    "ApplicationSourceBucketName": 63 * "b",
    "ApplicationSourceKey": 896 * "k" + ".zip",
    "BuildComputeType": "BUILD_GENERAL1_2XLARGE",
    "ConnectionArn": (
        "arn:aws-us-gov:codestar-connections:us-isof-south-1:111122223333:connection/"
        "1234abcd-12ab-34cd-56ef-1234567890ab"
    ),
    "RepositoryType": "GITLAB_SELF_MANAGED",
    "RepositoryUrl": "https://gitlab.example.com:65535/" + 991 * "r",
    "ThirdPartyIdentifier": 20 * "t",
}
"""For each parameter of each template, the longest value that it accepts."""

PSEUDO = {
    "AWS::AccountId": "111122223333",
    "AWS::Partition": "aws-us-gov",
    "AWS::Region": "us-isof-south-1",
    "AWS::StackName": "s" + (limits.STACK_NAME_MAX - 1) * "t",
    "AWS::URLSuffix": "amazonaws.com.cn",
}


class Deployed:
    """A template as CloudFormation deploys it, with the longest values of all parameters."""

    def __init__(self, template: dict[str, Any]) -> None:
        """Set the parameters of *template*."""
        self._template = template
        parameters = template["Parameters"]
        self._values: dict[str, object] = PSEUDO | {
            name: LONGEST[name].split(",") if "List" in declared["Type"] else LONGEST[name]
            for name, declared in parameters.items()
        }
        self.outputs = template["Outputs"]

    def resources(self, kind: str) -> list[dict[str, Any]]:
        """Return the resolved properties of every resource of a type."""
        return [
            self.resolve(resource["Properties"])
            for resource in self._template["Resources"].values()
            if resource["Type"] == kind
        ]

    def resolve(self, node: Any) -> Any:  # noqa: ANN401 - a template is any YAML
        """Replace every intrinsic function in *node*; of two branches, take the longer one."""
        if isinstance(node, list):
            return [self.resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        ((name, argument), *more) = node.items() or [("", None)]
        if not more and (name == "Ref" or name.startswith("Fn::")):
            return getattr(self, "_" + name.removeprefix("Fn::").lower())(argument)
        return {key: self.resolve(value) for key, value in node.items()}

    def _ref(self, name: str) -> object:
        return self._values.get(name) or self._reference(name)

    def _getatt(self, argument: list[str]) -> str:
        assert argument[1] == "Arn"
        return self._arn(argument[0])

    def _if(self, argument: list[Any]) -> object:
        return max((self.resolve(branch) for branch in argument[1:]), key=size)

    def _findinmap(self, argument: list[Any]) -> str:
        rows = self._template["Mappings"][argument[0]].values()
        return max((str(value) for row in rows for value in row.values()), key=len)

    def _select(self, argument: list[Any]) -> object:
        index, items = argument
        return self.resolve(items)[int(index)]

    def _split(self, argument: list[Any]) -> list[str]:
        delimiter, text = argument
        return str(self.resolve(text)).split(delimiter)

    def _join(self, argument: list[Any]) -> str:
        delimiter, items = argument
        return str(delimiter).join(self.resolve(items))

    def _sub(self, argument: Any) -> str:  # noqa: ANN401
        text, own = argument if isinstance(argument, list) else (argument, {})

        def value(found: re.Match[str]) -> str:
            name, _, attribute = found[1].partition(".")
            if name in own:
                return str(self.resolve(own[name]))
            node = {"Fn::GetAtt": [name, attribute]} if attribute else {"Ref": name}
            return str(self.resolve(node))

        return re.sub(r"\$\{([^!}][^}]*)\}", value, text)

    def _reference(self, name: str) -> str:
        """Return what a resource's Ref yields."""
        properties = self._template["Resources"][name]["Properties"]
        for naming in ("Name", "BucketName", "LogGroupName", "AliasName"):
            if naming in properties:
                return str(self.resolve(properties[naming]))
        return self._arn(name)

    def _arn(self, name: str) -> str:
        """Return an ARN at least as long as the one of a resource."""
        kind = self._template["Resources"][name]["Type"]
        if kind == "AWS::KMS::Key":
            return KEY_ARN
        scope = ":".join(PSEUDO[f"AWS::{part}"] for part in ("Region", "AccountId"))
        named = {"AWS::IAM::Role": limits.ROLE_NAME_MAX * "r"}.get(kind) or self._reference(name)
        return f"arn:{PSEUDO['AWS::Partition']}:{kind}:{scope}:{named}:*"


def size(node: object) -> int:
    """Return the length of *node* as compact JSON."""
    return len(json.dumps(node, separators=(",", ":")))


@pytest.fixture(params=OURS, ids=lambda path: path.stem)
def template(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(load(request.param))


@pytest.fixture
def deployed(template: dict[str, Any]) -> Deployed:
    return Deployed(template)


def test_longest_values_are_accepted_and_longer_ones_refused(template: dict[str, Any]) -> None:
    for name, declared in template["Parameters"].items():
        longest, pattern = LONGEST[name], declared["AllowedPattern"]
        most = declared.get("MaxLength", limits.PARAMETER_VALUE_MAX)
        assert len(longest.encode()) <= limits.PARAMETER_VALUE_MAX
        if declared["Type"] == "CommaDelimitedList":
            items = longest.split(",")
            assert all(re.fullmatch(pattern, item) for item in items)
            assert len(f"{longest},{items[0]}".encode()) > limits.PARAMETER_VALUE_MAX
            continue
        assert re.fullmatch(pattern, longest), name
        longer = [longest + more for more in "a0/"]
        assert not [one for one in longer if re.fullmatch(pattern, one) and len(one) <= most], name


def test_templates_are_within_the_limits_of_cloudformation(
    template: dict[str, Any], deployed: Deployed
) -> None:
    assert len(template["Description"].encode()) <= limits.TEMPLATE_DESCRIPTION_MAX
    assert len(template["Parameters"]) <= limits.PARAMETERS_MAX
    assert len(template["Resources"]) <= limits.RESOURCES_MAX
    assert len(template["Outputs"]) <= limits.OUTPUTS_MAX
    names = [name for section in template.values() if isinstance(section, dict) for name in section]
    assert max(map(len, names)) <= limits.NAME_MAX
    for declared in template["Parameters"].values():
        assert len(declared["Description"]) <= limits.PARAMETER_DESCRIPTION_MAX
    for output in map(deployed.resolve, deployed.outputs.values()):
        assert len(output["Description"].encode()) <= limits.OUTPUT_DESCRIPTION_MAX
        assert len(output["Value"].encode()) <= limits.OUTPUT_VALUE_MAX
        assert len(output.get("Export", {}).get("Name", "")) <= limits.NAME_MAX


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_a_template_fits_a_direct_deployment(path: Path) -> None:
    assert path.stat().st_size <= limits.DIRECT_DEPLOYMENT_MAX < limits.TEMPLATE_MAX


def test_buildspec_budget_is_below_the_limit_of_codebuild() -> None:
    assert limits.BUILDSPEC_BUDGET < limits.BUILDSPEC_MAX


def test_projects_are_within_the_limits_of_codebuild(deployed: Deployed) -> None:
    for project in deployed.resources("AWS::CodeBuild::Project"):
        assert len(project["Name"]) <= limits.PROJECT_NAME_MAX
        assert len(project["Description"]) <= limits.PROJECT_DESCRIPTION_MAX
        assert len(project["Source"]["BuildSpec"]) <= limits.BUILDSPEC_BUDGET
        assert int(project["TimeoutInMinutes"]) in limits.BUILD_MINUTES
        assert int(project["QueuedTimeoutInMinutes"]) in limits.QUEUED_MINUTES
        for variable in project["Environment"]["EnvironmentVariables"]:
            assert len(variable["Value"]) <= limits.ENVIRONMENT_VARIABLE_MAX, variable["Name"]


def test_roles_are_within_the_limits_of_iam(deployed: Deployed) -> None:
    for role in deployed.resources("AWS::IAM::Role"):
        assert size(role["AssumeRolePolicyDocument"]) <= limits.TRUST_POLICY_MAX
        documents = [policy["PolicyDocument"] for policy in role["Policies"]]
        assert sum(map(size, documents)) <= limits.INLINE_POLICIES_MAX
        assert all(
            len(policy["PolicyName"]) <= limits.POLICY_NAME_MAX for policy in role["Policies"]
        )
        assert len(role["Description"]) <= limits.ROLE_DESCRIPTION_MAX
        assert len(role.get("RoleName", "")) <= limits.ROLE_NAME_MAX


def test_keys_are_within_the_limits_of_kms(deployed: Deployed) -> None:
    for key in deployed.resources("AWS::KMS::Key"):
        assert size(key["KeyPolicy"]) <= limits.KEY_POLICY_MAX
        assert len(key["Description"]) <= limits.KEY_DESCRIPTION_MAX
        assert int(key["PendingWindowInDays"]) in limits.DELETION_DAYS
    for alias in deployed.resources("AWS::KMS::Alias"):
        assert len(alias["AliasName"]) <= limits.ALIAS_MAX


def test_buckets_and_logs_are_within_their_limits(deployed: Deployed) -> None:
    for bucket in deployed.resources("AWS::S3::Bucket"):
        assert len(bucket["BucketName"]) <= limits.BUCKET_NAME_MAX
        rules = bucket.get("LifecycleConfiguration", {}).get("Rules", [])
        assert all(len(rule["Id"]) <= limits.LIFECYCLE_RULE_ID_MAX for rule in rules)
    for policy in deployed.resources("AWS::S3::BucketPolicy"):
        assert size(policy["PolicyDocument"]) <= limits.BUCKET_POLICY_MAX
    for group in deployed.resources("AWS::Logs::LogGroup"):
        assert len(group["LogGroupName"]) <= limits.LOG_GROUP_NAME_MAX


def test_object_key_of_the_artifact_is_valid_in_s3(deployed: Deployed) -> None:
    if uri := deployed.outputs.get("ArtifactUri"):
        _, _, key = deployed.resolve(uri["Value"]).removeprefix("s3://").partition("/")
        assert 0 < len(key.encode()) <= limits.OBJECT_KEY_MAX
