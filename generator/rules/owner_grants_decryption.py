"""W9102: a grant lets others decrypt."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.access.answers import BY_GRANT, Answer
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
        grantable = {
            answer.key for answer in allowed(cfn, Leads.TO_CONTROL) if _gives_grants(answer)
        }
        found = (
            answer
            for answer in allowed(cfn, Leads.TO_PLAINTEXT)
            if answer.caller.name == BY_GRANT and answer.key in grantable
        )
        return findings(found, FIX)


def _gives_grants(answer: Answer) -> bool:
    return answer.action == "kms:CreateGrant"
