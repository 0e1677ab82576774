"""Both stacks: created within the services' limits, tagged, as the templates say, and deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from conformance.programs import PROJECT, verb
from conformance.removal import delete_stack, key_state, rest, stack_keys
from conformance.run import TAG
from conformance.sources import expecting
from conformance.step import DifferentError, differ, refused, step, until
from generator.limits import BUILDSPEC_MAX
from generator.parameters import (
    ENCLAVE_IMAGES,
    KEY_ALIAS,
    SHARING_TEMPLATE,
    THIRD_PARTY_ACCOUNT,
    THIRD_PARTY_IDENTIFIER,
)
from generator.services import stacks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from conformance.run import Party, Run

TEMPLATES: Final = PROJECT / "templates"
RETENTION_DAYS: Final = 365
QUEUE_MINUTES: Final = 60
UNFINISHED_DAYS: Final = 7
ZEROS: Final = "0" * 96
CREATED: Final = "CREATE_COMPLETE"
ROLLED_BACK: Final = "ROLLBACK_COMPLETE"


def _deploy(
    run: Run, party: Party, name: str, template: Path, parameters: Mapping[str, str]
) -> str:
    """Deploy a stack with the verb `deploy`, and return its status."""
    _, found = verb(
        *(party, "deploy", "--stack-name", name, "--template", template, "--yes"),
        *("--tag", f"{TAG}={run.id}"),
        *(f"{parameter}={value}" for parameter, value in parameters.items()),
    )
    run.facts[name] = found["outputs"]
    return f"{found['status']}, {len(template.read_bytes()):,} bytes of template"


def _found(side: str, stack: str) -> Callable[[Run], str | None]:
    def found(run: Run) -> str | None:
        party, name = getattr(run, side), getattr(run.names, stack)
        rest(party.client("cloudformation"), name)  # a killed run's deployment may continue
        there = run.stack(party, name)
        return there and f"{there['StackStatus']}, created before"

    return found


@step("the host's stack is created", found=_found("host", "host_bucket"))
def host_bucket(run: Run) -> str:
    """The host deploys the bucket's template."""
    parameters = {
        THIRD_PARTY_IDENTIFIER.name: run.names.prefix,
        THIRD_PARTY_ACCOUNT.name: run.owner.number,
    }
    return _deploy(
        *(run, run.host, run.names.host_bucket, TEMPLATES / SHARING_TEMPLATE, parameters)
    )


@step(
    "default encryption under the stack's key with a bucket key, ACLs disabled, every version "
    f"kept, unfinished uploads removed after {UNFINISHED_DAYS} days",
    host_bucket,
)
def bucket_settings(run: Run) -> str:
    """The host's bucket has the settings that the template gives it."""
    s3, name = run.host.client("s3"), {"Bucket": run.shared["ExternalBucketName"]}
    rules = s3.get_bucket_encryption(**name)["ServerSideEncryptionConfiguration"]["Rules"]
    default = rules[0]["ApplyServerSideEncryptionByDefault"]
    kept = s3.get_bucket_versioning(**name).get("Status")
    owner = s3.get_bucket_ownership_controls(**name)["OwnershipControls"]["Rules"]
    unfinished = [
        rule.get("AbortIncompleteMultipartUpload", {}).get("DaysAfterInitiation")
        for rule in s3.get_bucket_lifecycle_configuration(**name)["Rules"]
    ]
    facts = {
        "encryption": default.get("SSEAlgorithm") == "aws:kms",
        "key": default.get("KMSMasterKeyID") == run.shared["ExternalBucketEncryptionKeyArn"],
        "bucket key": rules[0].get("BucketKeyEnabled") is True,
        "versions": kept == "Enabled",
        "ownership": owner[0]["ObjectOwnership"] == "BucketOwnerEnforced",
        "unfinished uploads": unfinished == [UNFINISHED_DAYS],
    }
    differ([f"{name} is not as the template says" for name, right in facts.items() if not right])
    return ", ".join(facts)


@step("the application is stored", found=lambda run: run.source.found(run))
def source(run: Run) -> str:
    """The owner brings an application to where the build takes it from."""
    return run.source.make(run)


def _encryptor_parameters(run: Run) -> dict[str, str]:
    return {**run.source.parameters(run), **run.shared, KEY_ALIAS.name: run.names.alias}


@step(
    f"the owner's stack is created, its buildspec within {BUILDSPEC_MAX:,} characters",
    *(host_bucket, source),
    found=_found("owner", "owner_stack"),
)
def owner_stack(run: Run) -> str:
    """The owner deploys the encryptor's template with the host's outputs."""
    template = TEMPLATES / run.source.template
    parameters = _encryptor_parameters(run)
    made = _deploy(run, run.owner, run.names.owner_stack, template, parameters)
    return f"{made}, {len(run.project['source']['buildspec']):,} characters of buildspec"


@step(f"the log group of the stack, {QUEUE_MINUTES} minutes in the queue", owner_stack)
def project_settings(run: Run) -> str:
    """The CodeBuild project has the settings that the template gives it."""
    project = run.project
    log = project.get("logsConfig", {}).get("cloudWatchLogs", {})
    group, minutes = log.get("groupName"), project.get("queuedTimeoutInMinutes")
    problems = [] if group == log_group(run) else [f"the log group is {group}"]
    problems += [] if minutes == QUEUE_MINUTES else [f"{minutes} minutes in the queue"]
    differ(problems)
    return f"{group}, {minutes} minutes"


