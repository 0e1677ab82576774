"""doctor: finds what would make a deployment, build or enclave fail, and says what to do."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from rehearsal.aws import ENCRYPTOR, REGION, SHARING_BUCKET, TRUST_ANYBODY, account_root
from tests.support import stacks
from tests.support.endpoint import Refused
from tests.support.example import PARAMETERS
from tests.support.verb import assert_one_line, run

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rehearsal.aws import Aws, Credentials
    from tests.support.endpoint import Endpoint

STACK = "my-application"


def say(name: str, text: str) -> str:
    return f"#!/bin/sh\n[ $# = 1 ] && [ $1 = --version ] && echo '{text}' # {name}\n"


class Examined:
    """A caller of doctor: an account, and a machine with some programs."""

    def __init__(self, endpoint: Endpoint, principal: Credentials, folder: Path) -> None:
        """Put the required programs on PATH, and play CodeCommit."""
        self.endpoint = endpoint
        self.programs = folder / "bin"
        self.programs.mkdir()
        for name, text in (("aws", "aws-cli/2.31.0"), ("git", "git version 2.47.3")):
            self.install(name, text)
        self.environment = endpoint.environment(principal, PATH=f"{self.programs}:/usr/bin:/bin")
        endpoint.played["GetRepository"] = lambda request: {
            "repositoryMetadata": {**request, "defaultBranch": "main"}
        }
        endpoint.played["GetFolder"] = lambda request: {
            "commitId": "0123",
            "folderPath": request["folderPath"],
        }

    def install(self, name: str, text: str) -> None:
        """Put a program on PATH that prints its version."""
        program = self.programs / name
        program.write_text(say(name, text))
        program.chmod(0o755)

    def findings(self, *arguments: str, status: int, **parameters: str) -> dict[str, str]:
        """Return doctor's result for each check: ok, look or fix, and why."""
        said: dict[str, str] = {}
        for each in self.checks(*arguments, status=status, **parameters):
            line = ": ".join(filter(None, (each["status"], each["text"], each["todo"])))
            said[each["name"]] = f"{said[each['name']]} | {line}" if each["name"] in said else line
        return said

    def checks(self, *arguments: str, status: int, **parameters: str) -> list[dict[str, str]]:
        """Return the checks as doctor prints them in JSON."""
        result = self.run(*arguments, "--format", "json", **parameters)
        assert result.stderr == ""
        found = json.loads(result.stdout)
        assert (result.returncode, found["ok"]) == (status, status == 0)
        checks: list[dict[str, str]] = found["checks"]
        return checks

    def run(self, *arguments: str, **parameters: str) -> subprocess.CompletedProcess[str]:
        """Run doctor for the stack with these parameters."""
        given = [f"{name}={value}" for name, value in parameters.items()]
        command = ("doctor", "--stack-name", STACK, *arguments, *given)
        return run(*command, environment=self.environment)

    def assert_text_is_the_same(self, *arguments: str, status: int, **parameters: str) -> None:
        """Assert that doctor prints as text what it prints as JSON."""
        text = self.run(*arguments, **parameters)
        assert (text.returncode, text.stderr) == (status, ""), text
        for each in self.checks(*arguments, status=status, **parameters):
            assert f"{each['status']:<5} {each['name']:<13} " in text.stdout


@pytest.fixture
def owners(endpoint: Endpoint, owner: Credentials, tmp_path: Path) -> Examined:
    return Examined(endpoint, owner, tmp_path)


@pytest.fixture
def shared(aws: Aws, owner: Credentials, host: Credentials) -> dict[str, str]:
    """Deploy the host's bucket; return the owner's parameters for it."""
    parameters = {"ThirdPartyIdentifier": "acme", "ThirdPartyAWSAccountNumber": owner.access_key_id}
    return PARAMETERS | stacks.deploy(aws, host, "sharing", SHARING_BUCKET, parameters)


