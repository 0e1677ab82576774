"""The code owner's template: a key, its alias, and a project that encrypts an application.

Resources are in the order in which one would explain them. A resource's
logical ID is its function's name in CamelCase, and the first paragraph of
the docstring becomes the comment above it in the rendered template.
"""

from awacs.aws import PolicyDocument
from troposphere import (
    AWSHelperFn,
    Equals,
    Export,
    FindInMap,
    GetAtt,
    If,
    Not,
    Output,
    Ref,
    Select,
    Split,
    Sub,
    Template,
    codebuild,
    iam,
    kms,
    logs,
)

from generator import parameters
from generator.templates import policies
from generator.templates.buildspec import ARTIFACT_NAME, buildspec
from generator.templates.console import add_parameters
from generator.templates.sources import SOURCES, ApplicationSource

DESCRIPTION = (
    "Encrypts an application for an AWS Nitro Enclave in somebody else's account: a KMS key that"
    " decrypts only for attested enclave images, and a CodeBuild project that encrypts the code and"
    " stores it in the host's bucket."
)

IMAGE = "aws/codebuild/amazonlinux-x86_64-standard:6.0"
"""Amazon Linux 2023.

Source: https://docs.aws.amazon.com/codebuild/latest/userguide/available-runtimes.html
"""

PROJECT_NAME = "${AWS::StackName}-ApplicationEncryptor"
QUEUED_MINUTES = 60
RUNNING_MINUTES = 120
LOG_DAYS = 365
KEY_DELETION_DAYS = 30

NARROWED = "HostIsNarrowedToRole"
CONSOLE_HOSTS = {
    "aws": "console.aws.amazon.com",
    "aws-cn": "console.amazonaws.cn",
    "aws-us-gov": "console.amazonaws-us-gov.com",
}
"""No pseudo parameter yields the console's address, which differs by partition."""


def account_root(account: str) -> Sub:
    """Return the ARN that stands for a whole account in a policy."""
    return Sub(f"arn:${{AWS::Partition}}:iam::${{{account}}}:root")


def s3_in_region_of(key_arn: AWSHelperFn) -> Sub:
    """Return S3's name in ``kms:ViaService`` in a key's region; China has another suffix."""
    return Sub("s3.${Region}.*", Region=Select(3, Split(":", key_arn)))


def host() -> If:
    """Return who may decrypt in the host's account: all of it, or the one role."""
    account = parameters.HOST_ACCOUNT.name
    role = f"role/${{{parameters.PARENT_ROLE.name}}}"
    return If(
        NARROWED,
        Sub(f"arn:${{AWS::Partition}}:iam::${{{account}}}:{role}"),
        account_root(account),
    )


def enclave_key() -> kms.Key:
    """Encrypts every artifact's data key. It outlives the stack, as every artifact needs it."""
    return kms.Key(
        "EnclaveKey",
        # Kept on deletion and replacement, but not when the stack's creation rolls back.
        DeletionPolicy="RetainExceptOnCreate",
        UpdateReplacePolicy="Retain",
        Description=Sub("Decrypts ${AWS::StackName}'s artifacts for attested enclave images only"),
        EnableKeyRotation=True,
        PendingWindowInDays=KEY_DELETION_DAYS,
        KeyPolicy=policies.policy(
            policies.delegate_to_account(account_root("AWS::AccountId")),
            policies.allow_host_to_decrypt(host()),
            policies.deny_decrypt_unless_attested(Ref(parameters.ENCLAVE_IMAGES.name)),
        ),
    )


def enclave_key_alias(key: kms.Key) -> kms.Alias:
    """A readable name for the key; artifacts and policies refer to its ARN."""
    return kms.Alias(
        "EnclaveKeyAlias",
        AliasName=Ref(parameters.KEY_ALIAS.name),
        TargetKeyId=Ref(key),
    )


def build_log() -> logs.LogGroup:
    """The log of every build. The build below logs neither keys nor code."""
    return logs.LogGroup(
        "BuildLog",
        DeletionPolicy="Delete",
        UpdateReplacePolicy="Delete",
        LogGroupName=Sub(f"/aws/codebuild/{PROJECT_NAME}"),
        RetentionInDays=LOG_DAYS,
    )


def artifact_object() -> str:
    """Return the artifact's location in S3, as bucket and key, for Fn::Sub."""
    bucket, path = parameters.BUCKET_NAME.name, parameters.BUCKET_PATH.name
    return f"${{{bucket}}}/${{{path}}}/{ARTIFACT_NAME}"


def build_permissions(
    key: kms.Key, log: logs.LogGroup, source: ApplicationSource
) -> PolicyDocument:
    """Return what the build needs, each permission on one resource, and nothing else."""
    external_key = Ref(parameters.BUCKET_KEY.name)
    return policies.policy(
        *source.permissions(),
        policies.write_build_log(GetAtt(log, "Arn")),
        policies.encrypt_application(GetAtt(key, "Arn")),
        policies.upload_artifact(Sub(f"arn:${{AWS::Partition}}:s3:::{artifact_object()}")),
        policies.encrypt_upload(external_key, s3_in_region_of(external_key)),
    )


