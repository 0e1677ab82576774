"""Does once what every command would do again, in the process that `preloaded` forks.

Each boto3 session reads the descriptions of AWS's services, which takes longer than the calls of
most tests; the first validation reads the schemas of AWS's resources.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
from typing import Any

import boto3
from botocore.loaders import JSONFileLoader

from generator.validation import validate
from tests.support.linter import load_rules_once
from tests.support.paths import ENCRYPTOR_TEMPLATE, SHARING_TEMPLATE

SERVICES = (
    *("cloudformation", "cloudtrail", "codebuild", "codecommit", "codeconnections", "iam", "kms"),
    *("logs", "s3", "sts"),
)

read = JSONFileLoader.load_file


@functools.cache
def description(path: str) -> Any:  # noqa: ANN401 - JSON
    return read(JSONFileLoader(), path)


def load_file(_: JSONFileLoader, file_path: str) -> Any:  # noqa: ANN401 - JSON
    return description(file_path)


JSONFileLoader.load_file = load_file  # type: ignore[assignment, method-assign]
session: Any = boto3.Session(region_name="eu-west-1")
for service in SERVICES:
    session.client(service, aws_access_key_id="none", aws_secret_access_key="none")  # noqa: S106
load_rules_once()
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    validate([str(ENCRYPTOR_TEMPLATE), str(SHARING_TEMPLATE)], [])
gc.collect()
gc.freeze()