@pytest.fixture(scope="module")
def open_bucket_of_a_stranger(aws: Aws) -> None:
    s3 = aws.client(account_root("333333333333"), "s3")
    name = "a-bucket-of-somebody-else"
    location = {"LocationConstraint": REGION}
    s3.create_bucket(Bucket=name, CreateBucketConfiguration=location)
    s3.delete_public_access_block(Bucket=name)
    everybody = {"Effect": "Allow", "Principal": "*", "Action": "s3:ListBucket"}
    statement = {**everybody, "Resource": f"arn:aws:s3:::{name}"}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    s3.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))


def test_everything_is_ok_before_a_deployment(owners: Examined, shared: dict[str, str]) -> None:
    found = owners.findings(status=0, **shared)
    assert found["credentials"].startswith("ok: account 1")
    assert found["stack"] == f"ok: stack {STACK} does not exist yet"
    assert found["alias"] == "ok: alias/enclavekey is free"
    assert found["repository"] == "ok: enclave-application exists; its default branch is main"
    assert found["directory"] == "ok: application is on main"
    assert found["bucket"].startswith(("ok: ", "look: "))
    assert found["aws"] == "ok: aws-cli/2.31.0"
    owners.assert_text_is_the_same(status=0, **shared)


def test_parameters_are_read_from_a_deployed_stack(
    aws: Aws, owner: Credentials, owners: Examined, shared: dict[str, str]
) -> None:
    stacks.deploy(aws, owner, STACK, ENCRYPTOR, shared)
    found = owners.findings(status=0)
    assert found["stack"] == f"ok: stack {STACK} is CREATE_COMPLETE"
    assert found["alias"] == "ok: alias/enclavekey belongs to the stack"
    assert found["project"].startswith(
        f"ok: {STACK}-ApplicationEncryptor exists and uses the role "
    )


def refuse(code: str) -> Callable[[dict[str, Any]], Any]:
    def answer(_: dict[str, Any]) -> None:
        raise Refused(code)

    return answer


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        pytest.param(
            {"ExternalBucketAWSAccountNumber": "333333333333"},
            *("host account", "not of the host's 333333333333: compare it with the outputs"),
            id="the-key-is-somebody-elses",
        ),
        pytest.param(
            {"ExternalBucketName": "no-such-bucket-anywhere"},
            *("bucket", "no-such-bucket-anywhere does not exist: compare it with the outputs"),
            id="no-bucket",
        ),
        pytest.param(
            {"ExternalBucketName": "a-bucket-of-somebody-else"},
            *("bucket", "a-bucket-of-somebody-else is not owned by account"),
            id="somebody-elses-bucket",
        ),
        pytest.param(
            {"ExternalBucketPath": "/a"}, "parameters", "/a is not allowed", id="a-wrong-parameter"
        ),
        pytest.param(
            {"ParentInstanceRoleName": "parent"},
            *("parent role", "look: role parent must exist in the host's account"),
            id="a-role-that-only-the-host-sees",
        ),
    ],
)
@pytest.mark.usefixtures("open_bucket_of_a_stranger")
def test_wrong_parameters_are_found(
    change: dict[str, str],
    name: str,
    words: str,
    owners: Examined,
    shared: dict[str, str],
) -> None:
    found = owners.findings(status=int("look: " not in words), **(shared | change))
    assert words in found[name]


@pytest.mark.parametrize(
    ("operation", "answer", "name", "words"),
    [
        pytest.param(
            *("GetRepository", refuse("RepositoryDoesNotExistException"), "repository"),
            "fix: enclave-application does not exist in eu-central-1: correct CodeCommit",
            id="no-repository",
        ),
        pytest.param(
            *("GetRepository", lambda _: {"repositoryMetadata": {}}, "repository"),
            "fix: enclave-application is empty: push the application to it",
            id="an-empty-repository",
        ),
        pytest.param(
            *("GetFolder", refuse("FolderDoesNotExistException"), "directory"),
            "fix: application is not on main: correct ApplicationCodeDirectoryName",
            id="no-directory",
        ),
        pytest.param(
            *("GetRepository", refuse("AccessDeniedException"), "repository"),
            "look: cannot be determined: GetRepository: AccessDeniedException: ",
            id="not-allowed-to-look",
        ),
        pytest.param(
            *("GetRepository", refuse("ThrottlingException"), "repository"),
            "look: cannot be determined: GetRepository: ThrottlingException: Rate exceeded: AWS is",
            id="throttled",
        ),
    ],
)
def test_problems_of_the_source_are_found(  # noqa: PLR0913, PLR0917 - a table's columns
    operation: str,
    answer: Callable[[dict[str, Any]], Any],
    name: str,
    words: str,
    owners: Examined,
    shared: dict[str, str],
) -> None:
    owners.endpoint.played[operation] = answer
    assert owners.findings(status=int(words.startswith("fix")), **shared)[name].startswith(words)


