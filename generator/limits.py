"""Limits of AWS that the templates, and what they deploy, must keep.

Linters and emulators do not know most of them: a template that exceeds one fails at its first
deployment, and the stack rolls back. Each is in the unit that AWS uses, *characters* or *bytes*,
and names its source.
"""

from typing import Final

# --- CloudFormation -------------------------------------------------------------------------------
# https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html

DIRECT_DEPLOYMENT_MAX: Final = 51_200
"""Bytes of a template passed in the call to CloudFormation, not through S3."""

TEMPLATE_MAX: Final = 1_000_000
"""Bytes of a template that CloudFormation reads from S3 (1 MB)."""

TEMPLATE_DESCRIPTION_MAX: Final = 1_024
"""Bytes of a template's ``Description``.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/template-description-structure.html
"""

PARAMETERS_MAX: Final = 200
"""Parameters that a template may declare."""

PARAMETER_VALUE_MAX: Final = 4_096
"""Bytes of a parameter's value; of a list, all its items and commas together."""

PARAMETER_DESCRIPTION_MAX: Final = 4_000
"""Characters of a parameter's ``Description``.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/parameters-section-structure.html
"""

OUTPUTS_MAX: Final = 200
"""Outputs that a template may declare."""

OUTPUT_DESCRIPTION_MAX: Final = 1_024
"""Bytes of an output's ``Description``.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/outputs-section-structure.html
"""

OUTPUT_VALUE_MAX: Final = 1_024
"""Bytes of an output's value: this project's own limit, since AWS documents none."""

RESOURCES_MAX: Final = 500
"""Resources that a template may declare."""

NAME_MAX: Final = 255
"""Characters of a logical name, whether of a parameter, resource, output, mapping or export."""

STACK_NAME_MAX: Final = 128
"""Characters of a stack's name.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_CreateStack.html
"""

# --- CodeBuild ------------------------------------------------------------------------------------

BUILDSPEC_MAX: Final = 25_600
"""Characters of an inline buildspec, on CreateProject, UpdateProject and a build's override.

No page of AWS's documentation says so; the service answers ``InvalidInputException: Max
buildspec length is 25600``.

Source: https://github.com/aws/aws-cdk/issues/30326, https://github.com/aws/aws-cdk/pull/14974
"""

BUILDSPEC_BUDGET: Final = 25_000
"""Characters of this project's own buildspecs: a margin, so that there is always room for a fix."""

ENVIRONMENT_VARIABLE_MAX: Final = 4_096
"""Characters of an environment variable's value.

The service answers ``InvalidInputException: EnvironmentVariable should be at most 4096
characters``.

Source: https://github.com/wolfeidau/buildkite-serverless-agent/issues/35
"""

PROJECT_NAME_MAX: Final = 150
"""Characters of a project's name; at least two.

Source: https://docs.aws.amazon.com/codebuild/latest/userguide/limits.html
"""

PROJECT_DESCRIPTION_MAX: Final = 255
"""Characters of a project's description.

Source: https://docs.aws.amazon.com/codebuild/latest/userguide/limits.html
"""

BUILD_MINUTES: Final = range(5, 2_160 + 1)
"""Minutes that a build may take.

Source: https://docs.aws.amazon.com/codebuild/latest/userguide/limits.html
"""

QUEUED_MINUTES: Final = range(5, 480 + 1)
"""Minutes that a build may wait in the queue.

Source: https://docs.aws.amazon.com/codebuild/latest/APIReference/API_CreateProject.html
"""

# --- IAM ------------------------------------------------------------------------------------------
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html

TRUST_POLICY_MAX: Final = 2_048
"""Characters of a role's trust policy, unless AWS raised the quota."""

INLINE_POLICIES_MAX: Final = 10_240
"""Characters, not counting white space, of all inline policies of a role together."""

POLICY_NAME_MAX: Final = 128
"""Characters of an inline policy's name."""

ROLE_NAME_MAX: Final = 64
"""Characters of a role's name."""

ROLE_DESCRIPTION_MAX: Final = 1_000
"""Characters of a role's description.

Source: https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateRole.html
"""

# --- KMS ------------------------------------------------------------------------------------------

KEY_POLICY_MAX: Final = 32_768
"""Bytes of a key policy.

Source: https://docs.aws.amazon.com/kms/latest/developerguide/resource-limits.html
"""

KEY_DESCRIPTION_MAX: Final = 8_192
"""Characters of a key's description.

Source: https://docs.aws.amazon.com/kms/latest/APIReference/API_CreateKey.html
"""

ALIAS_MAX: Final = 256
"""Characters of an alias, ``alias/`` included.

Source: https://docs.aws.amazon.com/kms/latest/APIReference/API_CreateAlias.html
"""

DELETION_DAYS: Final = range(7, 30 + 1)
"""Days of a key's waiting period before its deletion.

Source: https://docs.aws.amazon.com/kms/latest/APIReference/API_ScheduleKeyDeletion.html
"""

# --- S3 and CloudWatch Logs -----------------------------------------------------------------------

BUCKET_NAME_MAX: Final = 63
"""Characters of a bucket's name; at least three.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
"""

BUCKET_POLICY_MAX: Final = 20_480
"""Bytes of a bucket policy (20 KB).

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-policies.html
"""

OBJECT_KEY_MAX: Final = 1_024
"""Bytes of an object's key, in UTF-8.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
"""

LIFECYCLE_RULE_ID_MAX: Final = 255
"""Characters of a lifecycle rule's ID.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_LifecycleRule.html
"""

LOG_GROUP_NAME_MAX: Final = 512
"""Characters of a log group's name.

Source: https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_CreateLogGroup.html
"""
