"""E9006: the key survives its stack, because losing it means losing every artifact."""

from collections.abc import Iterator, Mapping

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.nodes import properties, resources
from generator.rules._scope import has_enclave_images, is_application_encryptor

KEPT_ON_DELETION = ("Retain", "RetainExceptOnCreate")
ROTATING = {
    "KeyUsage": ("ENCRYPT_DECRYPT", None),
    "KeySpec": ("SYMMETRIC_DEFAULT", None),
    "Origin": ("AWS_KMS", None),
}
"""Values, None for the default, with which KMS can rotate a key.

Source: https://docs.aws.amazon.com/kms/latest/developerguide/rotate-keys.html ("You cannot enable
automatic rotation for asymmetric KMS keys, HMAC KMS keys, KMS keys with imported key material, or
KMS keys in a custom key store").
"""


class KeyOutlivesStack(CloudFormationLintRule):
    """Refuse a key that is deleted with its stack, or that could rotate and does not."""

    id = "E9006"
    shortdesc = "the key is not retained, or does not rotate"
    description = (
        "Without the key no artifact can be decrypted again, so it must survive the stack's"
        " deletion and its own replacement. Rotation, where KMS can rotate the key, limits how much"
        " is encrypted under the same key material"
    )
    source_url = "https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-attribute-deletionpolicy.html"
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each key and each of the three settings that it lacks."""
        if not (is_application_encryptor(cfn.template) or has_enclave_images(cfn.template)):
            return []
        return [
            RuleMatch(["Resources", name], f"key {name}: {fault}")
            for name, key in resources(cfn.template, "AWS::KMS::Key")
            for fault in _faults(key)
        ]


def _faults(key: Mapping[str, object]) -> Iterator[str]:
    # An intrinsic function, which some transforms allow here, is not known before deployment.
    deletion, replacement = key.get("DeletionPolicy"), key.get("UpdateReplacePolicy")
    if not isinstance(deletion, Mapping) and deletion not in KEPT_ON_DELETION:
        yield "is deleted with the stack: set DeletionPolicy to RetainExceptOnCreate or Retain"
    if not isinstance(replacement, Mapping) and replacement != "Retain":
        yield "is deleted when an update replaces it: set UpdateReplacePolicy to Retain"
    found = properties(key)
    rotation = found.get("EnableKeyRotation", False)
    can_rotate = all(found.get(name) in values for name, values in ROTATING.items())
    if can_rotate and not isinstance(rotation, Mapping) and str(rotation).lower() != "true":
        yield "does not rotate: set EnableKeyRotation to true"
