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
TRUST = "AssumeRolePolicyDocument"
UNKNOWN_POLICY = {"PolicyName": "unknown", "PolicyDocument": {"Fn::Transform": UNKNOWN}}


def with_serverless_roles(template: Mapping[str, object]) -> Mapping[str, object]:
    """Return *template* with the roles of its functions that have a trust policy of their own.

    Without one, only Lambda assumes the role. What the role may do has several forms, which the
    transform extends: it counts as unknown.
    """
    resources = mapping(template.get("Resources"))
    found: dict[str, object] = {}
    for name, resource in resources.items():
        kind = str(mapping(resource).get("Type"))
        if not kind.startswith(SERVERLESS):
            continue
        common = mapping(mapping(template.get("Globals")).get(kind.removeprefix(SERVERLESS)))
        properties = {**common, **mapping(mapping(resource).get("Properties"))}
        if TRUST in properties:
            role = {TRUST: properties[TRUST], "Policies": [UNKNOWN_POLICY]}
            found[f"{name}Role"] = {"Type": "AWS::IAM::Role", "Properties": role}
    return {**template, "Resources": {**resources, **found}} if found else template
