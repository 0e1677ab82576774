"""E9102: a debug enclave decrypts."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.access.answers import Attests
from generator.rules._answers import findings, ways_to_plaintext

FIX = "do not name zeros, and add (?!0{96}$) to the parameter's AllowedPattern"


class DecryptsInDebugMode(CloudFormationLintRule):
    """Refuse key policies, and their parameters, that accept zeros as an image."""

    id = "E9102"
    shortdesc = "a debug enclave decrypts"
    description = (
        "An enclave in debug mode attests zeros and shows its console to the host. No policy and"
        " no parameter may accept zeros as an image"
    )
    source_url = "https://docs.aws.amazon.com/kms/latest/developerguide/conditions-attestation.html"
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each statement that allows it."""
        found = ways_to_plaintext(cfn, Attests.DEBUG)
        return findings((answer for answer in found if answer.caller.outsider), FIX)
