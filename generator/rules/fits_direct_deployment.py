"""E9007: `aws cloudformation deploy` accepts the template without S3."""

from pathlib import Path

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.limits import DIRECT_DEPLOYMENT_MAX
from generator.rules._scope import is_application_encryptor


class FitsDirectDeployment(CloudFormationLintRule):
    """Refuse a template that can only be deployed through an S3 bucket."""

    id = "E9007"
    shortdesc = "the template is too large for a direct deployment"
    description = (
        f"A template in the API call can have at most {DIRECT_DEPLOYMENT_MAX:,} bytes; a larger one"
        " needs an S3 bucket, which first-time users do not have"
    )
    source_url = (
        "https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html"
    )
    tags = ["limits", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match if the file is too large."""
        file = Path(cfn.filename or "")
        if not file.is_file() or not is_application_encryptor(cfn.template):
            return []
        size = file.stat().st_size
        if size <= DIRECT_DEPLOYMENT_MAX:
            return []
        message = (
            f"the template has {size:,} bytes, more than {DIRECT_DEPLOYMENT_MAX:,}: shorten it"
        )
        return [RuleMatch(["Resources"], message)]
