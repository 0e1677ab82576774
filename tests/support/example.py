"""The example stack that tests deploy."""

from rehearsal.aws import REGION

HOST = "222222222222"
PARAMETERS = {
    "CodeCommitRepositoryName": "enclave-application",
    "ApplicationCodeDirectoryName": "application",
    "ExternalBucketName": "acme-code-bucket",
    "ExternalBucketEncryptionKeyArn": (
        f"arn:aws:kms:{REGION}:{HOST}:key/11111111-2222-3333-4444-555555555555"
    ),
    "ExternalBucketAWSAccountNumber": HOST,
}
