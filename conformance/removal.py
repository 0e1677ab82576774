"""Removes what a run has created, in both accounts, even if the run failed.

What to remove is looked up on AWS each time: stacks and KMS keys are found by the run's tag, all
else by names, which contain the run's id. So a killed run is removed like one that ended.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from conformance.buckets import remove_bucket
from conformance.run import OWNER, TAG, Names
from conformance.step import said, tell
from generator.errors import GeneratorError
from generator.services import aws

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conformance.run import Party

POLL_SECONDS: Final = 3
STACK_SECONDS: Final = 30 * 60
PENDING_DAYS: Final = 7
"""The shortest time for which KMS keeps a key that is to be deleted.

Source: https://docs.aws.amazon.com/kms/latest/APIReference/API_ScheduleKeyDeletion.html
"""
GONE: Final = "DELETE_COMPLETE"
REVIEWED: Final = "REVIEW_IN_PROGRESS"
KEY_TYPE: Final = "AWS::KMS::Key"
NO_KEY: Final = ("NotFoundException", "KMSInvalidStateException")


@dataclass
class Removal:
    """What was removed, what waits for its deletion, and what could not be removed."""

    removed: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def attempt(self, what: str, action: Callable[[], object]) -> None:
        """Do *action*, which removes *what*; a failure is noted, and the rest is still removed."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            action()
        except (BotoCoreError, ClientError, GeneratorError) as error:
            self.failed.append(f"{what}: {said(error)}")
            tell(f"  not removed: {self.failed[-1]}")
        else:
            self.removed.append(what)
            tell(f"  removed: {what}")


def remove(run: str, parties: tuple[Party, Party]) -> Removal:
    """Remove all that the run with that id has made."""
    removal = Removal()
    for party in parties:
        cleaner = _Cleaner(party, Names.of(run), run, removal)
        # In this order: a build that continues would store an artifact in the emptied bucket, and
        # only a stack that still exists shows which keys are its own.
        for find in (
            cleaner.builds,
            cleaner.stacks,
            cleaner.projects,
            cleaner.keys,
            cleaner.buckets,
            cleaner.roles,
            cleaner.logs,
            cleaner.repository,
        ):
            what = f"{party.side}: {find.__name__}"
            _each(removal, what, find)
    return removal


