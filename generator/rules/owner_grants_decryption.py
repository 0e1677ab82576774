"""W9102: a grant lets others decrypt."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.access.answers import BY_GRANT
from generator.policy.request import Leads
from generator.rules._answers import allowed, findings

FIX = "make the Deny name everybody: Principal '*'"


class OwnerGrantsDecryption(CloudFormationLintRule):
    """Warn about key policies that a grant can override."""

    id = "W9102"
    shortdesc = "a grant lets others decrypt"
    description = (
        "A grant needs no change of the policy. Only an explicit Deny that names everybody,"
        " including the grant's recipient, overrides it"
    )
    source_url = "https://docs.aws.amazon.com/kms/latest/developerguide/grants.html"
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each statement that allows it."""
        by_grant = (  # only if somebody may create one
            answer for answer in allowed(cfn, Leads.TO_PLAINTEXT) if answer.caller.name == BY_GRANT
        )
        return findings(by_grant, FIX)
