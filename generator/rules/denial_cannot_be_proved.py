"""W9103: it cannot be proved who decrypts."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._answers import findings, unproved

FIX = "write the values into the template, or constrain the parameters that they come from"


class DenialCannotBeProved(CloudFormationLintRule):
    """Warn if it cannot be proved before deployment who decrypts."""

    id = "W9103"
    shortdesc = "it cannot be proved who decrypts"
    description = (
        "With imports, macros, policy variables, unknown operators, or strings that a parameter"
        " completes, the policy's final content is unknown. What cannot be proved is reported"
        " and never passes"
    )
    source_url = "https://docs.aws.amazon.com/kms/latest/developerguide/key-policies.html"
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each statement whose effect is not known."""
        return findings(unproved(cfn), FIX)
