"""The parts of AWS that a conformance run needs and the emulator lacks, served in front of it.

CodeCommit is a folder of git repositories; CodeBuild runs a build by `rehearsal.build` as soon as
StartBuild is called, after evaluating the role's trust policy; KMS's Decrypt is `rehearsal.kms`;
settings that the emulator's CloudFormation drops are returned as deployed.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from rehearsal.aws import Credentials, RehearsalError
from rehearsal.build import publish, start_build
from rehearsal.kms import Kms, KmsError
from tests.support.endpoint import Refused

if TYPE_CHECKING:
    from pathlib import Path

    from rehearsal.attestation import Authority
    from rehearsal.aws import Aws
    from tests.support.endpoint import Endpoint, Exchange

COMMIT = "0123456789abcdef0123456789abcdef01234567"
IMAGE = {"python": "3.13.12", "pip": "26.0.1", "bash": "5.2.15(1)-release", "disk": "63900000000"}
"""What a build prints about CodeBuild's image, which is not available here."""
ENCRYPTION = """\
<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault>
<SSEAlgorithm>aws:kms</SSEAlgorithm><KMSMasterKeyID>{key}</KMSMasterKeyID>
</ApplyServerSideEncryptionByDefault><BucketKeyEnabled>true</BucketKeyEnabled></Rule>
</ServerSideEncryptionConfiguration>"""
LIFECYCLE = """\
<LifecycleConfiguration><Rule><ID>RemoveUnfinishedUploads</ID><Status>Enabled</Status>
<Filter><Prefix></Prefix></Filter><AbortIncompleteMultipartUpload>
<DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>
</LifecycleConfiguration>"""


@dataclass
class Build:
    """A started build, as BatchGetBuilds describes it."""

    id: str
    project: str
    status: str = "IN_PROGRESS"
    phase: str = "BUILD"
    message: str = ""

    def described(self) -> dict[str, Any]:
        """Return the build as the API describes it."""
        ended = self.status != "IN_PROGRESS"
        state = self.status if ended else "IN_PROGRESS"
        contexts = [{"statusCode": "", "message": self.message}] if self.message else []
        return {
            "id": self.id,
            "projectName": self.project,
            "buildStatus": self.status,
            "currentPhase": "COMPLETED" if ended else self.phase,
            "phases": [{"phaseType": self.phase, "phaseStatus": state, "contexts": contexts}],
            "logs": {
                "groupName": f"/aws/codebuild/{self.project}",
                "streamName": self.id.partition(":")[2],
            },
            "resolvedSourceVersion": COMMIT,
        }