S3_SOURCE = {
    "ApplicationSourceBucketName": "weights-of-a-doctors-test",
    "ApplicationSourceKey": "models/v1/",
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({}, "ok: 2 objects, 3,000 bytes, need 0.0 GB of the build's disk", id="good"),
        pytest.param(
            {"ApplicationSourceKey": "models/v2/"},
            "fix: no object in weights-of-a-doctors-test has a key that begins with models/v2/: co",
            id="no-such-prefix",
        ),
        pytest.param(
            {"ApplicationSourceBucketName": "no-bucket-of-mine"},
            "fix: bucket no-bucket-of-mine does not exist: correct ApplicationSourceBucketName",
            id="no-such-bucket",
        ),
    ],
)
def test_source_in_s3_is_checked(  # noqa: PLR0913, PLR0917 - a table's columns
    change: dict[str, str],
    words: str,
    aws: Aws,
    owner: Credentials,
    owners: Examined,
    shared: dict[str, str],
) -> None:
    s3 = aws.client(owner, "s3")
    location = {"LocationConstraint": REGION}
    bucket = S3_SOURCE["ApplicationSourceBucketName"] + owner.access_key_id
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=location)
    for name, size in (("models/v1/app/a", 1000), ("models/v1/app/b", 2000)):
        s3.put_object(Bucket=bucket, Key=name, Body=bytes(size))
    given = {**shared, **S3_SOURCE, "ApplicationSourceBucketName": bucket, **change}
    del given["CodeCommitRepositoryName"]
    found = owners.findings(status=int(words.startswith("fix")), **given)
    assert found["source"].startswith(words.replace("weights-of-a-doctors-test", bucket))
    assert "repository" not in found


def test_source_too_large_for_the_build_disk_is_found(
    owners: Examined, shared: dict[str, str]
) -> None:
    given = {**shared, **S3_SOURCE}
    del given["CodeCommitRepositoryName"]
    # S3's listing of 30 GB, so that the emulator need not store them.
    listed = (
        "<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated><Contents>"
        "<Key>models/v1/app/weights</Key><Size>30000000000</Size></Contents></ListBucketResult>"
    )
    owners.endpoint.answers["GET bucket"] = listed
    assert owners.findings(status=1, **given)["source"] == (
        "fix: 1 objects, 30,000,000,000 bytes, need 70.0 GB of the build's disk; "
        "BUILD_GENERAL1_SMALL has 64 GB: choose a larger BuildComputeType"
    )
    larger = {**given, "BuildComputeType": "BUILD_GENERAL1_MEDIUM"}
    assert owners.findings(status=0, **larger)["source"].startswith("ok: ")


def test_a_taken_alias_and_a_retained_key_are_found(
    aws: Aws, owner: Credentials, owners: Examined, shared: dict[str, str]
) -> None:
    key = stacks.deploy(aws, owner, STACK, ENCRYPTOR, shared)["EnclaveKeyARN"]
    stacks.delete(aws, owner, STACK)
    found = owners.findings(status=0, **shared)
    assert found["retained key"].startswith(
        f"look: {key} was retained when a stack {STACK} was deleted: "
    )
    kms = aws.client(owner, "kms")
    kms.create_alias(AliasName="alias/enclavekey", TargetKeyId=key)
    found = owners.findings(status=1, **shared)
    assert found["alias"] == (
        f"fix: alias/enclavekey is taken by {key}: choose another EncryptionKeyAlias, or delete "
        "the alias"
    )


