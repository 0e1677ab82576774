"""Who may do what: one function per policy statement, named for what it grants.

A statement's Sid is its function's name in CamelCase, and the first paragraph
of its docstring becomes the comment above it in the rendered template. No
statement refers to a resource: ARNs and principals are arguments.
"""

from typing import TypeAlias

from awacs import codecommit, kms, logs, s3, sts
from awacs.aws import (
    Action,
    Allow,
    ArnEquals,
    Bool,
    Condition,
    Deny,
    Null,
    PolicyDocument,
    Principal,
    Statement,
    StringEquals,
    StringLike,
    StringNotEquals,
    StringNotEqualsIgnoreCase,
)
from troposphere import AWSHelperFn

POLICY_VERSION = "2012-10-17"
THIS_KEY = ["*"]
"""In a key policy, ``*`` is the key that the policy belongs to."""

ATTESTED_IMAGE = "kms:RecipientAttestation:ImageSha384"
"""PCR0 of the enclave whose attestation document comes with a call to KMS.

Source: https://docs.aws.amazon.com/kms/latest/developerguide/conditions-nitro-enclave.html
"""

UPLOAD = [s3.PutObject, s3.PutObjectAcl, s3.AbortMultipartUpload]
"""What an upload of either kind needs; to IAM, uploading a part is PutObject, too."""

ENCRYPT_UPLOAD = [kms.GenerateDataKey, kms.Decrypt]
"""What S3 does with the bucket's key for the caller; multipart uploads need Decrypt.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

Arn: TypeAlias = AWSHelperFn | str


def policy(*statements: Statement) -> PolicyDocument:
    """Return a policy document of the current version with *statements*."""
    return PolicyDocument(Version=POLICY_VERSION, Statement=list(statements))


# The enclave key's policy.


def delegate_to_account(account: Arn) -> Statement:
    """This account's IAM policies control the key: somebody must be able to administer it."""
    return Statement(
        Sid="DelegateToAccount",
        Effect=Allow,
        Principal=Principal("AWS", account),
        Action=[kms.Action("*")],
        Resource=THIS_KEY,
    )


def allow_host_to_decrypt(host: Arn) -> Statement:
    """The only outsiders who may ever ask KMS to decrypt, under the next statement's condition."""
    return Statement(
        Sid="AllowHostToDecrypt",
        Effect=Allow,
        Principal=Principal("AWS", host),
        Action=[kms.Decrypt],
        Resource=THIS_KEY,
    )


def deny_decrypt_unless_attested(images: AWSHelperFn) -> Statement:
    """Nobody decrypts, not even an administrator, unless an enclave attests one of the images.

    A call without attestation has no such condition key, and a negated operator
    matches a missing key, so such a call is denied, too. The Deny also overrides
    grants.
    """
    return Statement(
        Sid="DenyDecryptUnlessAttested",
        Effect=Deny,
        Principal=Principal("*"),
        Action=[kms.Decrypt, kms.ReEncryptFrom],
        Resource=THIS_KEY,
        Condition=Condition(StringNotEqualsIgnoreCase(ATTESTED_IMAGE, images)),
    )


# The build's role.


def trust_project(project: Arn, account: AWSHelperFn) -> Statement:
    """CodeBuild assumes the role for this project of this account, and for no other."""
    return Statement(
        Sid="TrustProject",
        Effect=Allow,
        Principal=Principal("Service", "codebuild.amazonaws.com"),
        Action=[sts.AssumeRole],
        Condition=Condition(
            [
                ArnEquals("aws:SourceArn", project),
                StringEquals("aws:SourceAccount", account),
            ]
        ),
    )


def pull_source(repository: Arn) -> Statement:
    """The build clones the one repository."""
    return Statement(
        Sid="PullSource", Effect=Allow, Action=[codecommit.GitPull], Resource=[repository]
    )


def read_source(objects: Arn) -> Statement:
    """The build reads the one object, or all below the one prefix."""
    return Statement(
        Sid="ReadSource",
        Effect=Allow,
        Action=[s3.GetObject, s3.GetObjectVersion],
        Resource=[objects],
    )


def list_source(bucket: Arn, prefix: Arn) -> Statement:
    """It lists the objects that it reads, and no others in the bucket."""
    return Statement(
        Sid="ListSource",
        Effect=Allow,
        Action=[s3.ListBucket],
        Resource=[bucket],
        Condition=Condition(StringLike("s3:prefix", prefix)),
    )


