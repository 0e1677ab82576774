"""E9103: an image that is not bound decrypts."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.access.answers import Attests
from generator.rules._answers import findings, ways_to_plaintext

FIX = (
    "deny everybody kms:Decrypt unless kms:RecipientAttestation:ImageSha384 equals one of"
    " the images, with all 96 digits"
)


class DecryptsInUnboundImage(CloudFormationLintRule):
    """Refuse key policies under which an image can decrypt that they do not name."""

    id = "E9103"
    shortdesc = "an image that is not bound decrypts"
    description = (
        "Only PCR0 identifies a whole image. A policy that requires less, with wildcards or with"
        " other digests, lets the host decrypt in an image of its own"
    )
    source_url = "https://docs.aws.amazon.com/kms/latest/developerguide/conditions-attestation.html"
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each statement that allows it."""
        found = ways_to_plaintext(cfn, Attests.OTHER)
        return findings((answer for answer in found if answer.caller.outsider), FIX)
