"""The KMS keys of a Terraform plan, as a CloudFormation template that creates the same keys.

The plan's roles are in the template, too, with unknown permissions. The output of ``terraform show
-json`` for a plan has policies as text, and says which values are unknown until the plan is
applied. An unknown value becomes one from outside the template, so that nothing is proved about it.

Source: https://developer.hashicorp.com/terraform/internals/json-format
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from generator.nodes import listed, mapping
from generator.reading import bare_policy, documents, parsing

KEYS = ("aws_kms_key", "aws_kms_external_key", "awscc_kms_key")
REPLICAS = ("aws_kms_replica_key", "aws_kms_replica_external_key", "awscc_kms_replica_key")
KEY_POLICY = "aws_kms_key_policy"
ROLES = ("aws_iam_role", "awscc_iam_role")
POLICY_NAMES = ("policy", "key_policy")
"""What the providers aws and awscc call a key's policy."""
TRUST_NAMES = ("assume_role_policy", "assume_role_policy_document")
CALLER_IDENTITY = "aws_caller_identity"
UNKNOWN: Mapping[str, object] = {"Fn::ImportValue": "known after apply"}
"""An arbitrary value, as a template expresses it."""

Resource = Mapping[str, object]


def is_plan(document: Mapping[str, object]) -> bool:
    """Return whether *document* is the output of ``terraform show -json`` for a plan."""
    return "terraform_version" in document and "planned_values" in document


def keys_as_template(plan: Mapping[str, object]) -> tuple[Mapping[str, object], str | None]:
    """Return a template with the plan's keys, named by their addresses, and the plan's account."""
    planned = list(_planned(plan))
    keys = {
        address: _key(kind, values, _without_default_policy(unknown, _configuration(plan, address)))
        for address, kind, values, unknown in planned
        if kind in (*KEYS, *REPLICAS)
    }
    _attach_policies(keys, plan, planned)
    account = _account(plan)
    owners = [account]
    for name, key in keys.items():
        policy = key["Properties"].get("KeyPolicy")
        if isinstance(policy, str):
            key["Properties"]["KeyPolicy"], likely = _in_account(policy, account, name)
            owners.append(likely)
    owner = next(filter(None, owners), None)
    return {"Resources": {**keys, **_roles(planned, owner)}}, account


def _attach_policies(
    keys: dict[str, dict[str, Any]],
    plan: Mapping[str, object],
    planned: list[tuple[str, str, Resource, Resource]],
) -> None:
    """Set the policies that are resources of their own.

    Raises:
        UnsafeError: a key has two, of which either may be the last that Terraform puts.
    """
    attached: dict[str, tuple[str, object]] = {}
    for address, kind, values, unknown in planned:
        if kind != KEY_POLICY:
            continue
        policy = _value(POLICY_NAMES, values, unknown)
        for name in _keys_of(address, values, plan, planned) or [address]:
            other, known = attached.setdefault(name, (address, policy))
            if other != address and (known != policy or policy is UNKNOWN):
                raise parsing.UnsafeError(
                    f"{other} and {address} both set the policy of {name}: remove one"
                )
            keys.setdefault(name, {"Type": "AWS::KMS::Key", "Properties": {}})
            keys[name]["Properties"]["KeyPolicy"] = policy


def _roles(
    planned: list[tuple[str, str, Resource, Resource]], owner: str | None
) -> dict[str, object]:
    """Return the plan's roles with their trust policies.

    What a role may do is spread over many kinds of resources, and counts as unknown.
    """
    found: dict[str, object] = {}
    for address, kind, values, unknown in planned:
        if kind not in ROLES:
            continue
        trust = _value(TRUST_NAMES, values, unknown)
        if isinstance(trust, str):
            trust, _ = _in_account(trust, owner or "", address)
        anything = [{"PolicyName": "unknown", "PolicyDocument": UNKNOWN}]
        properties = {"AssumeRolePolicyDocument": trust, "Policies": anything}
        found[address] = {"Type": "AWS::IAM::Role", "Properties": properties}
    return found


def _planned(plan: Mapping[str, object]) -> Iterator[tuple[str, str, Resource, Resource]]:
    """Yield address, type, values and unknown values of each managed resource in the plan."""
    unknown = {
        str(change.get("address")): mapping(mapping(change.get("change")).get("after_unknown"))
        for change in map(mapping, listed(plan.get("resource_changes") or []))
    }
    root = mapping(mapping(plan.get("planned_values")).get("root_module"))
    for resource in _resources(root):
        if resource.get("mode", "managed") == "managed":
            address = str(resource.get("address"))
            kind, values = str(resource.get("type")), mapping(resource.get("values"))
            yield address, kind, values, unknown.get(address, {})


