"""Where the build takes the application from: a source for each of the project's templates."""

from __future__ import annotations

import contextlib
import io
import zipfile
from typing import TYPE_CHECKING, Any, Final

from conformance.buckets import make_bucket
from conformance.run import Source
from conformance.step import DifferentError
from generator.parameters import (
    CODE_DIRECTORY,
    CONNECTION_ARN,
    CONNECTION_ENCRYPTOR_TEMPLATE,
    ENCRYPTOR_TEMPLATE,
    REPOSITORY_NAME,
    REPOSITORY_TYPE,
    REPOSITORY_URL,
    S3_ENCRYPTOR_TEMPLATE,
    SOURCE_BUCKET,
    SOURCE_KEY,
)
from generator.services import aws

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conformance.run import Run

DIRECTORY: Final = "application"
SCRIPT: Final = "print-hello.py"
HELLO: Final = "Hello from the enclave"
APPLICATION: Final = {
    f"{DIRECTORY}/{SCRIPT}": f'print("{HELLO}")\n'.encode(),
    f"{DIRECTORY}/weights/layer.bin": bytes(range(256)) * 64,
}
"""What is encrypted, where this program brings it to AWS: names in the source, contents."""
BRANCH: Final = "main"
ARCHIVE: Final = "application.zip"


@contextlib.contextmanager
def expecting(*codes: str) -> Iterator[None]:
    """Go on where AWS answers with one of *codes*."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if aws.code(error) not in codes:
            raise


# --- CodeCommit -------------------------------------------------------------------------------


def _make_repository(run: Run) -> str:
    codecommit = run.owner.client("codecommit")
    name = run.names.prefix
    with expecting("RepositoryNameExistsException"):
        codecommit.create_repository(repositoryName=name, tags=run.tags)
    if found := _repository_found(run):
        return found
    made = codecommit.create_commit(
        repositoryName=name,
        branchName=BRANCH,
        authorName="conformance",
        commitMessage="The application",
        putFiles=[
            {"filePath": path, "fileContent": content} for path, content in APPLICATION.items()
        ],
    )
    # A build takes the default branch; no CodeCommit page says that the first branch becomes it.
    codecommit.update_default_branch(repositoryName=name, defaultBranchName=BRANCH)
    return f"repository {name}, commit {made['commitId']}"


def _repository_found(run: Run) -> str | None:
    name = run.names.prefix
    with expecting("RepositoryDoesNotExistException", "BranchDoesNotExistException"):
        found = run.owner.client("codecommit").get_branch(repositoryName=name, branchName=BRANCH)
        return f"repository {name}, commit {found['branch']['commitId']}"
    return None


def codecommit() -> Source:
    """Return a new CodeCommit repository."""
    return Source(
        template=ENCRYPTOR_TEMPLATE,
        make=_make_repository,
        found=_repository_found,
        parameters=lambda run: {
            REPOSITORY_NAME.name: run.names.prefix,
            CODE_DIRECTORY.name: DIRECTORY,
        },
        application=_below(DIRECTORY),
    )


# --- S3 ---------------------------------------------------------------------------------------


def _bucket(run: Run) -> str:
    return f"{run.names.prefix}-source-{run.owner.number}"


def _make_archive(run: Run) -> str:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for path, content in APPLICATION.items():
            packed.writestr(path, content)
    make_bucket(run, run.owner, _bucket(run))
    run.owner.client("s3").put_object(Bucket=_bucket(run), Key=ARCHIVE, Body=archive.getvalue())
    return f"s3://{_bucket(run)}/{ARCHIVE}"


def _archive_found(run: Run) -> str | None:
    with expecting("404", "403", "NoSuchBucket", "NoSuchKey"):
        run.owner.client("s3").head_object(Bucket=_bucket(run), Key=ARCHIVE)
        return f"s3://{_bucket(run)}/{ARCHIVE}"
    return None


def s3() -> Source:
    """Return a new bucket with an archive of the application."""
    return Source(
        template=S3_ENCRYPTOR_TEMPLATE,
        make=_make_archive,
        found=_archive_found,
        parameters=lambda run: {
            SOURCE_BUCKET.name: _bucket(run),
            SOURCE_KEY.name: ARCHIVE,
            CODE_DIRECTORY.name: DIRECTORY,
        },
        application=_below(DIRECTORY),
    )


# --- A connection -----------------------------------------------------------------------------


def connection(arn: str, kind: str, url: str, directory: str) -> Source:
    """Return an existing repository behind an existing connection."""

    def available(run: Run) -> str:
        # The service was renamed once: an ARN's service is the client's name.
        service: Any = run.owner.client(arn.split(":")[2])
        found = service.get_connection(ConnectionArn=arn)["Connection"]
        answer = f"the connection is {found['ConnectionStatus']}"
        if found["ConnectionStatus"] != "AVAILABLE":
            raise DifferentError(f"{answer}: confirm it in the console")
        return answer

    return Source(
        template=CONNECTION_ENCRYPTOR_TEMPLATE,
        make=available,
        found=lambda _: None,
        parameters=lambda _: {
            REPOSITORY_TYPE.name: kind,
            REPOSITORY_URL.name: url,
            CONNECTION_ARN.name: arn,
            CODE_DIRECTORY.name: directory,
        },
        application=None,
    )


def _below(directory: str) -> dict[str, bytes]:
    """Return what the artifact must hold: names are relative to the directory."""
    return {path.removeprefix(f"{directory}/"): text for path, text in APPLICATION.items()}
