"""E9102: a debug enclave decrypts."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.access.answers import Attests
from generator.rules._answers import findings, ways_to_plaintext

FIX = "name no zeros, and let the parameter's AllowedPattern refuse them: (?!0{96}$)"


class DecryptsInDebugMode(CloudFormationLintRule):
    """Refuse key policies, and parameters of them, that take zeros for an image."""

    id = "E9102"
    shortdesc = "a debug enclave decrypts"
    description = (
        "An enclave in debug mode attests zeros and shows its console to the host. No policy,"
        " and no value that a parameter accepts, may take zeros for an image"
    )
    source_url = "https://docs.aws.amazon.com/kms/latest/developerguide/conditions-attestation.html"
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each statement that allows it."""
        found = ways_to_plaintext(cfn, Attests.DEBUG)
        return findings((answer for answer in found if answer.caller.outsider), FIX)
