"""A key as it is on AWS: its policy, its grants, and the template of its stack to compare with."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from generator import documents
from generator.deployments.concrete import OWNER, Deployment
from generator.errors import GeneratorError
from generator.policy.operators import UNKNOWN, listed
from generator.policy.request import Grant

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_kms import KMSClient

KEY_ARN = re.compile(r"arn:([a-z-]+):kms:([a-z0-9-]+):(\d{12}):key/[A-Za-z0-9-]+")


@dataclass(frozen=True)
class LiveKey:
    """What AWS says of a key.

    ``intended`` is the policy that the stack's template gives it, None outside any stack.
    """

    arn: str
    account: str
    policy: Mapping[str, object]
    aliases: Sequence[str] = ()
    grants: Sequence[Grant] = ()
    stack: str | None = None
    intended: Mapping[str, object] | None = field(default=None)

    def drift(self) -> list[str]:
        """Say how the live policy and the grants differ from what the stack's template intends."""
        found = [
            f"grant for {grant.grantee}: {', '.join(grant.operations)}" for grant in self.grants
        ]
        if self.intended is None:
            return found
        policies = (self.policy, self.intended)
        live, intended = (set(map(_canonical, listed(each.get("Statement")))) for each in policies)
        found += [f"only in the live policy: {each}" for each in sorted(live - intended)]
        return found + [f"only in the template: {each}" for each in sorted(intended - live)]


def read_key(arn: str) -> LiveKey:
    """Read the key *arn*, with the caller's credentials, in the key's region.

    Raises:
        GeneratorError: no such ARN, or AWS refuses to tell.
    """
    found = KEY_ARN.fullmatch(arn)
    if not found:
        raise GeneratorError(f"{arn}: is no key's ARN: copy the stack's output EnclaveKeyARN")
    partition, region, account = found.groups()
    try:
        kms = boto3.client("kms", region_name=region)
        policy = json.loads(kms.get_key_policy(KeyId=arn, PolicyName="default")["Policy"])
        aliases, grants = list(_aliases(kms, arn)), list(_grants(kms, arn))
        resource = _stack_resource(kms, arn)
        if resource is None:
            return LiveKey(arn, account, policy, aliases, grants)
        stack, logical_id = resource
        cloudformation = boto3.client("cloudformation", region_name=region)
        usual = {"AWS::Partition": partition, "AWS::Region": region}
        intended = _intended(cloudformation, stack, logical_id, usual, account)
    except (BotoCoreError, ClientError) as error:
        reason = " ".join(str(error).split())
        raise GeneratorError(f"{arn}: {reason}: check credentials and permissions") from error
    return LiveKey(arn, account, policy, aliases, grants, stack, intended)


def _aliases(kms: "KMSClient", arn: str) -> Iterator[str]:
    for page in kms.get_paginator("list_aliases").paginate(KeyId=arn):
        yield from (alias["AliasName"] for alias in page["Aliases"])


def _grants(kms: "KMSClient", arn: str) -> Iterator[Grant]:
    for page in kms.get_paginator("list_grants").paginate(KeyId=arn):
        for grant in page["Grants"]:
            constraints = dict(grant.get("Constraints", {}))
            yield Grant(grant["GranteePrincipal"], list(grant["Operations"]), constraints)


def _stack_resource(kms: "KMSClient", arn: str) -> tuple[str, str] | None:
    """Return the stack that made a key and the key's logical ID there, None if none did.

    Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-properties-resource-tags.html
    """
    tags = {
        tag["TagKey"]: tag["TagValue"]
        for page in kms.get_paginator("list_resource_tags").paginate(KeyId=arn)
        for tag in page["Tags"]
    }
    stack, logical_id = (
        tags.get(f"aws:cloudformation:{name}") for name in ("stack-id", "logical-id")
    )
    return (stack, logical_id) if stack and logical_id else None


def _intended(
    client: "CloudFormationClient",
    stack: str,
    logical_id: str,
    usual: Mapping[str, str],
    account: str,
) -> Mapping[str, object]:
    """Return the key policy that a stack's template yields for the stack's own parameters."""
    body = client.get_template(StackName=stack, TemplateStage="Original")["TemplateBody"]
    template = documents.parse(body if isinstance(body, str) else json.dumps(body))
    declared = template.get("Parameters")
    (described,) = client.describe_stacks(StackName=stack)["Stacks"]
    values: dict[str, str | list[str]] = {**usual, "AWS::StackName": described["StackName"]}
    for parameter in described.get("Parameters", []):
        name, value = parameter["ParameterKey"], parameter["ParameterValue"]
        declaration = declared.get(name) if isinstance(declared, Mapping) else None
        is_list = "List" in str((declaration or {}).get("Type"))
        values[name] = value.split(",") if is_list else value
    resources = template["Resources"]
    properties = resources[logical_id]["Properties"] if isinstance(resources, Mapping) else {}
    resolved = json.dumps(Deployment(template, values).resolve(properties["KeyPolicy"]))
    if UNKNOWN in resolved:
        raise GeneratorError(f"stack {stack}: its key policy depends on what only AWS can resolve")
    intended: Mapping[str, object] = json.loads(resolved.replace(OWNER, account))
    return intended


def _canonical(node: object) -> str:
    """Return *node* as text that does not tell a list of one from its item, nor orders apart."""
    return json.dumps(_ordered(node), sort_keys=True)


def _ordered(node: object) -> object:
    if isinstance(node, Mapping):
        return {key: _ordered(value) for key, value in node.items()}
    if isinstance(node, list):
        items = sorted((_ordered(item) for item in node), key=json.dumps)
        return items[0] if len(items) == 1 else items
    return str(node).lower() if isinstance(node, bool) else str(node)
