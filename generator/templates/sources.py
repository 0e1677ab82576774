"""The sources of an application: permissions and the project's settings for each.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-properties-codebuild-project-source.html
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from awacs.aws import Statement
from troposphere import Ref, Sub, codebuild

from generator import parameters
from generator.templates import policies

CLONE_DEPTH = 1
"""Commits: nobody needs the history."""


@dataclass(frozen=True)
class ApplicationSource:
    """What differs between the templates.

    ``members`` are those of the project's ``Source``, except its buildspec.
    """

    file_name: str
    permissions: Callable[[], list[Statement]]
    members: Callable[[], Mapping[str, object]]


def _pull() -> list[Statement]:
    repository = f"${{AWS::Region}}:${{AWS::AccountId}}:${{{parameters.REPOSITORY_NAME.name}}}"
    return [policies.pull_source(Sub(f"arn:${{AWS::Partition}}:codecommit:{repository}"))]


def _codecommit() -> Mapping[str, object]:
    repository = f"v1/repos/${{{parameters.REPOSITORY_NAME.name}}}"
    host = "git-codecommit.${AWS::Region}.${AWS::URLSuffix}"
    location = Sub(f"https://{host}/{repository}")
    return {"Type": "CODECOMMIT", "Location": location, "GitCloneDepth": CLONE_DEPTH}


def _read() -> list[Statement]:
    bucket, key = parameters.SOURCE_BUCKET.name, parameters.SOURCE_KEY.name
    arn = f"arn:${{AWS::Partition}}:s3:::${{{bucket}}}"
    return [
        policies.read_source(Sub(f"{arn}/${{{key}}}*")),
        policies.list_source(Sub(arn), Sub(f"${{{key}}}*")),
    ]


def _s3() -> Mapping[str, object]:
    bucket, key = parameters.SOURCE_BUCKET.name, parameters.SOURCE_KEY.name
    return {"Type": "S3", "Location": Sub(f"${{{bucket}}}/${{{key}}}")}


def _ask() -> list[Statement]:
    return [policies.use_connection(Ref(parameters.CONNECTION_ARN.name))]


def _connection() -> Mapping[str, object]:
    auth = codebuild.SourceAuth(
        Type="CODECONNECTIONS", Resource=Ref(parameters.CONNECTION_ARN.name)
    )
    auth.no_validation()  # troposphere accepts only OAUTH
    return {
        "Type": Ref(parameters.REPOSITORY_TYPE.name),
        "Location": Ref(parameters.REPOSITORY_URL.name),
        "Auth": auth,
        "GitCloneDepth": CLONE_DEPTH,
    }


SOURCES = {
    "codecommit": ApplicationSource(parameters.ENCRYPTOR_TEMPLATE, _pull, _codecommit),
    "s3": ApplicationSource(parameters.S3_ENCRYPTOR_TEMPLATE, _read, _s3),
    "connection": ApplicationSource(parameters.CONNECTION_ENCRYPTOR_TEMPLATE, _ask, _connection),
}
"""By the names that `render --source` takes."""
