"""E9203: the upload reaches the host's bucket, encrypted, or fails."""

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

from generator.rules._builds import shell_commands

DEMANDS = {
    "the bucket's owner (ExpectedBucketOwner)": ("ExpectedBucketOwner", "--expected-bucket-owner"),
    "the ACL bucket-owner-full-control": ("bucket-owner-full-control",),
    "encryption by KMS (aws:kms)": ("aws:kms",),
    "the external key": ("SSEKMSKeyId", "--sse-kms-key-id", "--ssekms-key-id"),
}
"""What an upload must state, and how boto3 and the AWS CLI spell it."""


class UploadInsists(CloudFormationLintRule):
    """Refuse a build whose upload leaves the receiver or the encryption to chance."""

    id = "E9203"
    shortdesc = "the upload does not insist on its receiver"
    description = (
        "A bucket's name can come to belong to somebody else. ExpectedBucketOwner makes S3 refuse"
        " then; the ACL and the encryption are what receiving buckets demand"
    )
    source_url = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html"
    tags = ["resources", "codebuild", "s3", "enclave"]

    def match(self, cfn: Template) -> list[RuleMatch]:
        """Return a match for each demand that no command of a buildspec makes."""
        return [
            RuleMatch(path, f"the upload does not state {demand}: let it")
            for path, commands in shell_commands(cfn.template)
            for demand, spellings in DEMANDS.items()
            if not any(
                spelling in line.partition("#")[0]
                for command in commands
                for line in command.splitlines()
                for spelling in spellings
            )
        ]
