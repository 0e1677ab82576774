"""The emulator listens on this machine only, and does not outlive the process that started it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rehearsal.aws import PROJECT, account_root, emulator

if TYPE_CHECKING:
    from pathlib import Path

    from rehearsal.aws import Aws

STARTER = """
import os, signal
from rehearsal.aws import emulator
with emulator() as aws:
    print(aws.endpoint, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def port(endpoint: str) -> int:
    return int(endpoint.rsplit(":", 1)[1])


def test_account_ids_have_twelve_digits(aws: Aws) -> None:
    identity = aws.client(account_root("123456789012"), "sts").get_caller_identity()
    assert identity["Arn"] == "arn:aws:iam::123456789012:root"


def test_two_emulators_share_no_state(aws: Aws) -> None:
    with emulator() as other:
        root = account_root("123456789012")
        other.client(root, "iam").create_role(RoleName="here", AssumeRolePolicyDocument="{}")
        assert other.client(root, "iam").list_roles()["Roles"]
        assert aws.client(root, "iam").list_roles()["Roles"] == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port(other.endpoint)))
    assert not other.home.exists()


def test_emulator_ends_when_its_parent_process_is_killed(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", STARTER],
        cwd=PROJECT,
        env=os.environ | {"TMPDIR": str(tmp_path)},  # no process is left to remove its folder
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert killed.returncode == -9
    # A connection that the dying server still accepted ends with it.
    try:
        with socket.create_connection(("127.0.0.1", port(killed.stdout.strip()))) as connection:
            connection.settimeout(20)
            assert connection.recv(1) == b""
    except (ConnectionRefusedError, ConnectionResetError):
        pass
