"""A key as it is on AWS: its policy, its grants, and the template of its stack to compare with.

If AWS denies some of the requests, the report says so and shows the rest; without the key policy
there is no report.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from generator.access.questions import policy_access
from generator.deployments.concrete import Deployment
from generator.errors import GeneratorError
from generator.explain.differences import canonical
from generator.explain.report import Explanation
from generator.nodes import listed, mapping, properties
from generator.policy.operators import UNKNOWN
from generator.policy.request import Grant
from generator.reading import documents
from generator.services import aws, stacks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_kms import KMSClient

T = TypeVar("T")

KEY_ARN = re.compile(r"arn:([a-z-]+):kms:([a-z0-9-]+):(\d{12}):key/[A-Za-z0-9-]+")
KEY_OUTPUT = "EnclaveKeyARN"
KEY = "AWS::KMS::Key"


@dataclass
class LiveKey:
    """What AWS returns about a key.

    Attributes:
        arn: of the key.
        policy: as KMS returns it.
        usage: what the key is for, None if that could not be read.
        aliases: names that lead to the key.
        grants: all grants on the key.
        stack: the stack that created the key, None if none did.
        intended: the policy in the stack's template, None outside any stack.
        unread: what could not be read, and why.
    """

    arn: str
    policy: Mapping[str, object]
    usage: str | None = None
    aliases: Sequence[str] = ()
    grants: Sequence[Grant] = ()
    stack: str | None = None
    intended: Mapping[str, object] | None = None
    unread: list[str] = field(default_factory=list)

    def drift(self) -> list[str]:
        """Return how the live policy and the grants differ from the stack's template."""
        found = [
            f"grant for {grant.grantee}: {', '.join(grant.operations)}" for grant in self.grants
        ]
        if self.intended is None:
            return found
        policies = (self.policy, self.intended)
        live, intended = (set(map(canonical, listed(each.get("Statement")))) for each in policies)
        found += [f"only in the live policy: {each}" for each in sorted(live - intended)]
        return found + [f"only in the template: {each}" for each in sorted(intended - live)]

    def explained(self) -> Explanation:
        """Return who can decrypt with the key, in the account that its ARN names."""
        account = self.arn.split(":")[4]
        # An unknown usage stands for any usage.
        usage: Any = self.usage or {"Fn::ImportValue": "the key's usage"}
        access = policy_access(self.policy, account, self.grants, self.arn, usage)
        facts = [f"alias: {alias}" for alias in self.aliases]
        facts += [f"created by stack {self.stack}"] if self.stack else []
        return Explanation(
            self.arn, [access], self.policy, facts=facts, drift=self.drift(), unread=self.unread
        )


def read_key(arn: str, account: aws.Account) -> LiveKey:
    """Read the key *arn*, with the caller's credentials, in the key's region.

    Raises:
        GeneratorError: it is not a key's ARN, or the key's policy cannot be read.
    """
    if not KEY_ARN.fullmatch(arn):
        raise GeneratorError(
            f"{arn}: is not the ARN of a KMS key: copy the stack's output {KEY_OUTPUT}"
        )
    with aws.failures(arn):
        kms = account.client("kms", arn.split(":")[3])
        policy = json.loads(kms.get_key_policy(KeyId=arn, PolicyName="default")["Policy"])
    key = LiveKey(arn, policy)
    key.usage = _readable(key, "the key's usage", lambda: _usage(kms, arn))
    key.aliases = _readable(key, "the key's aliases", lambda: list(_aliases(kms, arn))) or ()
    key.grants = _readable(key, "the key's grants", lambda: list(_grants(kms, arn))) or ()
    made = _readable(
        key, "the key's tags, which name its stack,", lambda: _stack_resource(kms, arn)
    )
    if made:
        key.stack, logical_id = made
        cloudformation = account.client("cloudformation", arn.split(":")[3])
        key.intended = _readable(
            key,
            f"stack {key.stack}",
            lambda: _intended(cloudformation, made[0], logical_id, arn),
        )
    return key


