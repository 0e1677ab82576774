"""The host's bucket and key, deployed: the third party may upload, and nothing else."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from rehearsal.aws import SHARING_BUCKET, account_root
from tests.support import stacks

if TYPE_CHECKING:
    from rehearsal.aws import Aws

OWNER, HOST, STRANGER = (str(digit) * 12 for digit in (7, 8, 9))
OBJECT = "encrypted/application_code.zip.encrypted"
UPLOADER = ("s3:*", "kms:*")


@dataclass
class Bucket:
    """The host's bucket, and its callers."""

    aws: Aws
    name: str
    key: str

    def client(self, service: str, account: str, *actions: str) -> Any:  # noqa: ANN401 - as boto3's
        """Return a client of a new role in *account* whose IAM policy allows *actions*."""
        root, name = account_root(account), f"role-{uuid.uuid4()}"
        iam = self.aws.client(root, "iam")
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        allow = {"Effect": "Allow", "Action": actions, "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=policy)
        return self.aws.client(self.aws.act_as(root, role), service)

    def upload(self, account: str, *actions: str, **changes: str) -> None:
        """Upload as the build does, with *changes*; an empty value omits an argument."""
        arguments = {
            "ACL": "bucket-owner-full-control",
            "ExpectedBucketOwner": HOST,
            "ServerSideEncryption": "aws:kms",
            "SSEKMSKeyId": self.key,
        } | changes
        given = {name: value for name, value in arguments.items() if value}
        s3 = self.client("s3", account, *actions)
        s3.put_object(Bucket=self.name, Key=OBJECT, Body=b"artifact", **given)


@pytest.fixture(scope="module")
def bucket(aws: Aws) -> Bucket:
    parameters = {"ThirdPartyIdentifier": "acme", "ThirdPartyAWSAccountNumber": OWNER}
    outputs = stacks.deploy(aws, account_root(HOST), "sharing", SHARING_BUCKET, parameters)
    return Bucket(aws, outputs["ExternalBucketName"], outputs["ExternalBucketEncryptionKeyArn"])


def test_third_party_can_upload_and_host_can_read(bucket: Bucket) -> None:
    bucket.upload(OWNER, *UPLOADER)
    s3 = bucket.aws.client(account_root(HOST), "s3")
    assert s3.get_object(Bucket=bucket.name, Key=OBJECT)["Body"].read() == b"artifact"


@pytest.mark.parametrize(
    ("account", "actions", "changes"),
    [
        pytest.param(STRANGER, UPLOADER, {}, id="another-account"),
        pytest.param(OWNER, ("kms:*",), {}, id="a-role-without-s3"),
        pytest.param(OWNER, ("s3:*",), {}, id="a-role-without-the-key"),
        pytest.param(OWNER, UPLOADER, {"ExpectedBucketOwner": OWNER}, id="another-owner"),
        pytest.param(
            *(OWNER, UPLOADER, {"ServerSideEncryption": "AES256", "SSEKMSKeyId": ""}),
            id="another-encryption",
        ),
    ],
)
def test_any_other_upload_is_refused(
    bucket: Bucket, account: str, actions: tuple[str, ...], changes: dict[str, str]
) -> None:
    with pytest.raises(ClientError, match="AccessDenied"):
        bucket.upload(account, *actions, **changes)


def test_an_upload_under_the_third_partys_own_key_is_refused(bucket: Bucket) -> None:
    key = bucket.aws.client(account_root(OWNER), "kms").create_key()["KeyMetadata"]["Arn"]
    with pytest.raises(ClientError, match="AccessDenied"):
        bucket.upload(OWNER, *UPLOADER, SSEKMSKeyId=key)


@pytest.mark.parametrize("call", ["get_object", "delete_object", "list_objects_v2"])
def test_third_party_can_only_upload(bucket: Bucket, call: str) -> None:
    arguments = {"Bucket": bucket.name} | ({} if call == "list_objects_v2" else {"Key": OBJECT})
    with pytest.raises(ClientError, match="AccessDenied"):
        getattr(bucket.client("s3", OWNER, *UPLOADER), call)(**arguments)


def test_third_party_uses_the_bucket_key_only_through_s3(bucket: Bucket) -> None:
    with pytest.raises(ClientError, match="AccessDenied"):
        bucket.client("kms", OWNER, *UPLOADER).generate_data_key(
            KeyId=bucket.key, KeySpec="AES_256"
        )
