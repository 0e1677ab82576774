"""Which uploads S3 accepts, and how it stores an artifact."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

from conformance.buckets import make_bucket
from conformance.programs import UPLOADER, program
from conformance.run import RoleSession
from conformance.sources import expecting
from conformance.step import DENIED, differ, patiently, refused, step, until
from conformance.steps.builds import build
from conformance.steps.stacks import host_bucket, owner_stack
from generator.errors import GeneratorError

if TYPE_CHECKING:
    from conformance.run import Party, Run

ACL: Final = "bucket-owner-full-control"
KMS: Final = "aws:kms"
FOLDER: Final = "conformance"
BODY: Final = b"what is uploaded says nothing\n"
POLICY: Final = "Conformance"


def _head(run: Run) -> Any:  # noqa: ANN401 - boto3's
    return run.host.client("s3").head_object(
        Bucket=run.shared["ExternalBucketName"], Key=run.artifact_key, ChecksumMode="ENABLED"
    )


@step("aws:kms, under the host's key, uploaded from the owner's account", build)
def object_encryption(run: Run) -> str:
    """S3 has encrypted the artifact under the key of another account."""
    found = _head(run)
    kind, key = found.get("ServerSideEncryption"), found.get("SSEKMSKeyId")
    problems = [] if kind == KMS else [f"the encryption is {kind}"]
    problems += [] if key == run.shared["ExternalBucketEncryptionKeyArn"] else [f"the key is {key}"]
    differ(problems)
    return f"{kind}, {key}"


@step("the SHA-256 of the whole object, as in its metadata", build)
def object_checksum(run: Run) -> str:
    """S3 keeps the checksum that it has verified."""
    found = _head(run)
    checksum, metadata = found.get("ChecksumSHA256"), found["Metadata"].get("sha256")
    kind = found.get("ChecksumType", "FULL_OBJECT")
    digest = base64.b64decode(checksum).hex() if checksum and "-" not in checksum else checksum
    problems = [] if digest else ["S3 returns no SHA-256"]
    problems += [f"it is {digest}, and {metadata} in the metadata"] if digest != metadata else []
    problems += [] if kind == "FULL_OBJECT" else [f"it is {kind}"]
    differ(problems)
    return f"{digest}, {kind}"


# --- Roles ------------------------------------------------------------------------------------


def _assume(run: Run, party: Party, name: str, policy: str) -> RoleSession:
    """Make a role that its own account trusts, with *policy*, and assume it."""
    iam, full_name = party.client("iam"), f"{run.names.prefix}-{name}"
    trust = _document({"Principal": {"AWS": party.root}, "Action": "sts:AssumeRole"})
    with expecting("EntityAlreadyExists"):  # an earlier run with this id has made it
        iam.create_role(
            Path=run.names.role_path,
            RoleName=full_name,
            AssumeRolePolicyDocument=trust,
            Tags=[{"Key": key, "Value": value} for key, value in run.tags.items()],
        )
    iam.put_role_policy(RoleName=full_name, PolicyName=POLICY, PolicyDocument=policy)
    arn = iam.get_role(RoleName=full_name)["Role"]["Arn"]
    sts = party.client("sts")
    answer = patiently(run, lambda: sts.assume_role(RoleArn=arn, RoleSessionName="conformance"))
    return RoleSession(arn, run.region, answer["Credentials"])


def _document(*statements: dict[str, Any]) -> str:
    allowed = [{"Effect": "Allow", **statement} for statement in statements]
    return json.dumps({"Version": "2012-10-17", "Statement": allowed})


@step("created and assumed: the owner's uploader and administrator, the host's parent", owner_stack)
def roles(run: Run) -> str:
    """Create roles to act as each person, because an account's root is never refused."""
    key, bucket = run.encryptor["EnclaveKeyARN"], run.shared["ExternalBucketName"]
    buckets = [f"arn:{run.host.partition}:s3:::{name}/*" for name in (bucket, classic_name(run))]
    uploads = {
        "Action": ["s3:PutObject", "s3:PutObjectAcl", "s3:AbortMultipartUpload"],
        "Resource": buckets,
    }
    # The owner's key, too: an upload that names it must be refused by the host's bucket alone.
    keys = {
        "Action": ["kms:GenerateDataKey", "kms:Decrypt"],
        "Resource": [run.shared["ExternalBucketEncryptionKeyArn"], key],
    }
    administration = {"Action": "kms:*", "Resource": key}
    wanted = {
        "uploader": (run.owner, _document(uploads, keys)),
        "administrator": (run.owner, _document(administration)),
        # The host pastes the stack's output, and so does this.
        "parent": (run.host, run.encryptor["ParentRolePolicy"]),
    }
    for name, (party, policy) in wanted.items():
        run.roles[name] = _assume(run, party, name, policy)
    return ", ".join(role.arn for role in run.roles.values())


# --- Uploads ----------------------------------------------------------------------------------


def classic_name(run: Run) -> str:
    """Return the name of a bucket whose policy requires the ACL of every upload."""
    return f"{run.names.prefix}-classic-{run.host.number}"


