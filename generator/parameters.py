"""The parameters of all templates, defined once: default, AllowedPattern, description.

Templates, their grouping in the console, the documentation's tables and the
validator all read them here. Names and defaults are contracts: existing stacks
refer to them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

ENCRYPTOR_TEMPLATE = "Deploy-ApplicationEncryptor-Cfn.yaml"
S3_ENCRYPTOR_TEMPLATE = "Deploy-ApplicationEncryptor-S3-Cfn.yaml"
CONNECTION_ENCRYPTOR_TEMPLATE = "Deploy-ApplicationEncryptor-Connection-Cfn.yaml"
SHARING_TEMPLATE = "Deploy-ApplicationSharingBucket-Cfn.yaml"

NO_IMAGE = "none"
"""The value of EnclaveImageSha384 that no image can attest: nobody may decrypt."""


@dataclass(frozen=True)
class TemplateParameter:
    """One parameter of a template.

    Attributes:
        name: logical name, a contract.
        group: heading under which the console shows it.
        label: what the console shows instead of the name.
        description: for the person at the console.
        pattern: regular expression that CloudFormation matches against the whole value, of
            a list against each item. It is valid for Java, CloudFormation's engine, and Python.
        constraint: what CloudFormation's error message says when the pattern refuses a value.
        default: None makes the parameter mandatory.
        type: String or CommaDelimitedList.
        max_length: in characters, of a String.
        refused: values that the pattern must refuse; a template that accepts one is unsafe.
        contract: whether every template of this kind has it: name and default stay for ever.
    """

    name: str
    group: str
    label: str
    description: str
    pattern: str
    constraint: str
    default: str | None = None
    type: str = "String"
    max_length: int | None = None
    refused: tuple[str, ...] = ()
    contract: bool = False


SHELL_WORDS = ("$(id)", "`id`", "a b", "a;b", "'", '"', "a\nb", "a|b", "a&b", "${IFS}", "*")
"""Values that must never reach a shell or a policy's resource through any parameter."""

APPLICATION = "Your application"
HOST = "The enclave host's bucket"
KEY = "The key, and who may decrypt with it"

KEY_ALIAS = TemplateParameter(
    name="EncryptionKeyAlias",
    contract=True,
    group=KEY,
    label="Alias of the new key",
    description="Alias of the new KMS key. It must not exist yet in this account and region.",
    pattern=r"^alias/(?!aws/)[A-Za-z0-9/_-]+$",
    constraint="must be alias/ followed by letters, digits, /, _ or -; alias/aws/ is reserved",
    default="alias/enclavekey",
    max_length=256,
    refused=("enclavekey", "alias/", "alias/aws/enclavekey", *SHELL_WORDS),
)

REPOSITORY_NAME = TemplateParameter(
    name="CodeCommitRepositoryName",
    contract=True,
    group=APPLICATION,
    label="CodeCommit repository",
    description="Repository, in this account and region, that holds the application.",
    pattern=r"^(?!.*\.git$)[A-Za-z0-9._-]+$",
    constraint="must be a repository's name: letters, digits, ., _ or -, not ending in .git",
    max_length=100,
    refused=("", "a/b", "code.git", *SHELL_WORDS),
)

SOURCE_BUCKET = TemplateParameter(
    name="ApplicationSourceBucketName",
    contract=True,
    group=APPLICATION,
    label="Source bucket",
    description=(
        "Your own S3 bucket, in this region, that holds the application. It must use S3 managed"
        " keys (SSE-S3): the build has no permission on another KMS key."
    ),
    pattern=r"^(?!xn--)(?!.*\.\.)(?![0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
    constraint="must be an S3 bucket's name: 3 to 63 lower-case letters, digits, hyphens or dots",
    refused=("", "ab", "Bucket", "a..b", "-bucket", "bucket/path", *SHELL_WORDS),
)

