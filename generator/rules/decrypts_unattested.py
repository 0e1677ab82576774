"""E9101: an outsider decrypts without attestation."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.access.answers import Attests
from generator.rules._answers import findings, ways_to_plaintext

FIX = (
    "deny everybody kms:Decrypt and kms:ReEncryptFrom, with StringNotEqualsIgnoreCase on"
    " kms:RecipientAttestation:ImageSha384 as the only condition"
)


class DecryptsUnattested(CloudFormationLintRule):
    """Refuse key policies under which an outsider decrypts without an enclave."""

    id = "E9101"
    shortdesc = "an outsider decrypts without attestation"
    description = (
        "Anyone who decrypts without an attestation document can read the code, so the policy must"
        " not let any principal outside the key's own account do so"
    )
    source_url = "https://docs.aws.amazon.com/kms/latest/developerguide/conditions-attestation.html"
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each statement that allows it."""
        found = ways_to_plaintext(cfn, Attests.NOTHING)
        return findings((answer for answer in found if answer.caller.outsider), FIX)
