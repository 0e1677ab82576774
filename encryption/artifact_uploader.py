"""Store the artifact in the host's bucket. The build runs this after the encryptor.

    python3 artifact_uploader.py FILE

The destination comes from the build's environment: EXTERNAL_BUCKET_NAME, _PATH, _KEY_ARN and
_ACCOUNT. S3 refuses the upload unless that account owns the bucket.
"""

import base64
import hashlib
import os
import sys

# Bytes of the largest PutObject (Amazon S3 quotas). A multipart upload cannot carry the ACL that
# a bucket's policy may demand of every part, so it is used only above PutObject's limit.
SINGLE_PUT_MAX = 5 * 1024**3
ARN_FIELDS = 6


def upload(path: str) -> dict[str, str]:
    """Upload the file at *path*; return a summary for the log and the host.

    Raises:
        Exception: a setting is missing or wrong, S3 cannot be reached or refuses, or its response
            is not what was asked for.
    """
    import boto3
    from boto3.s3.transfer import TransferConfig

    bucket, prefix, key_arn, account = (
        os.environ[f"EXTERNAL_BUCKET_{name}"] for name in ("NAME", "PATH", "KEY_ARN", "ACCOUNT")
    )
    arn = key_arn.split(":")
    if len(arn) != ARN_FIELDS:
        raise ValueError(f"{key_arn}: not the ARN of a KMS key")
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    about = {
        "commit": os.environ.get("CODEBUILD_RESOLVED_SOURCE_VERSION", "unknown"),
        "kms-key-arn": os.environ["ENCRYPTION_KEY_ARN"],
        "sha256": digest.hexdigest(),
    }
    asked = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key_arn}
    destination = {"ACL": "bucket-owner-full-control", "ExpectedBucketOwner": account}
    # S3 verifies the checksum. Only a CRC can cover the whole of a multipart upload:
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
    if size > SINGLE_PUT_MAX:
        destination["ChecksumAlgorithm"] = "CRC64NVME"
    else:
        asked["ChecksumSHA256"] = base64.b64encode(digest.digest()).decode()
    client = boto3.client("s3", region_name=arn[3])  # the bucket is in its key's region
    responses: list[dict[str, str]] = []
    client.meta.events.register("after-call.s3", lambda parsed, **_: responses.append(parsed))
    name = f"{prefix}/{os.path.basename(path)}"
    options = TransferConfig(SINGLE_PUT_MAX + 1, preferred_transfer_client="classic")
    client.upload_file(
        path, bucket, name, {**destination, **asked, "Metadata": about}, None, options
    )
    if not asked.items() <= responses[-1].items():
        raise ValueError(f"S3 stored it, but not with {asked}")
    return {"stored": f"s3://{bucket}/{name}", "size": f"{size:,} bytes", **about}


def main() -> int:
    """Upload the file that the command line names; a failure is one line and status 1."""
    try:
        for name, value in upload(*sys.argv[1:]).items():
            print(f"{name}: {value}")
    except Exception as error:
        reason = str(error).encode("unicode_escape").decode() or type(error).__name__
        hint = "compare the parameters with the host's outputs"
        print(f"error: upload: {reason}: {hint}", file=sys.stderr)
        return 1
    print("Tell the host where it is stored; the enclave image must pin the kms-key-arn.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
