"""Checks of what the code owner needs before a deployment and a build."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from generator.doctor.checks import Context, Finding, fix, look, ok, program
from generator.parameters import (
    BUCKET_KEY,
    BUCKET_NAME,
    CODE_DIRECTORY,
    COMPUTE_TYPE,
    DISK_GB,
    HOST_ACCOUNT,
    KEY_ALIAS,
    PARENT_ROLE,
    REPOSITORY_NAME,
    SOURCE_BUCKET,
    SOURCE_KEY,
)
from generator.services import aws, stacks

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS_MAX: Final = 100
"""How many of the account's keys are checked for the stack that made them: one request each."""
DISK_SHARES: Final = (7, 3)
"""Disk that source and artifact need together, as a fraction of the source's size."""
GIGABYTE: Final = 10**9
HOSTS_OUTPUTS: Final = "compare it with the outputs of the host's stack"
NOT_THERE: Final = ("FolderDoesNotExistException", "CommitDoesNotExistException")
GONE: Final = ("404", "NoSuchBucket", "NotFound")


def stack(context: Context) -> Iterator[Finding]:
    """Report the stack's state, and whether it can be deployed."""
    from generator.commands.deploy import BUSY, LEFT_BY_FAILURE

    found = stacks.find(context.client("cloudformation"), context.stack_name)
    status = found["StackStatus"] if found else None
    name = f"stack {context.stack_name}"
    if found is None or status == stacks.REVIEWED:
        yield ok("stack", f"{name} does not exist yet")
    elif status in LEFT_BY_FAILURE:
        delete = f"aws cloudformation delete-stack --stack-name {context.stack_name}"
        yield fix("stack", f"{name} is {status} after a failure", f"delete it: {delete}")
    elif str(status).endswith(BUSY):
        yield fix("stack", f"{name} is {status}", "wait until that has finished")
    else:
        yield ok("stack", f"{name} is {status}")


def parameters(context: Context) -> Iterator[Finding]:
    """Check that the template accepts the parameters."""
    from generator.parameters import encryptor_parameters, source_of
    from generator.services import parameter_values

    declared: dict[str, dict[str, Any]] = {
        each.name: {
            "Type": each.type,
            "AllowedPattern": each.pattern,
            "ConstraintDescription": each.constraint,
            **({} if each.default is None else {"Default": each.default}),
        }
        for each in encryptor_parameters(source_of(context.parameters))
    }
    parameter_values.check(declared, context.parameters, ())
    yield ok("parameters", f"{len(context.parameters)} given, including all required ones")


def host_account(context: Context) -> Iterator[Finding]:
    """Check that the host is another account, and that it owns the bucket's key."""
    host, key = (context.parameters.get(each.name) for each in (HOST_ACCOUNT, BUCKET_KEY))
    if not host:
        return
    if host == context.identity.get("account"):
        yield look("host account", f"{host} is your own account, so you would be the host")
    if key and aws.region_of(key):
        account = key.split(":")[4]
        if account != host:
            text = f"{BUCKET_KEY.name} is a key of account {account}, not of the host's {host}"
            yield fix("host account", text, HOSTS_OUTPUTS)
        else:
            yield ok("host account", f"{host} owns the bucket's key")


def bucket(context: Context) -> Iterator[Finding]:
    """Check that the host's bucket exists, is owned by the host, and is in its key's region."""
    name, host, key = (
        context.parameters.get(each.name) for each in (BUCKET_NAME, HOST_ACCOUNT, BUCKET_KEY)
    )
    if not name:
        return
    key_region = aws.region_of(key)
    s3 = context.client("s3", key_region)
    answer, code = _head(s3, Bucket=name, **({"ExpectedBucketOwner": host} if host else {}))
    if code == "403" and host:
        # Either another account owns the bucket, or its policy does not allow this request.
        answer, code = _head(s3, Bucket=name)
        if code is None:
            yield fix("bucket", f"{name} is not owned by account {host}", HOSTS_OUTPUTS)
            return
    if code in GONE:
        yield fix("bucket", f"{name} does not exist", HOSTS_OUTPUTS)
        return
    if code is None:
        yield ok("bucket", f"{name} exists{f' and is owned by account {host}' if host else ''}")
    else:
        text = f"{name} exists; its policy does not allow us to check that account {host} owns it"
        todo = "ask the host to run doctor --host; the build refuses any other owner's bucket"
        yield look("bucket", text, todo)
    headers: dict[str, str] = answer["ResponseMetadata"]["HTTPHeaders"]
    region = headers.get("x-amz-bucket-region")
    if region and key_region and region != key_region:
        text = f"{name} is in {region} and its key in {key_region}, but S3 needs both in one region"
        yield fix("bucket", text, HOSTS_OUTPUTS)


def _head(s3: Any, **bucket: str) -> tuple[Any, str | None]:  # noqa: ANN401 - boto3's
    """Return S3's response to HeadBucket, and the error code if it is a refusal.

    Raises:
        botocore.exceptions.ClientError: the request failed for another reason.
    """
    from botocore.exceptions import ClientError

    try:
        return s3.head_bucket(**bucket), None
    except ClientError as error:
        if aws.code(error) not in (*GONE, "403"):
            raise
        return error.response, aws.code(error)