def _each(
    removal: Removal, kind: str, find: Callable[[], Iterator[tuple[str, Callable[[], object]]]]
) -> None:
    """Remove each thing that *find* yields; if AWS refuses to list them, note that."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        for what, action in find():
            removal.attempt(what, action)
    except (BotoCoreError, ClientError) as error:
        removal.failed.append(f"{kind}: {said(error)}")
        tell(f"  not removed: {removal.failed[-1]}")


@dataclass
class _Cleaner:
    """Finds what a run has made in one account: yields each thing, and how it is removed."""

    party: Party
    names: Names
    run: str
    removal: Removal
    _keys: set[str] = field(default_factory=set)

    @property
    def _prefix(self) -> str:
        return f"{self.names.prefix}-"

    def builds(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield the builds that are still running."""
        codebuild = self.party.client("codebuild")
        for project in self._projects():
            ids = codebuild.list_builds_for_project(projectName=project)["ids"][:100]
            for build in codebuild.batch_get_builds(ids=ids)["builds"] if ids else []:
                if build["buildStatus"] == "IN_PROGRESS":
                    stop = _later(codebuild.stop_build, id=build["id"])
                    yield f"build {build['id']}", stop

    def stacks(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield the stacks; their keys, which they retain, are remembered."""
        cloudformation = self.party.client("cloudformation")
        found = [
            stack
            for page in cloudformation.get_paginator("describe_stacks").paginate()
            for stack in page["Stacks"]
            if stack["StackName"].startswith(self._prefix) and stack["StackStatus"] != GONE
            if {"Key": TAG, "Value": self.run} in stack.get("Tags", [])
        ]
        for stack in found:
            self._keys |= stack_keys(cloudformation, stack["StackId"])
            yield f"stack {stack['StackName']}", _later(delete_stack, cloudformation, stack)

    def projects(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield the CodeBuild projects of no stack."""
        codebuild = self.party.client("codebuild")
        for project in self._projects():
            yield f"project {project}", _later(codebuild.delete_project, name=project)

    def _projects(self) -> list[str]:
        codebuild = self.party.client("codebuild")
        pages = codebuild.get_paginator("list_projects").paginate()
        names = [name for page in pages for name in page["projects"]]
        return [name for name in names if name.startswith(self._prefix)]

    def keys(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield the KMS keys that do not wait for their deletion yet."""
        tagging = self.party.client("resourcegroupstaggingapi")
        pages = tagging.get_paginator("get_resources").paginate(
            TagFilters=[{"Key": TAG, "Values": [self.run]}], ResourceTypeFilters=["kms:key"]
        )
        arns = {each["ResourceARN"] for page in pages for each in page["ResourceTagMappingList"]}
        kms = self.party.client("kms")
        # A stack names its key by the id, which an ARN ends with.
        for key in sorted(self._keys | {arn.rpartition("/")[2] for arn in arns}):
            state, date = key_state(kms, key)
            if state == "PendingDeletion":
                self._pending(key, date)
            elif state:
                yield (
                    f"KMS key {key}, which is now pending deletion",
                    _later(self._schedule, key),
                )

    def _schedule(self, key: str) -> None:
        kms = self.party.client("kms")
        answer = kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=PENDING_DAYS)
        self._pending(key, answer.get("DeletionDate"))

    def _pending(self, key: str, date: Any) -> None:  # noqa: ANN401 - boto3's
        when = f" on {date:%Y-%m-%d}" if date else ""
        self.removal.pending.append(f"KMS key {key}, {self.party.side}: will be deleted{when}")

    def buckets(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield the buckets, with whatever is in them."""
        s3 = self.party.client("s3")
        for bucket in s3.list_buckets()["Buckets"]:
            if bucket["Name"].startswith(self._prefix):
                yield f"bucket {bucket['Name']}", _later(remove_bucket, s3, bucket["Name"])

    def roles(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield the roles, below a path of the run's own."""
        iam = self.party.client("iam")
        pages = iam.get_paginator("list_roles").paginate(PathPrefix=self.names.role_path)
        for name in [role["RoleName"] for page in pages for role in page["Roles"]]:
            yield f"role {name}", _later(_remove_role, iam, name)

    def logs(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield the builds' log groups that no stack has removed."""
        logs = self.party.client("logs")
        prefix = f"/aws/codebuild/{self._prefix}"
        for group in logs.describe_log_groups(logGroupNamePrefix=prefix)["logGroups"]:
            name = group["logGroupName"]
            yield f"log group {name}", _later(logs.delete_log_group, logGroupName=name)

    def repository(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield the owner's CodeCommit repository."""
        from botocore.exceptions import ClientError, EndpointConnectionError

        if self.party.side != OWNER:
            return
        codecommit, name = self.party.client("codecommit"), self.names.prefix
        try:
            codecommit.get_repository(repositoryName=name)
        except EndpointConnectionError:  # not every region has CodeCommit
            return
        except ClientError as error:
            if aws.code(error) == "RepositoryDoesNotExistException":
                return
            raise
        yield f"repository {name}", _later(codecommit.delete_repository, repositoryName=name)


def _later(call: Callable[..., object], *values: Any, **named: Any) -> Callable[[], object]:  # noqa: ANN401
    """Return *call* with its arguments, for later: a loop's variable has changed by then."""
    return lambda: call(*values, **named)


def key_state(kms: Any, key: str) -> tuple[str | None, Any]:  # noqa: ANN401 - boto3's
    """Return a key's state, None if there is no such key, and when it is deleted."""
    from botocore.exceptions import ClientError

    try:
        found = kms.describe_key(KeyId=key)["KeyMetadata"]
    except ClientError as error:
        if aws.code(error) not in NO_KEY:
            raise
        return None, None
    return found["KeyState"], found.get("DeletionDate")


def stack_keys(cloudformation: Any, stack: str) -> set[str]:  # noqa: ANN401 - boto3's
    """Return the ids of the KMS keys that a stack has made."""
    pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack)
    return {
        each["PhysicalResourceId"]
        for page in pages
        for each in page["StackResourceSummaries"]
        if each["ResourceType"] == KEY_TYPE and each.get("PhysicalResourceId")
    }


def delete_stack(cloudformation: Any, stack: Any) -> None:  # noqa: ANN401 - boto3's
    """Delete a stack, as soon as nothing else happens to it, and wait until it is gone.

    Raises:
        GeneratorError: it is not gone in the end.
    """
    name, stack_id = stack["StackName"], stack["StackId"]
    rest(cloudformation, stack_id)
    cloudformation.delete_stack(StackName=stack_id)
    status = rest(cloudformation, stack_id)
    if status != GONE:
        raise GeneratorError(f"stack {name}: is {status}: see its events, then remove it again")


def rest(cloudformation: Any, stack: str) -> str:  # noqa: ANN401 - boto3's
    """Wait until nothing happens to a stack any longer, and return its status.

    Raises:
        GeneratorError: it takes longer than any stack of this project should.
    """
    from botocore.exceptions import ClientError

    deadline = time.monotonic() + STACK_SECONDS
    while True:
        try:
            status: str = cloudformation.describe_stacks(StackName=stack)["Stacks"][0][
                "StackStatus"
            ]
        except ClientError as error:
            if "does not exist" in said(error):
                return GONE
            raise
        # A change set that was never executed leaves a stack in review: nothing happens to it.
        if status == REVIEWED or not status.endswith("_IN_PROGRESS"):
            return status
        if time.monotonic() >= deadline:
            raise GeneratorError(f"stack {stack}: has been {status} for too long: see its events")
        time.sleep(POLL_SECONDS)


def _remove_role(iam: Any, name: str) -> None:  # noqa: ANN401 - boto3's
    """Delete a role and what it holds."""
    for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    iam.delete_role(RoleName=name)
