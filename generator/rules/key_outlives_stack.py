"""E9006: losing the key is losing every artifact."""

from collections.abc import Iterator, Mapping

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._scope import is_application_encryptor

KEPT_ON_DELETION = ("Retain", "RetainExceptOnCreate")


class KeyOutlivesStack(CloudFormationLintRule):
    """Refuse a key that goes with its stack, or never rotates."""

    id = "E9006"
    shortdesc = "the key is not retained, or does not rotate"
    description = (
        "Without the key no artifact opens again, so it must survive the stack's deletion and a"
        " replacement; and rotation bounds what one key's material protects"
    )
    source_url = "https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-attribute-deletionpolicy.html"
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each key and each of the three that it lacks."""
        if not is_application_encryptor(cfn.template):
            return []
        resources = cfn.template.get("Resources")
        return [
            RuleMatch(["Resources", name], f"key {name}: {fault}")
            for name, key in (resources.items() if isinstance(resources, Mapping) else ())
            if isinstance(key, Mapping) and key.get("Type") == "AWS::KMS::Key"
            for fault in _faults(key)
        ]


def _faults(key: Mapping[str, object]) -> Iterator[str]:
    if key.get("DeletionPolicy") not in KEPT_ON_DELETION:
        yield "goes with the stack: set DeletionPolicy to RetainExceptOnCreate or Retain"
    if key.get("UpdateReplacePolicy") != "Retain":
        yield "is deleted when an update replaces it: set UpdateReplacePolicy to Retain"
    properties = key.get("Properties")
    rotation = properties.get("EnableKeyRotation") if isinstance(properties, Mapping) else None
    if str(rotation).lower() != "true":
        yield "does not rotate: set EnableKeyRotation to true"
