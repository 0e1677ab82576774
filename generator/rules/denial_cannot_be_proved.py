"""W9103: nobody can tell who decrypts."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._answers import findings, unproved

MEND = "write values into the template, or constrain the parameters they come from"


class DenialCannotBeProved(CloudFormationLintRule):
    """Warn where nobody can tell before deployment who decrypts."""

    id = "W9103"
    shortdesc = "nobody can tell who decrypts"
    description = (
        "Imports, macros, policy variables, unknown operators and parameters without"
        " constraints leave it open what the policy will say. What cannot be proved is a"
        " finding, never a pass"
    )
    source_url = "https://docs.aws.amazon.com/kms/latest/developerguide/key-policies.html"
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each statement that leaves it open."""
        return findings(unproved(cfn), MEND)
