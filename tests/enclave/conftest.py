"""The owner's stack and everything the table needs, once per worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rehearsal.aws import account_root
from rehearsal.enclave import device, security_module
from rehearsal.scenario import FIRST, PARENT_ROLE, SCRIPT, create_role, encrypt, set_up
from tests.enclave.kms_client import close_clients
from tests.enclave.tool import Tool
from tests.support import stacks
from tests.support.machine import program
from tests.support.paths import ENCRYPTOR_TEMPLATE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehearsal.aws import Aws
    from rehearsal.scenario import Scenario

OWNER, HOST, THIRD = "111111111111", "222222222222", "333333333333"
STACK = "enclave"


@pytest.fixture(scope="session")
def scenario(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    folder = tmp_path_factory.mktemp("owner")
    code, artifact = folder / "application", folder / "application_code.zip.encrypted"
    code.mkdir()
    (code / SCRIPT).write_text("print('hello from the enclave')\n")
    # The host's role must exist before the stack names it: KMS checks.
    create_role(aws, HOST, PARENT_ROLE)
    parameters = {
        "CodeCommitRepositoryName": "repository",
        "ApplicationCodeDirectoryName": "application",
        "ExternalBucketName": "bucket-of-the-host",
        "ExternalBucketEncryptionKeyArn": f"arn:aws:kms:eu-central-1:{HOST}:key/"
        "1234abcd-12ab-34cd-56ef-1234567890ab",
        "ExternalBucketAWSAccountNumber": HOST,
        "ParentInstanceRoleName": PARENT_ROLE,
        "EnclaveImageSha384": FIRST,
    }
    outputs = stacks.deploy(aws, account_root(OWNER), STACK, ENCRYPTOR_TEMPLATE, parameters)
    key = outputs["EnclaveKeyARN"]
    encrypt(aws, account_root(OWNER), code, key, artifact)
    with set_up(
        aws,
        (OWNER, HOST, THIRD),
        stack=STACK,
        key=key,
        artifact=artifact,
        parent_policy=outputs["ParentRolePolicy"],
    ) as prepared:
        yield prepared
        close_clients()


@pytest.fixture(scope="session")
def openssl() -> str:
    return program("openssl")


@pytest.fixture
def tool(scenario: Scenario) -> Iterator[Tool]:
    with device(security_module(scenario)) as module:
        yield Tool(scenario, module)
