"""The roles that the transform AWS::Serverless adds to a template.

Sources, below https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/:
    sam-resource-function.html
    sam-specification-generated-resources-function.html
    sam-specification-template-anatomy-globals.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from generator.nodes import mapping
from generator.policy.operators import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVERLESS = "AWS::Serverless::"
FUNCTION = f"{SERVERLESS}Function"
TRUST = "AssumeRolePolicyDocument"
TRUSTS_LAMBDA: Mapping[str, object] = {
    "Statement": {
        "Effect": "Allow",
        "Principal": {"Service": "lambda.amazonaws.com"},
        "Action": "sts:AssumeRole",
    }
}
"""The trust policy of a function that states none."""
UNKNOWN_POLICY = {"PolicyName": "unknown", "PolicyDocument": {"Fn::Transform": UNKNOWN}}


def with_serverless_roles(template: Mapping[str, object]) -> Mapping[str, object]:
    """Return *template* with the roles of its functions, and of others that state a trust policy.

    What such a role may do has several forms, which the transform extends: it counts as unknown.
    """
    resources = mapping(template.get("Resources"))
    found: dict[str, object] = {}
    for name, resource in resources.items():
        kind = str(mapping(resource).get("Type"))
        if not kind.startswith(SERVERLESS):
            continue
        common = mapping(mapping(template.get("Globals")).get(kind.removeprefix(SERVERLESS)))
        properties = {**common, **mapping(mapping(resource).get("Properties"))}
        is_usual = kind == FUNCTION and "Role" not in properties and f"{name}Role" not in resources
        if TRUST in properties or is_usual:
            trust = properties.get(TRUST, TRUSTS_LAMBDA)
            path = {"Path": properties["RolePath"]} if "RolePath" in properties else {}
            role = {TRUST: trust, "Policies": [UNKNOWN_POLICY], **path}
            found[f"{name}Role"] = {"Type": "AWS::IAM::Role", "Properties": role}
    return {**template, "Resources": {**resources, **found}} if found else template
