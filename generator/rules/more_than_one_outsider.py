"""W9104: more than one outside account decrypts."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._answers import judged

FIX = "name the one account that hosts the enclave"


class MoreThanOneOutsider(CloudFormationLintRule):
    """Warn about key policies under which two outside accounts decrypt in a bound image."""

    id = "W9104"
    shortdesc = "more than one outside account decrypts in a bound image"
    description = (
        "The code is meant for one host. Any other account that may decrypt in a bound image can"
        " run the code without the owner's consent"
    )
    source_url = "https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-modifying-external-accounts.html"
    tags = ["resources", "kms", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each key that two outside accounts may use at once."""
        return [
            RuleMatch(list(remark.place), f"{remark.text} kms:Decrypt in a bound image: {FIX}")
            for key in judged(cfn)
            for remark in key.remarks
        ]