@step("the bucket and its policy are created", host_bucket)
def classic_bucket(run: Run) -> str:
    """The host creates a classic bucket, whose policy requires the ACL and aws:kms."""
    s3, name = run.host.client("s3"), classic_name(run)
    make_bucket(run, run.host, name, ObjectOwnership="BucketOwnerPreferred")
    demands = {"s3:x-amz-acl": ACL, "s3:x-amz-server-side-encryption": KMS}
    statement = {
        "Principal": {"AWS": run.owner.root},
        "Action": ["s3:PutObject", "s3:PutObjectAcl"],
        "Resource": f"arn:{run.host.partition}:s3:::{name}/*",
        "Condition": {"StringEquals": demands},
    }
    s3.put_bucket_policy(Bucket=name, Policy=_document(statement))
    return name


def _upload(run: Run, bucket: str, name: str, **more: Any) -> Any:  # noqa: ANN401 - boto3's
    """Put an object as the uploader, with the encryption that both buckets' policies demand."""
    asked = {
        "ServerSideEncryption": KMS,
        "SSEKMSKeyId": run.shared["ExternalBucketEncryptionKeyArn"],
    }
    return (
        run.roles["uploader"]
        .client("s3")
        .put_object(Bucket=bucket, Key=f"{FOLDER}/{name}", Body=BODY, **(asked | more))
    )


@step("accepted: the uploader sends the ACL and the encryption", roles, classic_bucket)
def classic_with_acl(run: Run) -> str:
    """The build's uploader stores a file in a bucket whose policy requires the ACL."""
    file = run.folder / "with-acl"
    file.write_bytes(BODY)
    environment = run.roles["uploader"].environment | {
        "EXTERNAL_BUCKET_NAME": classic_name(run),
        "EXTERNAL_BUCKET_PATH": FOLDER,
        "EXTERNAL_BUCKET_KEY_ARN": run.shared["ExternalBucketEncryptionKeyArn"],
        "EXTERNAL_BUCKET_ACCOUNT": run.host.number,
        "ENCRYPTION_KEY_ARN": run.encryptor["EnclaveKeyARN"],
    }
    printed: list[str] = []
    failed: list[GeneratorError] = []

    def stored() -> bool:
        # A new role's policy may not have reached S3 or KMS yet.
        try:
            printed[:] = program(UPLOADER, file, environment=environment).splitlines()
        except GeneratorError as error:
            failed[:] = [error]
            return "AccessDenied" not in str(error)
        return True

    until(run, stored)
    if not printed:
        raise failed[-1]
    return printed[0]


@step("AccessDenied", classic_with_acl)
def classic_without_acl(run: Run) -> str:
    """The same upload without the ACL."""
    return refused(lambda: _upload(run, classic_name(run), "without-acl"), *DENIED)


@step("AccessDenied: UploadPart cannot carry the ACL that the policy requires", classic_with_acl)
def classic_multipart(run: Run) -> str:
    """The same upload in parts, with the ACL in CreateMultipartUpload."""
    s3, name = run.roles["uploader"].client("s3"), f"{FOLDER}/parts"
    upload = s3.create_multipart_upload(
        Bucket=classic_name(run),
        Key=name,
        ACL=ACL,
        ServerSideEncryption=KMS,
        SSEKMSKeyId=run.shared["ExternalBucketEncryptionKeyArn"],
    )["UploadId"]
    part = {"Bucket": classic_name(run), "Key": name, "UploadId": upload}
    return refused(lambda: s3.upload_part(**part, PartNumber=1, Body=BODY), *DENIED)


@step("accepted", roles)
def shared_without_acl(run: Run) -> str:
    """An upload without the ACL to the sharing template's bucket."""
    bucket = run.shared["ExternalBucketName"]
    found = patiently(run, lambda: _upload(run, bucket, "without-acl"))
    return f"accepted, ETag {found['ETag']}"


@step("accepted, with the ACL in CreateMultipartUpload", roles)
def shared_multipart(run: Run) -> str:
    """A multipart upload to the sharing template's bucket."""
    s3 = run.roles["uploader"].client("s3")
    where = {"Bucket": run.shared["ExternalBucketName"], "Key": f"{FOLDER}/parts"}
    begin = {
        "ACL": ACL,
        "ExpectedBucketOwner": run.host.number,
        "ServerSideEncryption": KMS,
        "SSEKMSKeyId": run.shared["ExternalBucketEncryptionKeyArn"],
    }
    answer = patiently(run, lambda: s3.create_multipart_upload(**where, **begin))
    upload = {**where, "UploadId": answer["UploadId"]}
    part = s3.upload_part(**upload, PartNumber=1, Body=BODY)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    done = s3.complete_multipart_upload(**upload, MultipartUpload=parts)
    return f"accepted, ETag {done['ETag']}"


@step("AccessDenied: the bucket's owner is checked", shared_without_acl)
def other_owner(run: Run) -> str:
    """An upload that expects another owner of the bucket."""
    bucket = run.shared["ExternalBucketName"]
    expected = {"ExpectedBucketOwner": run.owner.number}
    return refused(lambda: _upload(run, bucket, "other-owner", **expected), *DENIED)


@step("AccessDenied, by the bucket's policy", shared_without_acl)
def other_key(run: Run) -> str:
    """An upload under a key of the owner's, for which the owner has every permission."""
    bucket, key = run.shared["ExternalBucketName"], run.encryptor["EnclaveKeyARN"]
    return refused(lambda: _upload(run, bucket, "other-key", SSEKMSKeyId=key), *DENIED)
