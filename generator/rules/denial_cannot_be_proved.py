"""W9103: it cannot be proved who decrypts."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._answers import findings, unproved

FIX = "write values into the template, or constrain the parameters they come from"


class DenialCannotBeProved(CloudFormationLintRule):
    """Warn where it cannot be proved before deployment who decrypts."""

    id = "W9103"
    shortdesc = "it cannot be proved who decrypts"
    description = (
        "Imports, macros, policy variables, unknown operators and texts that a parameter may"
        " continue leave it open what the policy will say. What cannot be proved is a finding,"
        " never a pass"
    )
    source_url = "https://docs.aws.amazon.com/kms/latest/developerguide/key-policies.html"
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each statement that leaves it open."""
        return findings(unproved(cfn), FIX)