def use_connection(connection: Arn) -> Statement:
    """The build gets its clone token from this connection, by the service's new or old name."""
    return Statement(
        Sid="UseConnection",
        Effect=Allow,
        Action=[
            Action(service, action)
            for service in ("codeconnections", "codestar-connections")
            for action in ("GetConnection", "GetConnectionToken")
        ],
        Resource=[connection],
    )


def write_build_log(log_streams: Arn) -> Statement:
    """It writes its own log."""
    return Statement(
        Sid="WriteBuildLog",
        Effect=Allow,
        Action=[logs.CreateLogStream, logs.PutLogEvents],
        Resource=[log_streams],
    )


def encrypt_application(key: Arn) -> Statement:
    """It creates data keys under the enclave key, and can never decrypt one."""
    return Statement(
        Sid="EncryptApplication",
        Effect=Allow,
        Action=[kms.Encrypt, kms.GenerateDataKey],
        Resource=[key],
    )


def upload_artifact(artifact: Arn) -> Statement:
    """It stores this one object in the host's bucket."""
    return Statement(Sid="UploadArtifact", Effect=Allow, Action=UPLOAD, Resource=[artifact])


def encrypt_upload(key: Arn, s3_service: Arn) -> Statement:
    """S3 encrypts the upload under the host's key; multipart uploads need Decrypt, too."""
    return Statement(
        Sid="EncryptUpload",
        Effect=Allow,
        Action=ENCRYPT_UPLOAD,
        Resource=[key],
        Condition=Condition(StringLike("kms:ViaService", s3_service)),
    )


# The parent instance's role, in the host's account.


def decrypt_for_enclave(key: Arn) -> Statement:
    """The parent instance's role may ask KMS to decrypt; KMS answers only to the enclave."""
    return Statement(Sid="DecryptForEnclave", Effect=Allow, Action=[kms.Decrypt], Resource=[key])


# The host's bucket and its key.


def allow_third_party_to_encrypt_uploads(account: Arn, s3_service: Arn) -> Statement:
    """The third party's uploads are encrypted under this key, through S3 only."""
    return Statement(
        Sid="AllowThirdPartyToEncryptUploads",
        Effect=Allow,
        Principal=Principal("AWS", account),
        Action=ENCRYPT_UPLOAD,
        Resource=THIS_KEY,
        Condition=Condition(StringLike("kms:ViaService", s3_service)),
    )


def allow_third_party_to_upload(account: Arn, objects: Arn) -> Statement:
    """The third party stores objects; it can neither read nor list nor delete."""
    return Statement(
        Sid="AllowThirdPartyToUpload",
        Effect=Allow,
        Principal=Principal("AWS", account),
        Action=UPLOAD,
        Resource=[objects],
    )


def deny_plain_transport(bucket: Arn, objects: Arn) -> Statement:
    """Nobody reaches the bucket except through TLS."""
    return Statement(
        Sid="DenyPlainTransport",
        Effect=Deny,
        Principal=Principal("*"),
        Action=[Action("s3", "*")],
        Resource=[bucket, objects],
        Condition=Condition(Bool("aws:SecureTransport", "false")),
    )


def _differs(header: str, value: Arn) -> Condition:
    """Match a request that has *header* with another *value*, but not one without it."""
    return Condition([StringNotEquals(header, value), Null(header, "false")])


def _deny_uploads(sid: str, objects: Arn, condition: Condition) -> Statement:
    return Statement(
        Sid=sid,
        Effect=Deny,
        Principal=Principal("*"),
        Action=[s3.PutObject],
        Resource=[objects],
        Condition=condition,
    )


def deny_callers_own_encryption(objects: Arn) -> Statement:
    """No upload uses a customer-provided key (SSE-C), which nobody else would have."""
    algorithm = "s3:x-amz-server-side-encryption-customer-algorithm"
    return _deny_uploads("DenyCallersOwnEncryption", objects, Condition(Null(algorithm, "false")))


def deny_other_encryption(objects: Arn) -> Statement:
    """No upload asks for any other kind of encryption than KMS.

    Null, because a part of a multipart upload cannot have the header; an upload
    that names no encryption gets the bucket's default, which is this key.
    """
    other = _differs("s3:x-amz-server-side-encryption", "aws:kms")
    return _deny_uploads("DenyOtherEncryption", objects, other)


def deny_other_keys(objects: Arn, key: Arn) -> Statement:
    """No upload names any other key than the bucket's."""
    other = _differs("s3:x-amz-server-side-encryption-aws-kms-key-id", key)
    return _deny_uploads("DenyOtherKeys", objects, other)