SOURCE_KEY = TemplateParameter(
    name="ApplicationSourceKey",
    contract=True,
    group=APPLICATION,
    label="Source object or prefix",
    description=(
        "Key of a .zip file in that bucket, or a prefix that ends in a slash, for all objects below"
        " it. The build may read every object whose key begins with it."
    ),
    pattern=r"^(?!/)(?!.*//)(?!(?:.*/)?\.{1,2}/)[A-Za-z0-9._=@+/-]+(?:\.zip|/)$",
    constraint=(
        "must be a key that ends in .zip, or a prefix that ends in a slash, of letters, digits and"
        " ._=@+/-, without a leading slash"
    ),
    max_length=900,
    refused=("", "/", "/a/", "a", "a//", "../a/", "a/../b/", "a.zip.gz", *SHELL_WORDS),
)

REPOSITORY_TYPE = TemplateParameter(
    name="RepositoryType",
    contract=True,
    group=APPLICATION,
    label="Repository's service",
    description=(
        "Service of the repository: GITHUB, GITLAB or BITBUCKET; GITHUB_ENTERPRISE or"
        " GITLAB_SELF_MANAGED for a server of your own."
    ),
    pattern=r"^(?:GITHUB|GITHUB_ENTERPRISE|GITLAB|GITLAB_SELF_MANAGED|BITBUCKET)$",
    constraint=(
        "must be GITHUB, GITHUB_ENTERPRISE, GITLAB, GITLAB_SELF_MANAGED or BITBUCKET, in capitals"
    ),
    refused=("", "github", "CODECOMMIT", "S3", "NO_SOURCE", *SHELL_WORDS),
)

REPOSITORY_URL = TemplateParameter(
    name="RepositoryUrl",
    contract=True,
    group=APPLICATION,
    label="Repository's address",
    description="HTTPS address of the repository, like https://github.com/owner/name.",
    pattern=r"^https://(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~-]+)+$",
    constraint="must be an https:// address of letters, digits and ._~/-, without a user's name",
    max_length=1024,
    refused=(
        "",
        "http://github.com/a/b",
        "https://user:secret@github.com/a/b",
        "https://github.com",
        "https://github.com/../b",
        *SHELL_WORDS,
    ),
)

CONNECTION_ARN = TemplateParameter(
    name="ConnectionArn",
    contract=True,
    group=APPLICATION,
    label="Connection",
    description=(
        "ARN of the CodeConnections connection to the repository's service, in this account. It"
        " must be available: a new one is pending until somebody confirms it in the console."
    ),
    pattern=(
        r"^arn:aws(?:-[a-z]+)*:code(?:connections|star-connections):[a-z]+(?:-[a-z]+)+-[0-9]+:"
        r"[0-9]{12}:connection/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
    ),
    constraint="must be a connection's ARN: arn:aws:codeconnections:REGION:ACCOUNT:connection/ID",
    refused=(
        "",
        "*",
        "arn:aws:codeconnections:eu-west-1:111122223333:connection/*",
        "arn:aws:codeconnections:eu-west-1:111122223333:host/1234abcd-12ab-34cd-56ef-1234567890ab",
        *SHELL_WORDS,
    ),
)

CODE_DIRECTORY = TemplateParameter(
    name="ApplicationCodeDirectoryName",
    contract=True,
    group=APPLICATION,
    label="Application directory",
    description=(
        "Directory that is encrypted, with all its contents: its path inside the repository, or"
        " inside the source in S3."
    ),
    pattern=r"^(?![-/])(?!.*\.\.)(?!(?:\./*)+$)[A-Za-z0-9._@+/-]+$",
    constraint=(
        "must be a path inside the repository: letters, digits and ._@+/-, no .., no leading"
        " - or /, and not the whole repository"
    ),
    max_length=255,
    refused=("", ".", "./", "..", "../a", "a/../b", "/a", "-rf", *SHELL_WORDS),
)

BUCKET_NAME = TemplateParameter(
    name="ExternalBucketName",
    contract=True,
    group=HOST,
    label="Bucket",
    description="Name of the host's S3 bucket that receives the encrypted application.",
    pattern=r"^(?!xn--)(?!.*\.\.)(?![0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
    constraint="must be an S3 bucket's name: 3 to 63 lower-case letters, digits, hyphens or dots",
    refused=("", "ab", "Bucket", "a..b", "-bucket", "bucket/path", *SHELL_WORDS),
)