def alias(context: Context) -> Iterator[Finding]:
    """Check that the key's alias is free, or belongs to the stack."""
    from botocore.exceptions import ClientError

    name = context.parameters.get(KEY_ALIAS.name, KEY_ALIAS.default or "")
    own = context.outputs.get("EnclaveKeyARN")
    try:
        key = context.client("kms").describe_key(KeyId=name)["KeyMetadata"]["Arn"]
    except ClientError as error:
        if aws.code(error) != "NotFoundException":
            raise
        yield ok("alias", f"{name} is free")
        return
    if key == own:
        yield ok("alias", f"{name} belongs to the stack")
    else:
        todo = f"choose another {KEY_ALIAS.name}, or delete the alias"
        yield fix("alias", f"{name} is taken by {key}", todo)


def retained_key(context: Context) -> Iterator[Finding]:
    """Report keys that a deleted stack of this name left: its artifacts still need them."""
    if context.outputs:
        return
    kms = context.client("kms")
    keys = (each for page in kms.get_paginator("list_keys").paginate() for each in page["Keys"])
    for key in islice(keys, KEYS_MAX):
        tags = {
            tag["TagKey"]: tag["TagValue"]
            for tag in kms.list_resource_tags(KeyId=key["KeyId"]).get("Tags", [])
        }
        if tags.get("aws:cloudformation:stack-name") == context.stack_name:
            text = f"{key['KeyArn']} was retained when a stack {context.stack_name} was deleted"
            yield look(
                *("retained key", text),
                "a new stack creates a new key; to continue with this one, import it into the "
                "stack (aws cloudformation create-change-set --change-set-type IMPORT)",
            )


def repository(context: Context) -> Iterator[Finding]:
    """Check that the repository has a default branch, and that branch the directory."""
    from botocore.exceptions import ClientError

    name = context.parameters.get(REPOSITORY_NAME.name)
    if not name:
        return
    codecommit = context.client("codecommit")
    try:
        found = codecommit.get_repository(repositoryName=name)["repositoryMetadata"]
    except ClientError as error:
        if aws.code(error) != "RepositoryDoesNotExistException":
            raise
        text = f"{name} does not exist in {context.account.region}"
        yield fix("repository", text, f"correct {REPOSITORY_NAME.name}, or create the repository")
        return
    branch = found.get("defaultBranch")
    if not branch:
        yield fix("repository", f"{name} is empty", "push the application to it")
        return
    yield ok("repository", f"{name} exists; its default branch is {branch}")
    directory = context.parameters.get(CODE_DIRECTORY.name)
    if not directory:
        return
    try:
        codecommit.get_folder(repositoryName=name, folderPath=directory, commitSpecifier=branch)
    except ClientError as error:
        if aws.code(error) not in NOT_THERE:
            raise
        todo = f"correct {CODE_DIRECTORY.name}, or push the directory"
        yield fix("directory", f"{directory} is not on {branch}", todo)
    else:
        yield ok("directory", f"{directory} is on {branch}")


def source_in_s3(context: Context) -> Iterator[Finding]:
    """Check that the source in S3 exists, and fits on the build's disk."""
    from botocore.exceptions import ClientError

    bucket, key = (context.parameters.get(each.name) for each in (SOURCE_BUCKET, SOURCE_KEY))
    if not bucket or not key:
        return
    s3 = context.client("s3")
    try:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        sizes = [each["Size"] for page in pages for each in page.get("Contents", ())]
    except ClientError as error:
        if aws.code(error) != "NoSuchBucket":
            raise
        yield fix("source", f"bucket {bucket} does not exist", f"correct {SOURCE_BUCKET.name}")
        return
    if not sizes:
        text = f"no object in {bucket} has a key that begins with {key}"
        yield fix("source", text, f"correct {SOURCE_KEY.name}")
        return
    machine = context.parameters.get(COMPUTE_TYPE.name, COMPUTE_TYPE.default or "")
    needed = sum(sizes) * DISK_SHARES[0] // DISK_SHARES[1] / GIGABYTE
    text = (
        f"{len(sizes):,} objects, {sum(sizes):,} bytes, need {needed:,.1f} GB of the build's disk"
    )
    if needed > DISK_GB.get(machine, needed):
        todo = f"choose a larger {COMPUTE_TYPE.name}"
        yield fix("source", f"{text}; {machine} has {DISK_GB[machine]} GB", todo)
    else:
        yield ok("source", text)


def parent_role(context: Context) -> Iterator[Finding]:
    """Point out what only the host can check."""
    name = context.parameters.get(PARENT_ROLE.name)
    if name:
        text = f"role {name} must exist in the host's account before you deploy, or KMS refuses it"
        yield look("parent role", text, f"ask the host to run doctor --host {PARENT_ROLE.name}=…")


def project(context: Context) -> Iterator[Finding]:
    """Check that the stack's project and its role exist."""
    from botocore.exceptions import ClientError

    name = context.outputs.get("ProjectName")
    if not name:
        return
    deploy = "deploy the stack again"
    found = context.client("codebuild").batch_get_projects(names=[name])["projects"]
    if not found:
        yield fix("project", f"{name} does not exist", deploy)
        return
    role = found[0]["serviceRole"].rpartition("/")[2]
    try:
        context.client("iam").get_role(RoleName=role)
    except ClientError as error:
        if aws.code(error) != "NoSuchEntity":
            raise
        yield fix("project", f"{name} uses the role {role}, which does not exist", deploy)
        return
    yield ok("project", f"{name} exists and uses the role {role}")


def tools(_: Context) -> Iterator[Finding]:
    """Check that the programs are installed that the documentation's commands use."""
    yield from program("aws", "the documentation uses it", "install the AWS CLI v2")
    yield from program("git", "it pushes the application to the repository", "install git")


CHECKS: Final = (
    *(stack, parameters, host_account, bucket, alias, retained_key),
    *(repository, source_in_s3, parent_role, project, tools),
)