@dataclass
class Amazon:
    """The missing services of both accounts, in front of the emulator."""

    aws: Aws
    endpoint: Endpoint
    kms: Kms
    authority: Authority
    """The attestation authority that KMS trusts."""
    folder: Path
    interpreter: Path
    """The folder with the Python of builds."""
    owner: Credentials
    host: Credentials
    repositories: dict[str, str] = field(default_factory=dict)
    builds: dict[str, Build] = field(default_factory=dict)
    image: dict[str, str] = field(default_factory=lambda: dict(IMAGE))
    settings: dict[str, str] = field(default_factory=dict)
    """Responses about the host's bucket, by operation."""
    trusts: Any = None
    """Whether CodeBuild may assume a role for a project, instead of the trust policy."""

    def install(self) -> None:
        """Respond at the endpoint as AWS does, and remove planted differences."""
        self.image, self.trusts = dict(IMAGE), None
        self.endpoint.before = {}
        self.endpoint.rewritten = {}
        self.endpoint.refusals = {}
        self.endpoint.answers = {"GET bucket lifecycle": LIFECYCLE, **self.settings}
        self.endpoint.played = {
            "CreateRepository": self._create_repository,
            "GetRepository": self._get_repository,
            "DeleteRepository": self._delete_repository,
            "GetBranch": self._get_branch,
            "CreateCommit": self._commit,
            "UpdateDefaultBranch": lambda _: {},
            "StartBuild": self._start_build,
            "BatchGetBuilds": self._get_builds,
            "ListBuildsForProject": self._list_builds,
            "StopBuild": self._stop_build,
        }
        self.endpoint.signed = {"Decrypt": self.decrypt}
        self.endpoint.altered = {
            "AssumeRole": self._remember_session,
            "BatchGetProjects": _settings_of_projects,
            "DescribeStacks": self._remember_bucket_key,
        }

    # --- CodeCommit ---------------------------------------------------------------------------

    def _create_repository(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["repositoryName"]
        if name in self.repositories:
            raise Refused("RepositoryNameExistsException")
        self.repositories[name] = ""
        return {"repositoryMetadata": {"repositoryName": name}}

    def _get_repository(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["repositoryName"]
        if name not in self.repositories:
            raise Refused("RepositoryDoesNotExistException")
        return {"repositoryMetadata": {"repositoryName": name}}

    def _delete_repository(self, request: dict[str, Any]) -> dict[str, Any]:
        del self.repositories[request["repositoryName"]]
        return {"repositoryId": str(uuid.uuid4())}

    def _get_branch(self, request: dict[str, Any]) -> dict[str, Any]:
        self._get_repository(request)
        if not self.repositories[request["repositoryName"]]:
            raise Refused("BranchDoesNotExistException")
        return {"branch": {"branchName": request["branchName"], "commitId": COMMIT}}

    def _commit(self, request: dict[str, Any]) -> dict[str, Any]:
        from base64 import b64decode

        name = request["repositoryName"]
        checkout = self.folder / f"checkout-{name}"
        for each in request["putFiles"]:
            file = checkout / each["filePath"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b64decode(each["fileContent"]))
        publish(checkout, self.folder, name)
        self.repositories[name] = COMMIT
        return {"commitId": COMMIT, "treeId": COMMIT}

    # --- CodeBuild ----------------------------------------------------------------------------

    def _start_build(self, request: dict[str, Any]) -> dict[str, Any]:
        project = request["projectName"]
        build = Build(f"{project}:{uuid.uuid4()}", project)
        self.builds[build.id] = build
        role, trusted = self._role(project)
        if not (self.trusts(project) if self.trusts else trusted):
            build.status, build.phase = "FAILED", "SUBMITTED"
            build.message = (
                f"ACCESS_DENIED: CodeBuild is not authorized to perform: sts:AssumeRole on {role}"
            )
        elif project.endswith("-other"):
            build.status = "SUCCEEDED"
        elif "buildspecOverride" in request:
            self._log(build, [f"image fact {name} {text}" for name, text in self.image.items()])
            build.status = "SUCCEEDED"
        else:
            threading.Thread(target=self._run, args=(build,), daemon=True).start()
        return {"build": build.described()}

    def _role(self, project: str) -> tuple[str, bool]:
        """Return the project's role, and whether its policy trusts CodeBuild for that project."""
        client = self.aws.client(self.owner, "codebuild")
        found = client.batch_get_projects(names=[project])["projects"][0]
        role = found["serviceRole"]
        iam = self.aws.client(self.owner, "iam")
        policy = iam.get_role(RoleName=role.rpartition("/")[2])["Role"]["AssumeRolePolicyDocument"]
        conditions = policy["Statement"][0]["Condition"]
        return role, conditions["ArnEquals"]["aws:SourceArn"] == found["arn"]

    def _run(self, build: Build) -> None:
        try:
            ran = start_build(
                *(self.aws, self.owner, build.project, self.folder), interpreter=self.interpreter
            )
        except RehearsalError as error:
            build.message, build.status = str(error), "FAULT"
            return
        self._log(build, ran.log.splitlines())
        build.status = "SUCCEEDED" if ran.succeeded else "FAILED"

    def _log(self, build: Build, lines: list[str]) -> None:
        logs = self.aws.client(self.owner, "logs")
        where = build.described()["logs"]
        stream = {"logGroupName": where["groupName"], "logStreamName": where["streamName"]}
        logs.create_log_stream(**stream)
        now = int(time.time() * 1000)
        events = [{"timestamp": now, "message": f"{line}\n"} for line in lines]
        logs.put_log_events(**stream, logEvents=events)

    def _get_builds(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"builds": [self.builds[build].described() for build in request["ids"]]}

    def _list_builds(self, request: dict[str, Any]) -> dict[str, Any]:
        project = request["projectName"]
        return {"ids": [each.id for each in self.builds.values() if each.project == project]}

    def _stop_build(self, request: dict[str, Any]) -> dict[str, Any]:
        build = self.builds[request["id"]]
        build.status = "STOPPED"
        return {"build": build.described()}

    # --- KMS ----------------------------------------------------------------------------------

    def decrypt(self, headers: dict[str, str], body: bytes) -> dict[str, str]:
        """Respond with the rehearsal's KMS, which supports cross-account keys and attestation."""
        try:
            return self.kms.answer(headers, body)
        except KmsError as error:
            raise Refused(error.code, str(error)) from error

    def _remember_session(self, exchange: Exchange) -> None:
        """Make an assumed role's session known to the rehearsal's KMS."""
        role = parse_qs(exchange.body.decode())["RoleArn"][0]
        found = {
            name: _element(exchange.content, name)
            for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")
        }
        if found["AccessKeyId"]:
            self.kms.know(Credentials(*found.values()), role, "conformance")

    # --- Settings -----------------------------------------------------------------------------

    def _remember_bucket_key(self, exchange: Exchange) -> None:
        """Respond with the bucket's default encryption once its stack names the key."""
        key = re.search(rb"arn:aws:kms:[a-z0-9-]+:(\d{12}):key/[0-9a-f-]+", exchange.content)
        if key and key[1].decode() == self.host.access_key_id:
            answer = ENCRYPTION.format(key=key[0].decode())
            self.settings["GET bucket encryption"] = answer
            self.endpoint.answers.setdefault("GET bucket encryption", answer)


def _element(content: bytes, name: str) -> str:
    found = re.search(rf"<{name}>([^<]*)</{name}>".encode(), content)
    return found[1].decode() if found else ""


def _settings_of_projects(exchange: Exchange) -> None:
    """Add the project settings that the emulator does not keep."""
    answer = json.loads(exchange.content)
    for project in answer.get("projects", []):
        group = {"status": "ENABLED", "groupName": f"/aws/codebuild/{project['name']}"}
        project |= {"logsConfig": {"cloudWatchLogs": group}, "queuedTimeoutInMinutes": 60}
    exchange.content = json.dumps(answer).encode()
