"""E9104: an outsider controls the key."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.policy.request import Leads
from generator.rules._answers import allowed, findings

FIX = "allow outsiders only kms:Decrypt"


class OutsiderControlsKey(CloudFormationLintRule):
    """Refuse key policies that let an outsider change who decrypts."""

    id = "E9104"
    shortdesc = "an outsider controls the key"
    description = (
        "Anyone who may change the policy, create or revoke grants, or make a replica with another"
        " policy decides who decrypts. Anyone who may disable or enable the key, delete its"
        " material or schedule its deletion decides whether anybody can. Only the key's own account"
        " should"
    )
    source_url = "https://docs.aws.amazon.com/kms/latest/developerguide/key-policies.html"
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each statement that allows it."""
        found = allowed(cfn, Leads.TO_CONTROL)
        return findings((answer for answer in found if answer.caller.outsider), FIX)
