"""E9203: the upload goes to the host's bucket, encrypted, or fails."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._builds import shell_commands

DEMANDS = {
    "the bucket's owner (ExpectedBucketOwner)": ("ExpectedBucketOwner", "--expected-bucket-owner"),
    "the ACL bucket-owner-full-control": ("bucket-owner-full-control",),
    "encryption by KMS (aws:kms)": ("aws:kms",),
    "the external key": ("SSEKMSKeyId", "--sse-kms-key-id", "--ssekms-key-id"),
}
"""What an upload must specify, and the names of that in boto3 and the AWS CLI."""


class UploadIsConstrained(CloudFormationLintRule):
    """Refuse a build whose upload does not pin the bucket's owner and the encryption."""

    id = "E9203"
    shortdesc = "the upload does not pin the bucket's owner or the encryption"
    description = (
        "A bucket's name can later belong to another account: with ExpectedBucketOwner, S3 refuses"
        " the upload then. The ACL and the encryption are what receiving buckets require"
    )
    source_url = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html"
    tags = ["resources", "codebuild", "s3", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each requirement that no command of a buildspec meets."""
        return [
            RuleMatch(path, f"the upload does not specify {demand}: add it to the upload")
            for path, commands in shell_commands(cfn.template)
            for demand, spellings in DEMANDS.items()
            if not any(
                spelling in line.partition("#")[0]
                for command in commands
                for line in command.splitlines()
                for spelling in spellings
            )
        ]
