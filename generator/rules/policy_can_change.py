"""E9107: a key policy that KMS refuses, because nobody could change it."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.nodes import mapping
from generator.policy.evaluation import Verdict
from generator.rules._answers import judged, owner_itself


class PolicyCanChange(CloudFormationLintRule):
    """Refuse key policies that lock everybody out of the key's administration."""

    id = "E9107"
    shortdesc = "nobody in the key's account may change the key policy"
    description = (
        "KMS refuses a policy under which nobody could call kms:PutKeyPolicy"
        " (MalformedPolicyDocumentException), so the stack cannot be created. With"
        " BypassPolicyLockoutSafetyCheck it accepts a policy that nobody can ever change"
    )
    source_url = "https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html#prevent-unmanageable-key"
    tags = ["resources", "kms"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each key that nobody in its account may manage."""
        return [
            RuleMatch(
                list(answer.place),
                f"key {key.key}: nobody in its account may call kms:PutKeyPolicy, so KMS refuses"
                " the policy unless BypassPolicyLockoutSafetyCheck is true (in the"
                " AWS CLI: --bypass-policy-lockout-safety-check): allow the account to call it",
            )
            for key in judged(cfn)
            for answer in key.answers
            if answer.action == "kms:PutKeyPolicy"
            and owner_itself(answer)
            and answer.verdict is Verdict.DENIED
            and not _bypasses(cfn, key.key)
        ]


def _bypasses(cfn: Template, key: str) -> bool:
    resource = mapping(mapping(cfn.template.get("Resources")).get(key))
    bypass = mapping(resource.get("Properties")).get("BypassPolicyLockoutSafetyCheck", False)
    return str(bypass).lower() != "false"
