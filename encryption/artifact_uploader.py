"""Stores a sealed artifact in the host's bucket. Runs in the build, behind the encryptor.

python3 artifact_uploader.py FILE

Where to comes from the build's environment: EXTERNAL_BUCKET_NAME, _PATH,
_KEY_ARN and _ACCOUNT. The upload fails unless that account owns the bucket.
"""

import hashlib
import os
import sys
from pathlib import Path

SINGLE_PUT_MAX = 5 * 1024**3
"""Bytes of the largest PutObject (Amazon S3 quotas).

A multipart upload cannot carry the ACL that a host's policy may demand of
every part, so it begins only where PutObject ends.
"""


def object_metadata() -> dict[str, str]:
    """Return what the object says of its making. Nobody authenticates it."""
    encryptor = Path(__file__).with_name("envelope_encryptor.py")
    return {
        "commit": os.environ.get("CODEBUILD_RESOLVED_SOURCE_VERSION", "unknown"),
        "encryptor-sha256": hashlib.sha256(encryptor.read_bytes()).hexdigest(),
        "kms-key-arn": os.environ["ENCRYPTION_KEY_ARN"],
    }


def upload(artifact: Path) -> str:
    """Upload *artifact* and return its s3:// address.

    Raises:
        boto3.exceptions.S3UploadFailedError, botocore.exceptions.BotoCoreError: S3 refused it,
            or could not be reached.
    """
    import boto3
    from boto3.s3.transfer import TransferConfig

    bucket, path, key_arn, account = (
        os.environ[f"EXTERNAL_BUCKET_{name}"] for name in ("NAME", "PATH", "KEY_ARN", "ACCOUNT")
    )
    # The bucket lives where its key does, which need not be where the build runs.
    client = boto3.client("s3", region_name=key_arn.split(":")[3])
    name = f"{path}/{artifact.name}"
    client.upload_file(
        str(artifact),
        bucket,
        name,
        ExtraArgs={
            "ACL": "bucket-owner-full-control",
            "ExpectedBucketOwner": account,
            "Metadata": object_metadata(),
            "SSEKMSKeyId": key_arn,
            "ServerSideEncryption": "aws:kms",
        },
        Config=TransferConfig(multipart_threshold=SINGLE_PUT_MAX + 1),
    )
    return f"s3://{bucket}/{name}"


def main() -> int:
    """Upload the file that the command line names; a failure is one line and status 1."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError

    _, *files = sys.argv
    if len(files) != 1:
        print("usage: artifact_uploader.py FILE", file=sys.stderr)
        return 2
    try:
        address = upload(Path(files[0]))
    except (Boto3Error, BotoCoreError, KeyError, OSError) as error:
        hint = "compare bucket, key and account with the host's outputs"
        print(f"error: upload: {' '.join(str(error).split())}: {hint}", file=sys.stderr)
        return 1
    print(f"stored {address}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
