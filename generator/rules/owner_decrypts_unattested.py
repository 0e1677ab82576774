"""W9101: the key's own account decrypts without a bound image."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.decryption_policy import Leads
from generator.rules._answers import allowed, findings, owner_itself

MEND = "let the Deny name everybody: Principal '*'"


class OwnerDecryptsUnattested(CloudFormationLintRule):
    """Warn of key policies under which the key's own account decrypts."""

    id = "W9101"
    shortdesc = "the key's own account decrypts without a bound image"
    description = (
        "A Deny for the host alone leaves the owner's administrators, and every role they"
        " manage, able to decrypt without any trace but a line in CloudTrail"
    )
    source_url = "https://docs.aws.amazon.com/kms/latest/developerguide/conditions-attestation.html"
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each statement that allows it."""
        found = allowed(cfn, Leads.TO_PLAINTEXT)
        return findings((answer for answer in found if owner_itself(answer)), MEND)
