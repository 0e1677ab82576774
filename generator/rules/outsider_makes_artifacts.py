"""E9105: an outsider encrypts artifacts under the key."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.policy.request import Leads
from generator.rules._answers import allowed, findings

FIX = "allow outsiders only kms:Decrypt"


class OutsiderMakesArtifacts(CloudFormationLintRule):
    """Refuse key policies that let an outsider encrypt artifacts of its own."""

    id = "E9105"
    shortdesc = "an outsider encrypts artifacts under the key"
    description = (
        "An enclave that trusts the key decrypts anything that is encrypted under it. An outsider"
        " who obtains a data key from this key can run code of its own inside a bound image"
    )
    source_url = "https://docs.aws.amazon.com/kms/latest/developerguide/key-policies.html"
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each statement that allows it."""
        found = allowed(cfn, Leads.TO_FORGERY)
        return findings((answer for answer in found if answer.caller.outsider), FIX)