def _resources(module: Mapping[str, object]) -> Iterator[Resource]:
    pending = [module]
    while pending:
        found = pending.pop()
        yield from map(mapping, listed(found.get("resources") or []))
        pending += map(mapping, listed(found.get("child_modules") or []))


def _in_account(text: str, account: str | None, name: str) -> tuple[object, str | None]:
    """Return *text* decoded, with AWS::AccountId for the account, if it is a policy.

    The account is also returned; if it is None, it is the one that the policy most likely names.

    Raises:
        UnsafeError: parsers interpret the policy of *name* differently.
    """
    try:
        found = documents.decode(text)
    except parsing.AmbiguousError as error:
        raise parsing.UnsafeError(f"the policy of {name} {error}") from error
    except ValueError:
        return text, None
    if found.kind is not documents.Kind.POLICY:
        return text, None
    owner = bare_policy.likely_owner(found.content) if account is None else account
    return bare_policy.for_account(found.content, owner or None), owner


def _value(names: Sequence[str], values: Resource, unknown: Resource) -> object:
    if any(unknown.get(name) is True for name in names):
        return UNKNOWN
    return next((values[name] for name in names if values.get(name) is not None), None)


def _key(kind: str, values: Resource, unknown: Resource) -> dict[str, Any]:
    """Return the CloudFormation resource of a planned key."""
    wanted = {
        "KeyPolicy": _value(POLICY_NAMES, values, unknown),
        "KeyUsage": _value(("key_usage",), values, unknown),
        "KeySpec": _value(("customer_master_key_spec", "key_spec"), values, unknown),
        "MultiRegion": _value(("multi_region",), values, unknown),
    }
    if kind in REPLICAS and not wanted["KeyUsage"]:  # it is that of its primary key
        wanted["KeyUsage"] = UNKNOWN
    # If the policy is missing or empty, KMS attaches its default policy.
    found = {name: value for name, value in wanted.items() if value not in (None, "")}
    return {"Type": "AWS::KMS::Key", "Properties": found}


def _without_default_policy(unknown: Resource, configured: Resource | None) -> Resource:
    """Return *unknown* without the policy, if the key's configuration sets none.

    The attribute is optional and computed: the plan marks it as unknown although it will be the
    default policy.
    """
    expressions = mapping(mapping(configured).get("expressions"))
    if configured is None or any(name in expressions for name in POLICY_NAMES):
        return unknown
    return {name: value for name, value in unknown.items() if name not in POLICY_NAMES}


def _keys_of(
    address: str,
    values: Resource,
    plan: Mapping[str, object],
    planned: list[tuple[str, str, Resource, Resource]],
) -> list[str]:
    """Return the addresses of the keys that the policy at *address* is for."""
    keys = {name: found for name, kind, found, _ in planned if kind in (*KEYS, *REPLICAS)}
    key_id = values.get("key_id")
    if isinstance(key_id, str):
        return [
            name
            for name, found in keys.items()
            if key_id in (found.get("key_id"), found.get("arn"))
        ]
    module, _ = _module_and_name(address)
    expressions = mapping(mapping(_configuration(plan, address)).get("expressions"))
    referred = listed(mapping(expressions.get("key_id")).get("references") or [])
    index = re.search(r"\[[^]]*\]$", address)
    found = [
        name
        for name in keys
        if _module_and_name(name)[0] == module and _module_and_name(name)[1] in referred
    ]
    ends = [str(each) for each in referred if "[" in str(each)] + ([index[0]] if index else [])
    same = [name for name in found if name.endswith(tuple(ends))]
    return same or found


def _module_and_name(address: str) -> tuple[str, str]:
    """Split an address into its module's path and its type and name, without instance keys."""
    plain = re.sub(r"\[[^]]*\]", "", address)
    module, _, name = plain.rpartition(".")
    module, _, kind = module.rpartition(".")
    return module, f"{kind}.{name}"


def _configuration(plan: Mapping[str, object], address: str) -> Resource | None:
    """Return the configuration of the resource at *address*, None if the plan has none."""
    module, plain = _module_and_name(address)
    found = mapping(mapping(plan.get("configuration")).get("root_module"))
    for name in module.split(".")[1::2]:
        found = mapping(mapping(mapping(found.get("module_calls")).get(name)).get("module"))
    configured = map(mapping, listed(found.get("resources") or []))
    return next((each for each in configured if each.get("address") == plain), None)


def _account(plan: Mapping[str, object]) -> str | None:
    """Return the account that the plan was made in, if a data source read it."""
    states = (
        mapping(mapping(plan.get("prior_state")).get("values")),
        mapping(plan.get("planned_values")),
    )
    for state in states:
        for resource in _resources(mapping(state.get("root_module"))):
            account = mapping(resource.get("values")).get("account_id")
            if resource.get("type") == CALLER_IDENTITY and isinstance(account, str):
                return account
    return None