def test_a_stack_left_by_a_failure_is_found(
    aws: Aws, owner: Credentials, owners: Examined, shared: dict[str, str]
) -> None:
    kms = aws.client(owner, "kms")
    taken = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/enclavekey", TargetKeyId=taken)
    with contextlib.suppress(Exception):
        stacks.deploy(aws, owner, STACK, ENCRYPTOR, shared)
    assert "ROLLBACK_COMPLETE" in owners.findings(status=1)["stack"]


# --- the host's side --------------------------------------------------------------------------


class Instance:
    """The metadata service of an instance: IMDSv2, and IMDSv1 where it is allowed."""

    def __init__(self, role: str | None, *, tokens: bool) -> None:
        """Give the instance a *role*; with *tokens*, require IMDSv2."""
        self.role, self.tokens, self.url = role, tokens, ""

    def answer(self, method: str, path: str, token: str | None) -> tuple[int, str]:
        """Answer one request."""
        if (method, path) == ("PUT", "/latest/api/token"):
            return 200, "token"
        if token != "token" and self.tokens:  # noqa: S105 - the test's own
            return 401, ""
        if path == "/latest/meta-data/iam/security-credentials/":
            return (200, self.role) if self.role else (404, "")
        return 200, "i-123456789abcde123"


@contextlib.contextmanager
def serving(instance: Instance) -> Iterator[Instance]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            token = self.headers.get("X-aws-ec2-metadata-token")
            status, text = instance.answer(self.command, self.path, token)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PUT = answer  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        instance.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield instance
        finally:
            server.shutdown()


@pytest.fixture
def hosts(
    aws: Aws, endpoint: Endpoint, owner: Credentials, host: Credentials, tmp_path: Path
) -> Examined:
    """Return the host on a correctly configured parent instance."""
    examined = Examined(endpoint, host, tmp_path)
    parameters = {"ThirdPartyIdentifier": "acme", "ThirdPartyAWSAccountNumber": owner.access_key_id}
    stacks.deploy(aws, host, STACK, SHARING_BUCKET, parameters)
    aws.client(host, "iam").create_role(RoleName="parent", AssumeRolePolicyDocument=TRUST_ANYBODY)
    examined.install("nitro-cli", "Nitro CLI 1.4.2")
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "allocator.yaml").write_text("---\nmemory_mib: 4096\ncpu_count: 2\n")
    (etc / "vsock-proxy.yaml").write_text(
        f"allowlist:\n- {{address: kms.{REGION}.amazonaws.com, port: 443}}\n"
    )
    return examined


ROLE = {"ParentInstanceRoleName": "parent"}


def test_everything_is_ok_on_a_parent_instance(
    hosts: Examined, aws: Aws, host: Credentials, tmp_path: Path
) -> None:
    key = f"arn:aws:kms:{REGION}:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    policy = {"Statement": [{"Effect": "Allow", "Action": "kms:Decrypt", "Resource": key}]}
    aws.client(host, "iam").put_role_policy(
        RoleName="parent",
        PolicyName="p",
        PolicyDocument=json.dumps({"Version": "2012-10-17", **policy}),
    )
    image = tmp_path / "application.eif"
    image.write_bytes(bytes(1 << 20))
    with serving(Instance("parent", tokens=True)) as instance:
        del hosts.environment["AWS_EC2_METADATA_DISABLED"]
        hosts.environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = instance.url
        etc = ("--etc", str(tmp_path / "etc"), "--key", key, "--image", str(image))
        found = hosts.findings("--host", *etc, status=0, **ROLE)
    assert {each.partition(":")[0] for each in found.values()} == {"ok"}
    assert found["instance"] == "ok: has the role parent"
    assert found["IMDSv2"] == "ok: is required"
    assert found["nitro-cli"] == "ok: Nitro CLI 1.4.2"
    assert found["permission"].startswith("ok: parent may call kms:Decrypt on arn:")
    assert "4096 MiB and 2 CPUs" in found["allocator"]