def log_group(run: Run) -> str:
    """Return the name of the builds' log group."""
    return f"/aws/codebuild/{run.encryptor['ProjectName']}"


@step("the stacks' tag is on both KMS keys", owner_stack)
def tags(run: Run) -> str:
    """CloudFormation puts a stack's tags on the keys, which outlive it."""
    keys = {
        run.encryptor["EnclaveKeyARN"]: run.owner,
        run.shared["ExternalBucketEncryptionKeyArn"]: run.host,
    }
    problems = []
    for key, party in keys.items():
        found = party.client("kms").list_resource_tags(KeyId=key)["Tags"]
        if {"TagKey": TAG, "TagValue": run.id} not in found:
            problems.append(f"{key} has {found or 'no tags'}")
    differ(problems)
    return f"{TAG} on both"


@step("ValidationError: zeros are refused in a list with another image, too", owner_stack)
def zeros(run: Run) -> str:
    """Somebody binds the PCR0 of an enclave in debug mode, together with another."""
    cloudformation = run.owner.client("cloudformation")
    stack = cloudformation.describe_stacks(StackName=run.names.owner_stack)["Stacks"][0]
    kept = [
        {"ParameterKey": name, "UsePreviousValue": True}
        for name in stacks.parameters(stack)
        if name != ENCLAVE_IMAGES.name
    ]
    images = {"ParameterKey": ENCLAVE_IMAGES.name, "ParameterValue": f"{run.image},{ZEROS}"}
    name = f"{run.names.prefix}-zeros"

    def propose() -> None:
        # A change set changes nothing: whatever AWS answers, zeros are never bound.
        made = cloudformation.create_change_set(
            StackName=run.names.owner_stack,
            ChangeSetName=name,
            UsePreviousTemplate=True,
            Parameters=[*kept, images],
            Capabilities=["CAPABILITY_IAM"],
        )
        cloudformation.delete_change_set(ChangeSetName=made["Id"])

    return refused(propose, "ValidationError", because=ENCLAVE_IMAGES.name)


@step("the second stack rolls back, and its key is deleted with it", owner_stack)
def alias_taken(run: Run) -> str:
    """A second stack uses an alias that is taken."""
    cloudformation = run.owner.client("cloudformation")
    parameters = _encryptor_parameters(run)
    stack_id = cloudformation.create_stack(
        StackName=run.names.second_stack,
        TemplateBody=(TEMPLATES / run.source.template).read_text(encoding="utf-8"),
        Parameters=[
            {"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()
        ],
        Capabilities=["CAPABILITY_IAM"],
        Tags=[{"Key": TAG, "Value": run.id}],
    )["StackId"]
    status = rest(cloudformation, stack_id)
    keys = stack_keys(cloudformation, stack_id)
    states = [key_state(run.owner.client("kms"), key)[0] for key in keys]
    why = stacks.first_failure(cloudformation, stack_id, None) if status != CREATED else "no reason"
    delete_stack(cloudformation, {"StackName": run.names.second_stack, "StackId": stack_id})
    problems = [] if status == ROLLED_BACK else [f"the stack is {status}: {why}"]
    kept = [state for state in states if state not in (None, "PendingDeletion")]
    problems += [f"its key is {state}" for state in kept]
    problems += (
        [] if "already exists" in why or problems else [f"it failed for another reason: {why}"]
    )
    differ(problems)
    return f"{status}, {why}; its key is {states[0] if states else 'not created'}"


@step(
    "the stack is deleted; its key stays enabled, alias, project, role and log group go",
    owner_stack,
)
def deletion(run: Run) -> str:
    """The owner deletes the stack, not the key."""
    cloudformation, key = run.owner.client("cloudformation"), run.encryptor["EnclaveKeyARN"]
    project, group = run.project, log_group(run)
    stack = cloudformation.describe_stacks(StackName=run.names.owner_stack)["Stacks"][0]
    delete_stack(cloudformation, stack)
    state, _ = key_state(run.owner.client("kms"), key)
    problems = [] if state == "Enabled" else [f"the key is {state}"]
    left: list[str] = []

    def gone() -> bool:  # to all of IAM's and CodeBuild's servers
        left[:] = _left(run, key, project, group)
        return not left

    until(run, gone)
    problems += [f"{what} is left" for what in left]
    differ(problems)
    return f"the key is {state}, all else is gone"


def _left(run: Run, key: str, project: Any, group: str) -> list[str]:  # noqa: ANN401 - boto3's
    """Return what of the deleted stack is still there, besides the key."""
    left = []
    if run.owner.client("kms").list_aliases(KeyId=key)["Aliases"]:
        left.append("the alias")
    codebuild = run.owner.client("codebuild")
    if codebuild.batch_get_projects(names=[project["name"]])["projects"]:
        left.append("the project")
    with expecting("NoSuchEntity"):
        run.owner.client("iam").get_role(RoleName=project["serviceRole"].rpartition("/")[2])
        left.append("the role")
    if find_log_group(run, group):
        left.append("the log group")
    return left


def find_log_group(run: Run, name: str) -> Any:  # noqa: ANN401 - boto3's
    """Return the description of a log group of the owner's, None if there is none."""
    logs = run.owner.client("logs")
    groups = logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    return next((group for group in groups if group["logGroupName"] == name), None)


def require_whole(found: Any, what: str) -> Any:  # noqa: ANN401 - boto3's
    """Return *found* unless it is nothing.

    Raises:
        DifferentError: it is nothing.
    """
    if not found:
        raise DifferentError(f"{what} does not exist")
    return found
