"""The host's template: the bucket that receives encrypted applications, and its key.

Its outputs have the names of the code owner's parameters, see application_encryptor.
"""

from troposphere import GetAtt, Output, Ref, Sub, Template, kms, s3

from generator import parameters
from generator.templates import policies
from generator.templates.application_encryptor import KEY_DELETION_DAYS, account_root
from generator.templates.console import add_parameters

FILE_NAME = parameters.SHARING_TEMPLATE

DESCRIPTION = (
    "Receives encrypted applications from a third party, for an AWS Nitro Enclave in this account:"
    " an S3 bucket that the third party may only write to, and the bucket's KMS key."
)

IDENTIFIER = parameters.THIRD_PARTY_IDENTIFIER.name
BUCKET = f"${{{IDENTIFIER}}}-code-bucket-${{AWS::AccountId}}-${{AWS::Region}}"
THIRD_PARTY = account_root(parameters.THIRD_PARTY_ACCOUNT.name)
UNFINISHED_UPLOAD_DAYS = 7
KEPT = {"DeletionPolicy": "RetainExceptOnCreate", "UpdateReplacePolicy": "Retain"}
"""What was received survives the stack's deletion, but a failed creation leaves nothing."""


def bucket_key() -> kms.Key:
    """Encrypts the bucket: the host's own second layer around artifacts already encrypted."""
    return kms.Key(
        "BucketKey",
        **KEPT,
        Description=Sub(f"Encrypts what ${{{IDENTIFIER}}} uploads"),
        EnableKeyRotation=True,
        PendingWindowInDays=KEY_DELETION_DAYS,
        KeyPolicy=policies.policy(
            policies.delegate_to_account(account_root("AWS::AccountId")),
            policies.allow_third_party_to_encrypt_uploads(THIRD_PARTY, Sub("s3.${AWS::Region}.*")),
        ),
    )


def _default_encryption(key: kms.Key) -> s3.BucketEncryption:
    by_default = s3.ServerSideEncryptionByDefault(
        SSEAlgorithm="aws:kms", KMSMasterKeyID=GetAtt(key, "Arn")
    )
    # Bucket keys save calls to KMS: they are cheaper and just as strong.
    rule = s3.ServerSideEncryptionRule(
        BucketKeyEnabled=True, ServerSideEncryptionByDefault=by_default
    )
    return s3.BucketEncryption(ServerSideEncryptionConfiguration=[rule])


def _unfinished_uploads() -> s3.LifecycleConfiguration:
    abort = s3.AbortIncompleteMultipartUpload(DaysAfterInitiation=UNFINISHED_UPLOAD_DAYS)
    return s3.LifecycleConfiguration(
        Rules=[
            s3.LifecycleRule(
                Id="RemoveUnfinishedUploads",
                Status="Enabled",
                AbortIncompleteMultipartUpload=abort,
            )
        ]
    )


def code_bucket(key: kms.Key) -> s3.Bucket:
    """Receives the artifacts. The host owns every object and keeps every version of it."""
    ownership = s3.OwnershipControlsRule(ObjectOwnership="BucketOwnerEnforced")
    return s3.Bucket(
        "CodeBucket",
        **KEPT,
        BucketName=Sub(BUCKET),
        OwnershipControls=s3.OwnershipControls(Rules=[ownership]),
        VersioningConfiguration=s3.VersioningConfiguration(Status="Enabled"),
        PublicAccessBlockConfiguration=s3.PublicAccessBlockConfiguration(
            BlockPublicAcls=True,
            BlockPublicPolicy=True,
            IgnorePublicAcls=True,
            RestrictPublicBuckets=True,
        ),
        BucketEncryption=_default_encryption(key),
        LifecycleConfiguration=_unfinished_uploads(),
    )


def code_bucket_policy(bucket: s3.Bucket, key: kms.Key) -> s3.BucketPolicy:
    """The third party may upload, encrypted under this key and through TLS, and do nothing else."""
    bucket_arn, objects = GetAtt(bucket, "Arn"), Sub(f"${{{bucket.title}.Arn}}/*")
    return s3.BucketPolicy(
        "CodeBucketPolicy",
        Bucket=Ref(bucket),
        PolicyDocument=policies.policy(
            policies.allow_third_party_to_upload(THIRD_PARTY, objects),
            policies.deny_plain_transport(bucket_arn, objects),
            policies.deny_callers_own_encryption(objects),
            policies.deny_other_encryption(objects),
            policies.deny_other_keys(objects, GetAtt(key, "Arn")),
        ),
    )


def outputs(bucket: s3.Bucket, key: kms.Key) -> list[Output]:
    """Return what the code owner needs, under the names of the owner's parameters."""
    return [
        Output(
            parameters.BUCKET_NAME.name,
            Description=parameters.BUCKET_NAME.description,
            Value=Ref(bucket),
        ),
        Output(
            parameters.BUCKET_KEY.name,
            Description=parameters.BUCKET_KEY.description,
            Value=GetAtt(key, "Arn"),
        ),
        Output(
            parameters.HOST_ACCOUNT.name,
            Description="Account that owns the bucket and hosts the enclave.",
            Value=Ref("AWS::AccountId"),
        ),
    ]


def template() -> Template:
    """Return the whole template."""
    result = Template(Description=DESCRIPTION)
    result.set_version()
    add_parameters(result, parameters.SHARING_PARAMETERS)
    key = bucket_key()
    bucket = code_bucket(key)
    result.add_resource([key, bucket, code_bucket_policy(bucket, key)])
    result.add_output(outputs(bucket, key))
    return result
