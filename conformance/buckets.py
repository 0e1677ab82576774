"""Buckets of a run: created with its tags, and removed with their contents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from generator.services import aws

if TYPE_CHECKING:
    from conformance.run import Party, Run

DEFAULT_REGION: Final = "us-east-1"
"""S3's own: the one that CreateBucket does not take as a LocationConstraint."""


def make_bucket(run: Run, party: Party, name: str, **more: str) -> None:
    """Make a bucket of *party*, unless it has it already, and tag it; *more* goes to CreateBucket.

    Raises:
        botocore.exceptions.ClientError: S3 refuses.
    """
    from botocore.exceptions import ClientError

    s3 = party.client("s3")
    where: Any = {}
    if party.region != DEFAULT_REGION:
        where["CreateBucketConfiguration"] = {"LocationConstraint": party.region}
    try:
        s3.create_bucket(Bucket=name, **where, **more)
    except ClientError as error:
        if aws.code(error) != "BucketAlreadyOwnedByYou":
            raise
    tags = [{"Key": key, "Value": value} for key, value in run.tags.items()]
    s3.put_bucket_tagging(Bucket=name, Tagging={"TagSet": tags})


def remove_bucket(s3: Any, name: str) -> None:  # noqa: ANN401 - boto3's
    """Delete a bucket: each version of each object, unfinished uploads, and the bucket itself.

    Raises:
        botocore.exceptions.ClientError: S3 refuses.
    """
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=name):
        for each in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            s3.delete_object(Bucket=name, Key=each["Key"], VersionId=each["VersionId"])
    for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=name):
        for each in page.get("Uploads", []):
            s3.abort_multipart_upload(Bucket=name, Key=each["Key"], UploadId=each["UploadId"])
    s3.delete_bucket(Bucket=name)
