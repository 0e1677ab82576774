"""Limits of AWS that templates must keep."""

DIRECT_DEPLOYMENT_MAX = 51_200
"""Bytes of a template passed in the call to CloudFormation, without a detour through S3.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
"""