def test_missing_programs_and_files_are_reported_with_a_remedy(
    hosts: Examined, tmp_path: Path
) -> None:
    (hosts.programs / "nitro-cli").unlink()
    found = hosts.findings(
        *("--host", "--etc", str(tmp_path / "absent")), status=1, ParentInstanceRoleName="nobody"
    )
    assert "sudo dnf install aws-nitro-enclaves-cli" in found["nitro-cli"]
    assert "allocator.yaml does not exist: sudo dnf install" in found["allocator"]
    assert "vsock-proxy.yaml does not exist: sudo dnf install" in found["vsock-proxy"]
    assert "nobody does not exist in this account: create it" in found["parent role"]
    assert found["instance"].startswith("look: its metadata service is disabled")
    hosts.assert_text_is_the_same("--host", status=1, ParentInstanceRoleName="nobody")


def test_misspelled_name_of_the_stack_is_reported(hosts: Examined, tmp_path: Path) -> None:
    options = ("--host", "--etc", str(tmp_path / "etc"), "--stack-name", "misspelled")
    found = hosts.findings(*options, status=0, **ROLE)
    assert "look: misspelled does not exist in this account and region" in found["stack"]
    assert found["bucket"] == "look: its name is not known: pass ExternalBucketName=…"


def test_incomplete_configuration_is_found(hosts: Examined, tmp_path: Path) -> None:
    for name in ("allocator.yaml", "vsock-proxy.yaml"):
        (tmp_path / "etc" / name).write_text("---\n")
    found = hosts.findings("--host", "--etc", str(tmp_path / "etc"), status=1, **ROLE)
    assert "has no memory_mib" in found["allocator"]
    assert f"add - {{address: kms.{REGION}.amazonaws.com, port: 443}}" in found["vsock-proxy"]


@pytest.mark.parametrize(
    ("instance", "name", "words", "status"),
    [
        pytest.param(
            *(Instance(None, tokens=True), "instance", "fix: the instance has no role", 1),
            id="no-role",
        ),
        pytest.param(
            *(Instance("other", tokens=True), "instance", "which this instance does not have", 1),
            id="another-role",
        ),
        pytest.param(
            *(Instance("parent", tokens=False), "IMDSv2", "look: is not required", 0), id="IMDSv1"
        ),
    ],
)
def test_role_and_metadata_service_of_the_instance_are_checked(  # noqa: PLR0913, PLR0917 - a table's columns
    instance: Instance, name: str, words: str, status: int, hosts: Examined, tmp_path: Path
) -> None:
    with serving(instance):
        del hosts.environment["AWS_EC2_METADATA_DISABLED"]
        hosts.environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = instance.url
        etc = ("--host", "--etc", str(tmp_path / "etc"))
        assert words in hosts.findings(*etc, status=status, **ROLE)[name]


def test_wrong_path_of_a_role_is_found(hosts: Examined, tmp_path: Path) -> None:
    etc = ("--host", "--etc", str(tmp_path / "etc"))
    found = hosts.findings(*etc, status=1, ParentInstanceRoleName="enclaves/parent")
    assert "the role's path and name are parent, not enclaves/parent" in found["parent role"]


def test_image_that_needs_more_memory_is_reported(hosts: Examined, tmp_path: Path) -> None:
    image = tmp_path / "large.eif"
    with image.open("wb") as file:
        file.truncate(2 << 30)
    options = ("--host", "--etc", str(tmp_path / "etc"), "--image", str(image))
    assert "set memory_mib to at least 8192" in hosts.findings(*options, status=1)["allocator"]


@pytest.mark.parametrize("code", ["ExpiredToken", "AccessDenied", "Throttling"])
def test_invalid_credentials_are_one_line_error(code: str, owners: Examined) -> None:
    owners.endpoint.refusals["GetCallerIdentity"] = code
    result = run("doctor", environment=owners.environment)
    assert_one_line(result, f"error: credentials: GetCallerIdentity: {code}: ")


def test_parameters_file_may_be_missing(owners: Examined) -> None:
    result = run("doctor", "--parameters", "absent.json", environment=owners.environment)
    assert "ok    credentials" in result.stdout
    assert result.stderr == (
        "absent.json does not exist yet: the first deploy with --parameters writes it\n"
    )
