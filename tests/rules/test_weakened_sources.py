"""The templates for other sources: no findings as rendered, and one for each weakness."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from generator.reading.documents import read
from tests.rules.conftest import NOT_ABOUT_KEYS, judged
from tests.rules.test_weakened_builds import permit, project, statement
from tests.support.paths import PROJECT

if TYPE_CHECKING:
    from tests.rules.test_weakened_builds import Template, Weaken

S3 = "Deploy-ApplicationEncryptor-S3-Cfn"
CONNECTION = "Deploy-ApplicationEncryptor-Connection-Cfn"


def source(**members: Any) -> Weaken:  # noqa: ANN401 - any member
    return lambda template: project(template)["Source"].update(members)


def resource(sid: str, text: str) -> Weaken:
    return lambda template: statement(template, sid).update(Resource=[{"Fn::Sub": text}])


def parameter(name: str, **members: str) -> Weaken:
    def weaken(template: Template) -> None:
        declared = template["Parameters"][name]
        declared.update(members)
        if "Default" not in members:
            del declared["AllowedPattern"]

    return weaken


AUTH = {"Type": "CODECONNECTIONS", "Resource": {"Ref": "ConnectionArn"}}
WEAKENED: dict[str, tuple[str, str, Weaken]] = {
    "another-bucket": (S3, "E9204", source(Location="somebodys-bucket/code.zip")),
    "another-key": (
        *(S3, "E9204"),
        source(Location={"Fn::Sub": "${ApplicationSourceBucketName}/x/"}),
    ),
    "a-repository-instead": (
        *(S3, "E9204"),
        source(Type="GITHUB", Location="https://github.com/example/example"),
    ),
    "reads-all-of-the-bucket": (
        *(S3, "E9201"),
        resource("ReadSource", "arn:${AWS::Partition}:s3:::${ApplicationSourceBucketName}/*"),
    ),
    "reads-any-bucket": (S3, "E9201", permit("s3:GetObject", "arn:aws:s3:::*")),
    "lists-any-bucket": (S3, "E9201", permit("s3:ListBucket")),
    "writes-to-the-source": (
        *(S3, "E9201"),
        permit(
            "s3:PutObject",
            {"Fn::Sub": "arn:aws:s3:::${ApplicationSourceBucketName}/${ApplicationSourceKey}"},
        ),
    ),
    "any-key-at-all": (S3, "E9002", parameter("ApplicationSourceKey")),
    "a-default-for-the-bucket": (
        *(S3, "E9001"),
        parameter("ApplicationSourceBucketName", Default="somebodys-bucket"),
    ),
    "another-repository": (
        *(CONNECTION, "E9204"),
        source(Location="https://github.com/example/example"),
    ),
    "another-connection": (
        *(CONNECTION, "E9204"),
        source(Auth=AUTH | {"Resource": "arn:aws:codeconnections:::connection/1"}),
    ),
    "a-token-instead": (CONNECTION, "E9204", source(Auth={"Type": "OAUTH"})),
    "any-connection": (CONNECTION, "E9201", permit("codeconnections:GetConnectionToken")),
    "more-of-the-connection": (
        *(CONNECTION, "E9201"),
        permit("codeconnections:UpdateConnectionInstallation", {"Ref": "ConnectionArn"}),
    ),
    "any-address": (CONNECTION, "E9002", parameter("RepositoryUrl")),
}


def rendered(name: str) -> Template:
    return copy.deepcopy(dict(read(PROJECT / "templates" / f"{name}.yaml")))


@pytest.mark.parametrize("name", [S3, CONNECTION])
def test_rendered_template_has_no_findings(name: str) -> None:
    assert judged(rendered(name), "E", "W") == []


@pytest.mark.parametrize("name", WEAKENED)
def test_weakened_source_is_found_by_the_expected_rule(name: str) -> None:
    of, expected, weaken = WEAKENED[name]
    template = rendered(of)
    weaken(template)
    assert expected in {rule for rule, _ in judged(template, *NOT_ABOUT_KEYS)}
