"""Every command on every page, run by a shell as a reader would type it.

The emulator uses the pages' accounts, regions and names, so most commands run as printed; ids that
AWS assigns are replaced. One emulator, one bucket and one deployed stack serve all of them. Other
programs, such as docker, do nothing and succeed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet

from rehearsal.aws import EMULATOR, ENCRYPTOR, SHARING_BUCKET, account_root
from tests.commands.played_build import PlayedBuild, Step
from tests.support import relay, stacks
from tests.support.endpoint import serve
from tests.support.image_files import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehearsal.aws import Aws, Credentials
    from tests.support.endpoint import Endpoint

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "enclave/README.md",
]
OWNER, HOST, REGION = "444455556666", "111122223333", "eu-west-1"
HOSTS_PAGES = ("enclave-host.md", "enclave.md")
ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
PROJECT_FOLDERS = ("encryption", "generator", "rehearsal", "requirements", "scripts", "templates")
FOREIGN = ("docker", "nitro-cli", "sudo", "terraform", "vsock-proxy")
"""Programs that are not installed here; each is replaced by a script that succeeds."""
RUN_ELSEWHERE = {
    "rehearsal.two_terminals": "tests/enclave/test_two_terminals.py",
    "rehearsal.demo": "tests/enclave/test_demo.py",
    "pip install --user": "it would change this machine",
    "wait stack-import-complete": "the emulator does not import resources",
}
STATUSES = {
    "aws cloudformation deploy": (0, 255),  # 255: nothing to change
    "aws kms decrypt": (254, 255),  # refused, as the page says
    "get-key-policy": (0, 4),  # 4: that key has the default policy
    "client.py run": (1,),  # no enclave is running here
    "doctor": (0, 1),  # of nitro-cli and the like, nothing is installed here
    "explain": (0, 1),  # 1: not proved, or something differs
    "explain --key": (0, 1),
    "audit": (0, 1),
    "-m conformance": (1,),  # the profiles do not exist: tests/conformance runs it
}
IMPORTED = ("CreateChangeSet", "DescribeChangeSet", "ExecuteChangeSet")


@dataclass(frozen=True)
class Documented:
    """One command on one page, its continuation lines joined."""

    page: str
    text: str

    @property
    def needs(self) -> str:
        """The account in which the command runs."""
        hosts = any(word in self.text for word in ("receive", "--host", "SharingBucket", "s3://"))
        owners = "bind_" in self.text
        return HOST if (hosts or self.page in HOSTS_PAGES) and not owners else OWNER

    @property
    def shape(self) -> str:
        """The command without its options' values: one of each shape is run."""
        if not self.text.startswith("application-encryptor"):
            return self.text
        words = self.text.split()
        options = sorted(word for word in words[2:] if word.startswith("-"))
        parameters = any("=" in word for word in words[2:])
        return " ".join([words[1], self.needs, *options, str(parameters)])


def documented() -> list[Documented]:
    """Return the commands in the pages' console blocks, one of each shape."""
    found: dict[str, Documented] = {}
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
            joined = re.sub(r"\\\n\s*", " ", block)
            for command in re.findall(r"^\s*\$ (.*)$", joined, re.MULTILINE):
                each = Documented(page.name, command)
                found.setdefault(each.shape, each)
    return list(found.values())


def name(command: Documented) -> str:
    """Return the name of the command's test, without "::", by which xdist groups tests."""
    return f"{command.page}: {command.text}".replace("::", ":")


COMMANDS = documented()


