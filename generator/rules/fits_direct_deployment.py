"""E9007: a template that `aws cloudformation deploy` takes as it is."""

from pathlib import Path

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.limits import DIRECT_DEPLOYMENT_MAX
from generator.rules._scope import is_application_encryptor


class FitsDirectDeployment(CloudFormationLintRule):
    """Refuse a template that would need a bucket to be deployed from."""

    id = "E9007"
    shortdesc = "the template is too large for a direct deployment"
    description = (
        f"A template in the call itself may have {DIRECT_DEPLOYMENT_MAX:,} bytes; a larger one"
        " needs an S3 bucket, which whoever deploys for the first time does not have"
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
        message = f"the template has {size:,} bytes of {DIRECT_DEPLOYMENT_MAX:,}: shorten it"
        return [RuleMatch(["Resources"], message)]
