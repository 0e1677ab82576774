"""What the code's owner needs before a deployment and a build."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from generator import aws, stacks
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

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS_MAX: Final = 100
"""Keys of an account that are asked for the stack that made them: a request each."""
DISK_SHARES: Final = (7, 3)
"""What source and artifact together need of the build's disk, in thirds of the source's size."""
GIGABYTE: Final = 10**9
HOSTS_OUTPUTS: Final = "compare with the outputs of the host's stack"
NOT_THERE: Final = ("FolderDoesNotExistException", "CommitDoesNotExistException")
GONE: Final = ("404", "NoSuchBucket", "NotFound")


def stack(context: Context) -> Iterator[Finding]:
    """Say whether the stack is there and rests."""
    from generator.commands.deploy import BUSY, LEFT_BY_FAILURE

    found = stacks.find(context.client("cloudformation"), context.stack_name)
    status = found["StackStatus"] if found else None
    name = f"stack {context.stack_name}"
    if found is None or status == stacks.REVIEWED:
        yield ok("stack", f"{name} does not exist yet")
    elif status in LEFT_BY_FAILURE:
        delete = f"aws cloudformation delete-stack --stack-name {context.stack_name}"
        yield fix("stack", f"{name} is {status}, left by a failure", f"delete it: {delete}")
    elif str(status).endswith(BUSY):
        yield fix("stack", f"{name} is {status}", "wait until it rests")
    else:
        yield ok("stack", f"{name} is {status}")


def parameters(context: Context) -> Iterator[Finding]:
    """Say whether the template would take the parameters."""
    from generator import wishes
    from generator.parameters import encryptor_parameters, source_of

    declared: dict[str, dict[str, Any]] = {
        each.name: {
            "Type": each.type,
            "AllowedPattern": each.pattern,
            "ConstraintDescription": each.constraint,
            **({} if each.default is None else {"Default": each.default}),
        }
        for each in encryptor_parameters(source_of(context.parameters))
    }
    wishes.check(declared, context.parameters, ())
    yield ok("parameters", f"{len(context.parameters)} given, all mandatory ones among them")


def host_account(context: Context) -> Iterator[Finding]:
    """Say whether the host is somebody else, and the bucket's key theirs."""
    host, key = (context.parameters.get(each.name) for each in (HOST_ACCOUNT, BUCKET_KEY))
    if not host:
        return
    if host == context.identity.get("account"):
        yield look("host account", f"{host} is your own account: the host would be yourself")
    if key and aws.region_of(key):
        account = key.split(":")[4]
        if account != host:
            text = f"{BUCKET_KEY.name} is a key of account {account}, not of the host's {host}"
            yield fix("host account", text, HOSTS_OUTPUTS)
        else:
            yield ok("host account", f"{host} owns the bucket's key")


def bucket(context: Context) -> Iterator[Finding]:
    """Say whether the host's bucket is there, theirs, and in its key's region."""
    name, host, key = (
        context.parameters.get(each.name) for each in (BUCKET_NAME, HOST_ACCOUNT, BUCKET_KEY)
    )
    if not name:
        return
    key_region = aws.region_of(key)
    s3 = context.client("s3", key_region)
    answer, code = _head(s3, Bucket=name, **({"ExpectedBucketOwner": host} if host else {}))
    if code == "403" and host:
        # Either the owner is another, or the bucket's policy lets nobody from here look.
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
        text = f"{name} exists; whether account {host} owns it, its policy keeps from this account"
        yield look("bucket", text, "the build refuses any other owner; the host: doctor --host")
    headers: dict[str, str] = answer["ResponseMetadata"]["HTTPHeaders"]
    region = headers.get("x-amz-bucket-region")
    if region and key_region and region != key_region:
        text = f"{name} is in {region}, its key in {key_region}: S3 takes only a key of its region"
        yield fix("bucket", text, HOSTS_OUTPUTS)


def _head(s3: Any, **bucket: str) -> tuple[Any, str | None]:  # noqa: ANN401 - boto3's
    """Ask whether a bucket is there; the answer, and the code if it is a refusal.

    Raises:
        botocore.exceptions.ClientError: it could not be asked.
    """
    from botocore.exceptions import ClientError

    try:
        return s3.head_bucket(**bucket), None
    except ClientError as error:
        if aws.code(error) not in (*GONE, "403"):
            raise
        return error.response, aws.code(error)


def alias(context: Context) -> Iterator[Finding]:
    """Say whether the key's alias is free, or the stack's own."""
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
        yield ok("alias", f"{name} is the stack's own")
    else:
        todo = f"choose another {KEY_ALIAS.name}, or delete the alias"
        yield fix("alias", f"{name} is taken by {key}", todo)


def retained_key(context: Context) -> Iterator[Finding]:
    """Say whether a former stack of this name has left its key: its artifacts need it."""
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
            text = f"{key['KeyArn']} was left by a former stack {context.stack_name}"
            yield look(
                *("retained key", text),
                "a new stack makes a new key; to go on with this one, import it into the stack "
                "(aws cloudformation create-change-set --change-set-type IMPORT)",
            )


def repository(context: Context) -> Iterator[Finding]:
    """Say whether the repository has a branch, and on it the directory."""
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
        yield fix("repository", text, f"correct {REPOSITORY_NAME.name}, or create it")
        return
    branch = found.get("defaultBranch")
    if not branch:
        yield fix("repository", f"{name} is empty", "push the application to it")
        return
    yield ok("repository", f"{name}, its default branch is {branch}")
    directory = context.parameters.get(CODE_DIRECTORY.name)
    if not directory:
        return
    try:
        codecommit.get_folder(repositoryName=name, folderPath=directory, commitSpecifier=branch)
    except ClientError as error:
        if aws.code(error) not in NOT_THERE:
            raise
        todo = f"correct {CODE_DIRECTORY.name}, or push it"
        yield fix("directory", f"{directory} is not on {branch}", todo)
    else:
        yield ok("directory", f"{directory} is on {branch}")


def source_in_s3(context: Context) -> Iterator[Finding]:
    """Say whether the source in S3 is there, and small enough for the disk of the build."""
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
        yield fix("source", f"nothing in {bucket} begins with {key}", f"correct {SOURCE_KEY.name}")
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
    """Say what only the host can see."""
    name = context.parameters.get(PARENT_ROLE.name)
    if name:
        text = f"role {name} must exist in the host's account before you deploy: KMS checks"
        yield look("parent role", text, "the host: doctor --host ParentInstanceRoleName=…")


def project(context: Context) -> Iterator[Finding]:
    """Say whether the stack's project and its role are there."""
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
        yield fix("project", f"{name} builds as role {role}, which does not exist", deploy)
        return
    yield ok("project", f"{name} builds as role {role}")


def tools(_: Context) -> Iterator[Finding]:
    """Say which programs are there that the documentation's commands use."""
    yield from program("aws", "as the documentation's commands need", "install the AWS CLI v2")
    yield from program("git", "to push the application", "install git")


CHECKS: Final = (
    *(stack, parameters, host_account, bucket, alias, retained_key),
    *(repository, source_in_s3, parent_role, project, tools),
)