@dataclass(frozen=True)
class Desk:
    """A reader's working directory, and the emulator's ids for those on the pages."""

    folder: Path
    endpoint: Endpoint
    key: str
    bucket_key: str
    bucket: str

    def here(self, text: str) -> str:
        """Return a command with the pages' ids replaced by this emulator's."""
        replaced = {
            rf"arn:aws:kms:{REGION}:{OWNER}:key/(?:{ID}|1234abcd-…)": self.key,
            rf"arn:aws:kms:{REGION}:{HOST}:key/(?:{ID}|1234abcd-…)": self.bucket_key,
            r"<the key's ARN>": "alias/enclavekey",  # will be locked
            r"(--key) ARN": rf"\1 {self.key}",
            r"(--key-id) …": rf"\1 {self.key}",
            ID: self.key.rpartition("/")[2],
            rf"(?:me|acme)-code-bucket-{HOST}-{REGION}": self.bucket,
            r"s3://bucket/": f"s3://{self.bucket}/",
            r"<the key's region>": REGION,
            r"/mnt/large/": "large/",
            r"--stack code-for-them": "--stack my-application",
            r" …": "",
        }
        for pattern, value in replaced.items():
            text = re.sub(pattern, value, text)
        return text

    def run(self, command: Documented) -> subprocess.CompletedProcess[str]:
        """Run the command in a shell, and answer yes."""
        principal = account_root(command.needs)
        environment = self.endpoint.environment(principal, AWS_DEFAULT_REGION=REGION)
        environment["PATH"] = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        environment["ROOT"] = str(ROOT)
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", self.here(command.text)],
            cwd=self.folder,
            env=environment,
            input="y\n",
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def desk(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    owner, host = account_root(OWNER), account_root(HOST)
    sharing = {"ThirdPartyIdentifier": "acme", "ThirdPartyAWSAccountNumber": OWNER}
    shared = stacks.deploy(aws, host, "code-from-acme", SHARING_BUCKET, sharing, region=REGION)
    parameters = {
        **shared,
        "CodeCommitRepositoryName": "my-repository",
        "ApplicationCodeDirectoryName": "application",
        "EncryptionKeyAlias": "alias/my-application",
    }
    image = Image().written()
    bound = parameters | {"EnclaveImageSha384": "ab" * 48}
    outputs = stacks.deploy(aws, owner, "my-application", ENCRYPTOR, bound, region=REGION)
    write_files(folder, parameters, image)
    artifact = artifact_under(aws, owner, outputs["EnclaveKeyARN"])
    (folder / "application_code.zip.encrypted").write_bytes(artifact)
    s3 = aws.client(host, "s3", REGION)
    bucket = shared["ExternalBucketName"]
    digest = {"sha256": hashlib.sha256(artifact).hexdigest()}
    name = "encrypted/application_code.zip.encrypted"
    s3.put_object(Bucket=bucket, Key=name, Body=artifact, Metadata=digest)
    s3.put_object(Bucket=bucket, Key="name", Body=b"test")  # its SHA-256 is in an example
    key = aws.client(owner, "kms", REGION).create_key()["KeyMetadata"]["KeyId"]
    aws.client(owner, "kms", REGION).create_alias(AliasName="alias/enclavekey", TargetKeyId=key)
    with serve(aws) as endpoint, relay.serve() as preloaded:
        write_programs(folder / "bin", preloaded)
        play(endpoint)
        bucket_key = shared["ExternalBucketEncryptionKeyArn"]
        yield Desk(folder, endpoint, outputs["EnclaveKeyARN"], bucket_key, bucket)


def write_programs(folder: Path, preloaded: str) -> None:
    """Write the programs on a reader's PATH; ours are commands of *preloaded*."""
    folder.mkdir()
    python = (
        f'case "$1" in scripts/bind*) exec {preloaded} "$@" ;; '
        f'*) exec {sys.executable} "$@" ;; esac'
    )
    programs = {
        "application-encryptor": f'exec {preloaded} -m generator "$@"',
        "aws": f'exec {EMULATOR / "python"} {EMULATOR / "aws"} "$@"',
        "make": 'exec /usr/bin/make --dry-run -C "$ROOT" "$@"',
        **dict.fromkeys(("python", "python3", "python3.11"), python),
        **dict.fromkeys(FOREIGN, "cat >/dev/null; echo '[]'"),
        "terraform": "cat plan.json",
    }
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)