def build_role(key: kms.Key, log: logs.LogGroup, source: ApplicationSource) -> iam.Role:
    """What a build may do. Anyone who can start one can override its commands and do the same."""
    # The project's ARN is written out: a reference would make the two depend on each other.
    project = "arn:${AWS::Partition}:codebuild:${AWS::Region}:${AWS::AccountId}:project/"
    return iam.Role(
        "BuildRole",
        Description=Sub(f"Role of the CodeBuild project {PROJECT_NAME}"),
        AssumeRolePolicyDocument=policies.policy(
            policies.trust_project(Sub(project + PROJECT_NAME), Ref("AWS::AccountId"))
        ),
        Policies=[
            iam.Policy(
                PolicyName="EncryptAndUpload", PolicyDocument=build_permissions(key, log, source)
            )
        ],
    )


def build_environment(key: kms.Key) -> codebuild.Environment:
    """Return the build's machine; every parameter is an environment variable in the buildspec."""
    variables = {
        "APPLICATION_DIRECTORY": Ref(parameters.CODE_DIRECTORY.name),
        "ENCRYPTION_KEY_ARN": GetAtt(key, "Arn"),
        "EXTERNAL_BUCKET_NAME": Ref(parameters.BUCKET_NAME.name),
        "EXTERNAL_BUCKET_PATH": Ref(parameters.BUCKET_PATH.name),
        "EXTERNAL_BUCKET_KEY_ARN": Ref(parameters.BUCKET_KEY.name),
        "EXTERNAL_BUCKET_ACCOUNT": Ref(parameters.HOST_ACCOUNT.name),
    }
    return codebuild.Environment(
        Type="LINUX_CONTAINER",
        ComputeType=Ref(parameters.COMPUTE_TYPE.name),
        Image=IMAGE,
        ImagePullCredentialsType="CODEBUILD",
        PrivilegedMode=False,
        EnvironmentVariables=[
            codebuild.EnvironmentVariable(Name=name, Value=value, Type="PLAINTEXT")
            for name, value in variables.items()
        ],
    )


def encryptor_project(
    key: kms.Key, role: iam.Role, log: logs.LogGroup, source: ApplicationSource
) -> codebuild.Project:
    """*Start build* takes the application from its source, encrypts it and sends it to the host."""
    return codebuild.Project(
        "EncryptorProject",
        Name=Sub(PROJECT_NAME),
        Description="Encrypts the application for the enclave and stores it in the host's bucket",
        ServiceRole=GetAtt(role, "Arn"),
        QueuedTimeoutInMinutes=QUEUED_MINUTES,
        TimeoutInMinutes=RUNNING_MINUTES,
        Environment=build_environment(key),
        Artifacts=codebuild.Artifacts(Type="NO_ARTIFACTS"),
        LogsConfig=codebuild.LogsConfig(
            CloudWatchLogs=codebuild.CloudWatchLogs(Status="ENABLED", GroupName=Ref(log))
        ),
        Source=codebuild.Source(**source.members(), BuildSpec=buildspec()),
    )


def parent_role_policy(key: kms.Key) -> Sub:
    """Return the policy for the role of the host's parent instance, as JSON to paste."""
    statement = policies.decrypt_for_enclave("${" + key.title + ".Arn}")
    return Sub(policies.policy(statement).to_json(indent=2, sort_keys=False))


def outputs(key: kms.Key, project: codebuild.Project) -> list[Output]:
    """Return what the next steps need: the key, the project, and what to give the host."""
    console = FindInMap("Console", Ref("AWS::Partition"), "Host")
    page = f"projects/${{{project.title}}}/?region=${{AWS::Region}}"
    return [
        Output(
            "EnclaveKeyARN",
            Description="The key that an enclave image must pin (--key-id)",
            Value=GetAtt(key, "Arn"),
            Export=Export(Sub("${AWS::StackName}-EnclaveKeyARN")),
        ),
        Output(
            "EnclaveKeyAlias",
            Description="Alias of the key",
            Value=Ref(parameters.KEY_ALIAS.name),
        ),
        Output(
            "ProjectName",
            Description="CodeBuild project: aws codebuild start-build --project-name",
            Value=Ref(project),
        ),
        Output(
            "StartBuildUrl",
            Description="Console page of the project, with Start build",
            Value=Sub(
                f"https://${{Console}}/codesuite/codebuild/${{AWS::AccountId}}/{page}",
                Console=console,
            ),
        ),
        Output(
            "ArtifactUri",
            Description="Where the host finds the encrypted application",
            Value=Sub(f"s3://{artifact_object()}"),
        ),
        Output(
            "ParentRolePolicy",
            Description="Inline policy for the role of the host's parent instance",
            Value=parent_role_policy(key),
        ),
    ]


def template(source: str = parameters.CODECOMMIT) -> Template:
    """Return the whole template for a *source*, a key of SOURCES."""
    result = Template(Description=DESCRIPTION)
    result.set_version()
    add_parameters(result, parameters.encryptor_parameters(source))
    result.add_condition(NARROWED, Not(Equals(Ref(parameters.PARENT_ROLE.name), "")))
    result.add_mapping("Console", {name: {"Host": at} for name, at in CONSOLE_HOSTS.items()})
    key, log = enclave_key(), build_log()
    role = build_role(key, log, SOURCES[source])
    project = encryptor_project(key, role, log, SOURCES[source])
    result.add_resource([key, enclave_key_alias(key), project, role, log])
    result.add_output(outputs(key, project))
    return result