BUCKET_PATH = TemplateParameter(
    name="ExternalBucketPath",
    contract=True,
    group=HOST,
    label="Path in the bucket",
    description="Path inside the bucket under which the encrypted application is stored.",
    pattern=r"^(?!(?:.*/)?\.{1,2}(?:/|$))[A-Za-z0-9._=@+-]+(?:/[A-Za-z0-9._=@+-]+)*$",
    constraint="must be a path of letters, digits and ._=@+-, without a slash at either end",
    default="encrypted",
    max_length=900,
    refused=("", "/", "/a", "a/", "a//b", "../a", "a/..", *SHELL_WORDS),
)

BUCKET_KEY = TemplateParameter(
    name="ExternalBucketEncryptionKeyArn",
    contract=True,
    group=HOST,
    label="The bucket's KMS key",
    description="ARN of the host's KMS key that encrypts the bucket.",
    pattern=(
        r"^arn:aws(?:-[a-z]+)*:kms:[a-z]+(?:-[a-z]+)+-[0-9]+:[0-9]{12}:"
        r"key/(?:mrk-[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$"
    ),
    constraint="must be the ARN of a KMS key, not of an alias: arn:aws:kms:REGION:ACCOUNT:key/ID",
    refused=(
        "",
        "alias/bucket",
        "arn:aws:kms:eu-west-1:111122223333:alias/bucket",
        "arn:aws:kms:eu-west-1:1111:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "arn:aws:kms:eu-west-1:111122223333:key/*",
        *SHELL_WORDS,
    ),
)

HOST_ACCOUNT = TemplateParameter(
    name="ExternalBucketAWSAccountNumber",
    contract=True,
    group=HOST,
    label="The host's AWS account",
    description=(
        "Account that owns the bucket and hosts the enclave: the only outside account that ever"
        " gets access to the key."
    ),
    pattern=r"^[0-9]{12}$",
    constraint="must be an AWS account number: 12 digits",
    refused=("", "1111-2222-3333", "11112222333", "1111222233334", "*", *SHELL_WORDS),
)

ENCLAVE_IMAGES = TemplateParameter(
    name="EnclaveImageSha384",
    group=KEY,
    label="Enclave images",
    description=(
        "PCR0 of each enclave image that may decrypt, separated by commas: 96 hexadecimal digits as"
        " nitro-cli build-enclave prints them. The word none: nobody may decrypt yet."
    ),
    pattern=rf"^(?:{NO_IMAGE}|(?!0{{96}}$)[0-9A-Fa-f]{{96}})$",
    constraint=(
        "must be PCR0 values of 96 hexadecimal digits, or the word none; zeros (debug mode) are"
        " refused"
    ),
    default=NO_IMAGE,
    type="CommaDelimitedList",
    refused=("", "*", "0" * 96, "0" * 95, "a" * 95, "a" * 97, "a" * 95 + "*", "NONE"),
)

PARENT_ROLE = TemplateParameter(
    name="ParentInstanceRoleName",
    group=KEY,
    label="Role of the parent instance",
    description=(
        "Optional: path and name of the only IAM role in the host's account that may decrypt. It"
        " must already exist. If empty, the host's account decides which roles may."
    ),
    pattern=r"^(?:(?:[A-Za-z0-9_+=,.@-]+/)*[A-Za-z0-9_+=,.@-]{1,64})?$",
    constraint="must be empty, or the role's path and name as in its ARN after role/",
    default="",
    max_length=576,
    refused=("/role", "role/", "*", "path/*", *SHELL_WORDS),
)

BUILD = "The build"

DISK_GB = {
    "BUILD_GENERAL1_SMALL": 64,
    "BUILD_GENERAL1_MEDIUM": 128,
    "BUILD_GENERAL1_LARGE": 128,
    "BUILD_GENERAL1_XLARGE": 256,
    "BUILD_GENERAL1_2XLARGE": 824,
}
"""Disk of each compute type for Linux.

Source: https://docs.aws.amazon.com/codebuild/latest/userguide/build-env-ref-compute-types.html
"""

COMPUTE_TYPE = TemplateParameter(
    name="BuildComputeType",
    group=BUILD,
    label="Size of the build's machine",
    description=(
        "The disk must hold source and artifact, together 7/3 of the application's size:"
        " BUILD_GENERAL1_SMALL has 64 GB (applications of up to 27 GB), MEDIUM and LARGE 128 GB"
        " (54 GB), XLARGE 256 GB (109 GB), 2XLARGE 824 GB (353 GB). A minute costs, compared with"
        " SMALL, about 2 (MEDIUM), 4 (LARGE), 20 (XLARGE) and 50 times (2XLARGE) as much. Not every"
        " region has the two largest."
    ),
    pattern=r"^BUILD_GENERAL1_(?:SMALL|MEDIUM|LARGE|XLARGE|2XLARGE)$",
    constraint="must be BUILD_GENERAL1_SMALL, _MEDIUM, _LARGE, _XLARGE or _2XLARGE",
    default="BUILD_GENERAL1_SMALL",
    refused=("", "SMALL", "BUILD_GENERAL1_TINY", "BUILD_LAMBDA_1GB", *SHELL_WORDS),
)

SOURCES = {
    "codecommit": (REPOSITORY_NAME,),
    "s3": (SOURCE_BUCKET, SOURCE_KEY),
    "connection": (REPOSITORY_TYPE, REPOSITORY_URL, CONNECTION_ARN),
}
"""The sources of an application, each with its parameters. The first is the default."""

CODECOMMIT = "codecommit"

OF_EVERY_SOURCE = (
    *(CODE_DIRECTORY, BUCKET_NAME, BUCKET_PATH, BUCKET_KEY, HOST_ACCOUNT, KEY_ALIAS),
    *(ENCLAVE_IMAGES, PARENT_ROLE, COMPUTE_TYPE),
)
"""The parameters of every encryptor template, whatever its source, in the console's order."""


def encryptor_parameters(source: str = CODECOMMIT) -> tuple[TemplateParameter, ...]:
    """Return all parameters of the template for *source*, in the console's order."""
    return (*SOURCES[source], *OF_EVERY_SOURCE)


def contract_parameters(source: str = CODECOMMIT) -> tuple[TemplateParameter, ...]:
    """Return the mandatory contract's parameters for *source*: the seven, if it is CodeCommit."""
    return tuple(each for each in encryptor_parameters(source) if each.contract)


def source_of(names: Iterable[str]) -> str:
    """Return the source that parameters of these *names* belong to; by default CodeCommit."""
    given = set(names)
    found = (
        source
        for source, parameters in SOURCES.items()
        if given.intersection(parameter.name for parameter in parameters)
    )
    return next(found, CODECOMMIT)


ENCRYPTOR_PARAMETERS = encryptor_parameters()
"""Parameters of ENCRYPTOR_TEMPLATE, in the console's order."""

CONTRACT_PARAMETERS = contract_parameters()
"""The seven that every template of this kind has; the others are this project's, and optional."""

KNOWN_PARAMETERS = (*ENCRYPTOR_PARAMETERS, *SOURCES["s3"], *SOURCES["connection"])
"""Parameters of the templates for all sources."""

THIRD_PARTY = "The third party that sends the code"

THIRD_PARTY_IDENTIFIER = TemplateParameter(
    name="ThirdPartyIdentifier",
    group=THIRD_PARTY,
    label="Short name",
    description="Short name of the third party that sends code; part of the bucket's name.",
    pattern=r"^[a-z0-9](?:[a-z0-9-]{0,18}[a-z0-9])?$",
    constraint="must be 1 to 20 lower-case letters, digits or inner hyphens",
    refused=("", "-a", "a-", "A", "a_b", "a" * 21, *SHELL_WORDS),
)

THIRD_PARTY_ACCOUNT = TemplateParameter(
    name="ThirdPartyAWSAccountNumber",
    group=THIRD_PARTY,
    label="AWS account",
    description="AWS account of the third party: the only outside account that may upload.",
    pattern=HOST_ACCOUNT.pattern,
    constraint=HOST_ACCOUNT.constraint,
    refused=HOST_ACCOUNT.refused,
)

SHARING_PARAMETERS = (THIRD_PARTY_IDENTIFIER, THIRD_PARTY_ACCOUNT)
"""Parameters of SHARING_TEMPLATE, in the console's order."""