def write_files(folder: Path, parameters: dict[str, str], image: bytes) -> None:
    """Write the files that the pages mention."""
    for name in PROJECT_FOLDERS:
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "enclave", folder / "enclave")  # a command changes it
    (folder / ".venv/bin").mkdir(parents=True)
    for name in ("python", "application-encryptor"):
        (folder / ".venv/bin" / name).symlink_to(folder / "bin" / name)
    for name in ("application", "data", "large", "AWSLogs"):
        (folder / name).mkdir()
    (folder / "application/print-hello.py").write_text("print('hello')\n")
    for name in ("application.eif", "enclave.eif", "image.eif"):
        (folder / name).write_bytes(image)
    (folder / "old.eif").write_text("ab" * 48)  # bound already, so that it can be retired
    (folder / "pcr.json").write_text(json.dumps({"Measurements": {"PCR0": "ab" * 48}}))
    for name in ("my-application.json", "my.json"):
        (folder / name).write_text(json.dumps({"Parameters": parameters}))
    listed = [{"ParameterKey": name, "ParameterValue": each} for name, each in parameters.items()]
    (folder / "key-parameters.json").write_text(json.dumps(listed))
    for name in ("classic.yaml", "old.yaml", "new.yaml", "template.yaml"):
        shutil.copy(ENCRYPTOR, folder / name)
    (folder / "policy.json").write_text(json.dumps(POLICY))
    (folder / "plan.json").write_text(json.dumps(PLAN))
    page = (ROOT / "docs/security.md").read_text()
    (folder / "locked.json").write_text(page.partition("```json\n")[2].partition("```")[0])
    (folder / "AWSLogs/events.json").write_text(json.dumps({"Records": []}))


POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{HOST}:root"},
            "Action": "kms:PutKeyPolicy",
            "Resource": "*",
        }
    ],
}
PLAN = {
    "terraform_version": "1.9.0",
    "planned_values": {"root_module": {"resources": []}},
    "resource_changes": [],
}


def artifact_under(aws: Aws, owner: Credentials, key: str) -> bytes:
    """Return an artifact whose data key is encrypted under *key*."""
    kms = aws.client(owner, "kms", REGION)
    made = kms.generate_data_key(KeyId=key, KeySpec="AES_256")
    token = Fernet(base64.urlsafe_b64encode(made["Plaintext"])).encrypt(b"a zip")
    blob: bytes = made["CiphertextBlob"]
    return len(blob).to_bytes(4) + blob + token


def play(endpoint: Endpoint) -> None:
    """Play what the emulator does not do: builds, CodeCommit, CloudTrail."""
    stored = "stored: s3://bucket/encrypted/application_code.zip.encrypted"
    PlayedBuild([Step("DOWNLOAD_SOURCE"), Step("BUILD", lines=(stored,))]).install(endpoint)
    endpoint.played |= {
        "LookupEvents": lambda _: {"Events": []},
        "GetRepository": lambda _: {"repositoryMetadata": {"defaultBranch": "main"}},
        "GetFolder": lambda _: {"commitId": "0", "folderPath": "application"},
    }


def expected(text: str) -> tuple[int, ...]:
    found = [status for words, status in STATUSES.items() if words in text]
    return found[-1] if found else (0,)


@pytest.mark.parametrize("command", COMMANDS, ids=name)
def test_a_documented_command_runs(command: Documented, desk: Desk) -> None:
    if any(words in command.text for words in RUN_ELSEWHERE):
        return
    answers = dict(desk.endpoint.answers)
    if "--change-set" in command.text:  # the emulator does not import resources
        desk.endpoint.answers |= {name: RESPONSES[name] for name in IMPORTED}
    try:
        result = desk.run(command)
    finally:
        desk.endpoint.answers.clear()
        desk.endpoint.answers.update(answers)
    assert result.returncode in expected(command.text), result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert "usage:" not in result.stderr


RESPONSES = {
    name: f"<{name}Response><{name}Result><Id>adopt</Id><StackId>s</StackId>"
    f"<Status>CREATE_COMPLETE</Status></{name}Result></{name}Response>"
    for name in IMPORTED
}


def test_commands_tested_elsewhere_are_still_documented() -> None:
    for words, where in RUN_ELSEWHERE.items():
        assert any(words in command.text for command in COMMANDS)
        assert not where.startswith("tests/") or (ROOT / where).exists()


def test_template_for_an_import_contains_only_the_key(desk: Desk) -> None:
    command = next(each for each in COMMANDS if each.text.startswith("awk"))
    assert desk.run(command).returncode == 0
    from generator.reading import documents

    found = documents.read(desk.folder / "key-only.yaml")
    assert isinstance(found["Resources"], dict)
    assert list(found["Resources"]) == ["EnclaveKey"]
    assert "Outputs" not in found
