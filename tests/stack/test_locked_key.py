"""The immutable key policy in docs/security.md: deployed, tested, and explained."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from rehearsal.aws import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

    from rehearsal.aws import Aws, Credentials

IMAGE = "ab" * 48
EVERYTHING = "arn:aws:iam::aws:policy/AdministratorAccess"


def policy(owner: str, host: str) -> dict[str, Any]:
    """Return the page's policy, with its placeholders filled in."""
    page = (PROJECT / "docs/security.md").read_text()
    (text,) = re.findall(r"<!-- locked -->\n```json\n(.*?)```", page, re.DOTALL)
    text = text.replace("<96 hexadecimal digits>", IMAGE)
    document: dict[str, Any] = json.loads(
        text.replace("444455556666", owner).replace("111122223333", host)
    )
    return document


def test_locked_key_cannot_be_opened_by_anyone(
    aws: Aws, owner: Credentials, host: Credentials, tmp_path: Path
) -> None:
    document = policy(owner.access_key_id, host.access_key_id)
    root, iam = aws.client(owner, "kms"), aws.client(owner, "iam")
    key = root.create_key()["KeyMetadata"]["Arn"]
    put = {"KeyId": key, "PolicyName": "default", "Policy": json.dumps(document)}
    with pytest.raises(ClientError, match="will not allow you to update the key policy"):
        root.put_key_policy(**put)
    root.put_key_policy(**put, BypassPolicyLockoutSafetyCheck=True)
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    role = iam.create_role(
        RoleName="Administrator",
        AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": trust}),
    )["Role"]["Arn"]
    iam.attach_role_policy(RoleName="Administrator", PolicyArn=EVERYTHING)
    administrator = aws.client(aws.act_as(owner, role), "kms")
    blob = administrator.generate_data_key(KeyId=key, KeySpec="AES_256")["CiphertextBlob"]
    refused = {
        "decrypt": {"KeyId": key, "CiphertextBlob": blob},
        "put_key_policy": {**put, "BypassPolicyLockoutSafetyCheck": True},
        "create_grant": {"KeyId": key, "GranteePrincipal": role, "Operations": ["Decrypt"]},
    }
    for call, parameters in refused.items():
        with pytest.raises(ClientError, match="AccessDenied"):
            getattr(administrator, call)(**parameters)
    file = tmp_path / "locked.json"
    file.write_text(json.dumps(document))
    explained = subprocess.run(
        [
            *(sys.executable, "-m", "generator", "explain", str(file)),
            *("--owner", owner.access_key_id, "--format", "json"),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    answer = json.loads(explained.stdout)
    assert explained.returncode == 0, explained.stdout
    # The key can still be disabled or deleted, but not opened.
    actions = {each["action"] for each in answer["controls"]}
    useless = {"kms:ScheduleKeyDeletion", "kms:DisableKey"}
    assert actions == useless | {"kms:EnableKey", "kms:CancelKeyDeletion"}
