"""The owner's stack and all that the table needs, once for each worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rehearsal import enclave
from rehearsal.aws import PROJECT, account_root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehearsal.aws import Aws

OWNER, HOST, THIRD = "111111111111", "222222222222", "333333333333"
STACK = "enclave"
TEMPLATE = PROJECT / "templates" / "Deploy-ApplicationEncryptor-Cfn.yaml"


@pytest.fixture(scope="session")
def stage(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[enclave.Stage]:
    folder = tmp_path_factory.mktemp("owner")
    code, artifact = folder / "application", folder / "application_code.zip.encrypted"
    code.mkdir()
    (code / enclave.SCRIPT).write_text("print('hello from the enclave')\n")
    # The host's role exists before the stack names it: KMS would check.
    enclave.create_role(aws, HOST, enclave.PARENT_ROLE)
    parameters = {
        "CodeCommitRepositoryName": "repository",
        "ApplicationCodeDirectoryName": "application",
        "ExternalBucketName": "bucket-of-the-host",
        "ExternalBucketEncryptionKeyArn": f"arn:aws:kms:eu-central-1:{HOST}:key/"
        "1234abcd-12ab-34cd-56ef-1234567890ab",
        "ExternalBucketAWSAccountNumber": HOST,
        "ParentInstanceRoleName": enclave.PARENT_ROLE,
        "EnclaveImageSha384": enclave.FIRST,
    }
    outputs = aws.deploy(account_root(OWNER), STACK, TEMPLATE, parameters)
    key = outputs["EnclaveKeyARN"]
    enclave.encrypt(aws, account_root(OWNER), code, key, artifact)
    with enclave.stage(
        aws,
        (OWNER, HOST, THIRD),
        stack=STACK,
        key=key,
        artifact=artifact,
        parent_policy=outputs["ParentRolePolicy"],
    ) as prepared:
        yield prepared