def _readable(key: LiveKey, what: str, read: Callable[[], T]) -> T | None:
    """Return what *read* returns; if it cannot, note why and return None."""
    try:
        with aws.failures(f"{what} could not be read"):
            return read()
    except GeneratorError as error:
        key.unread.append(str(error))
    return None


def key_of_stack(name: str, account: aws.Account) -> str:
    """Return the ARN of the key of the stack *name*: its output, else its only key.

    Raises:
        GeneratorError: there is no such stack, or it does not have exactly one key.
    """
    with aws.failures(f"stack {name}"):
        cloudformation = account.client("cloudformation")
        stack = stacks.existing(cloudformation, name)
        if arn := stacks.outputs(stack).get(KEY_OUTPUT):
            return arn
        pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=name)
        keys = [
            resource.get("PhysicalResourceId", "")
            for page in pages
            for resource in page["StackResourceSummaries"]
            if resource["ResourceType"] == KEY
        ]
        if len(keys) != 1:
            found = f"{len(keys)} keys" if keys else "no KMS key"
            raise GeneratorError(f"stack {name}: has {found}: name the key with --key ARN")
        described = account.client("kms").describe_key(KeyId=keys[0])
        return str(described["KeyMetadata"]["Arn"])


def _usage(kms: KMSClient, arn: str) -> str | None:
    return kms.describe_key(KeyId=arn)["KeyMetadata"].get("KeyUsage")


def _aliases(kms: KMSClient, arn: str) -> Iterator[str]:
    for page in kms.get_paginator("list_aliases").paginate(KeyId=arn):
        yield from (alias["AliasName"] for alias in page["Aliases"])


def _grants(kms: KMSClient, arn: str) -> Iterator[Grant]:
    for page in kms.get_paginator("list_grants").paginate(KeyId=arn):
        for grant in page["Grants"]:
            constraints = dict(grant.get("Constraints", {}))
            yield Grant(grant["GranteePrincipal"], list(grant["Operations"]), constraints)


def _stack_resource(kms: KMSClient, arn: str) -> tuple[str, str] | None:
    """Return the stack that created a key and the key's logical ID there, None if none did.

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
    client: CloudFormationClient, stack: str, logical_id: str, arn: str
) -> Mapping[str, object] | None:
    """Return the key policy of a stack's template, resolved for the stack's own parameters."""
    body = client.get_template(StackName=stack, TemplateStage="Original")["TemplateBody"]
    template = documents.parse(body if isinstance(body, str) else json.dumps(body))
    (described,) = client.describe_stacks(StackName=stack)["Stacks"]
    key = mapping(template.get("Resources")).get(logical_id)
    values = {**_surroundings(arn, described["StackName"]), **_values(template, described)}
    resolved = Deployment(template, values).resolve(properties(key).get("KeyPolicy"))
    if UNKNOWN in json.dumps(resolved, ensure_ascii=False):
        raise GeneratorError("its key policy depends on values that only AWS can resolve")
    return mapping(resolved)


def _surroundings(arn: str, stack: str) -> dict[str, str | list[str]]:
    _, partition, _, region, account, _ = arn.split(":", 5)
    return {
        "AWS::Partition": partition,
        "AWS::Region": region,
        "AWS::AccountId": account,
        "AWS::StackName": stack,
    }


def _values(template: Mapping[str, object], stack: Any) -> dict[str, str | list[str]]:  # noqa: ANN401 - boto3's
    declared = mapping(template.get("Parameters"))
    found: dict[str, str | list[str]] = {}
    for parameter in stack.get("Parameters", []):
        name = parameter["ParameterKey"]
        # For a parameter that names an SSM parameter, this is the SSM parameter's value.
        value = parameter.get("ResolvedValue", parameter.get("ParameterValue", ""))
        is_list = "List" in str(mapping(declared.get(name)).get("Type"))
        found[name] = value.split(",") if is_list else value
    return found
