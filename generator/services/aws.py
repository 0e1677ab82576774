"""AWS as the verbs use it: credentials, region, and failures in one line.

The region comes from the argument, the ARN, AWS_REGION, AWS_DEFAULT_REGION or the profile, in this
order.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from generator.errors import GeneratorError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
CONNECT_SECONDS = 10
PATIENT_ATTEMPTS = 10
ARN_PARTS = 6
SIGN_IN = "sign in again (aws sso login, or new credentials), or pass --profile"
CREDENTIALS = "run aws configure, or pass --profile"
PERMISSION = "ask whoever administers the account for this permission, or pass --profile"
NETWORK = "check the region, the network and AWS_ENDPOINT_URL, then retry"
WAIT = "AWS is busy: wait a minute, then retry"
HINTS = {
    **dict.fromkeys(
        (
            "AccessDenied",
            "AccessDeniedException",
            "AuthorizationError",
            "UnauthorizedOperation",
        ),
        PERMISSION,
    ),
    **dict.fromkeys(
        (
            "ExpiredToken",
            "ExpiredTokenException",
            "RequestExpired",
            "SSOTokenLoadError",
            "TokenRefreshRequired",
            "TokenRetrievalError",
            "UnauthorizedSSOTokenError",
        ),
        SIGN_IN,
    ),
    **dict.fromkeys(
        (
            "CredentialRetrievalError",
            "IncompleteSignature",
            "InvalidAccessKeyId",
            "InvalidClientTokenId",
            "InvalidSignatureException",
            "NoCredentialsError",
            "PartialCredentialsError",
            "SignatureDoesNotMatch",
            "UnrecognizedClientException",
        ),
        CREDENTIALS,
    ),
    **dict.fromkeys(
        (
            "InternalError",
            "InternalFailure",
            "RequestLimitExceeded",
            "ServiceUnavailable",
            "SlowDown",
            "Throttling",
            "ThrottlingException",
            "TooManyRequestsException",
        ),
        WAIT,
    ),
    **dict.fromkeys(
        (
            "ConnectTimeoutError",
            "ConnectionClosedError",
            "EndpointConnectionError",
            "HTTPClientError",
            "ProxyConnectionError",
            "ReadTimeoutError",
            "SSLError",
        ),
        NETWORK,
    ),
    "NoRegionError": "pass --region, or set AWS_REGION",
    "InvalidRegionError": "pass --region, like eu-west-1",
    "ProfileNotFound": "pass another --profile: aws configure list-profiles lists them",
    "ConfigParseError": "correct that file",
    "NoSuchBucket": "correct the bucket's name",
    "404": "correct the bucket's or the object's name",
    "NoSuchKey": "correct the object's name",
    "NoSuchVersion": "correct --version-id",
    # The answer to HEAD has no body: the status is all that S3 says.
    "400": f"the credentials may have expired: {SIGN_IN}",
    "403": PERMISSION,
    "503": WAIT,
}
"""What to do, by an error's code or class. The codes are on the services' Common Errors pages."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options for credentials and region."""
    group = parser.add_argument_group("AWS")
    group.add_argument("--profile", metavar="NAME", help="a profile of the AWS configuration")
    group.add_argument(
        "--region",
        metavar="REGION",
        help="default: AWS_REGION, AWS_DEFAULT_REGION, or the profile's",
    )


class Account:
    """Clients of AWS's services for one set of credentials and one region."""

    def __init__(self, options: argparse.Namespace, arn: str | None = None) -> None:
        """Take *options* as declared above; without --region, the region of *arn* applies."""
        import boto3
        from botocore.config import Config

        self._session = boto3.Session(
            profile_name=options.profile, region_name=options.region or _region(arn)
        )
        self._config = Config(connect_timeout=CONNECT_SECONDS)

    @property
    def region(self) -> str | None:
        """The region of the clients, None if none is configured."""
        return self._session.region_name

    def client(self, service: str, region: str | None = None, *, patient: bool = False) -> Any:  # noqa: ANN401 - as boto3's
        """Return a client of *service*, in another *region* if one is given.

        A *patient* client adapts to the rate that a throttled service accepts, unless
        AWS_MAX_ATTEMPTS says how often to try.
        """
        from botocore.config import Config

        config = self._config
        if patient and "AWS_MAX_ATTEMPTS" not in os.environ:
            attempts: Any = {"mode": "adaptive", "total_max_attempts": PATIENT_ATTEMPTS}
            config = config.merge(Config(retries=attempts))
        make: Any = self._session.client  # typed per service, by literal names only
        return make(service, region_name=region, config=config)


def region_of(arn: str | None) -> str | None:
    """Return the region in arn:partition:service:region:account:resource, None if there is none."""
    parts = (arn or "").split(":")
    return parts[3] or None if len(parts) >= ARN_PARTS else None


def _region(arn: str | None) -> str | None:
    """Return the region of *arn*, else the environment's: botocore does not know AWS_REGION."""
    found = [region_of(arn), *(os.environ.get(name, "") for name in REGION_VARIABLES)]
    return next(filter(None, found), None)


@contextmanager
def failures(subject: str) -> Iterator[None]:
    """Turn any failure, of AWS or of the connection to it, into one line about *subject*.

    Raises:
        GeneratorError: with the operation, AWS's reason, and what to do.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, Boto3Error, ClientError) as error:
        raise GeneratorError(f"{subject}: {reason(error)}") from error
    except GeneratorError as error:
        if str(error).startswith(subject):
            raise
        raise GeneratorError(f"{subject}: {error}") from error


def code(error: Exception) -> str:
    """Return the error code in a service's response, or the class of a local error."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code") or type(error).__name__)


def reason(error: Exception) -> str:
    """Return why AWS failed, and what to do."""
    response = getattr(error, "response", None) or {}
    operation = getattr(error, "operation_name", None)
    message = response.get("Error", {}).get("Message") or str(error)
    where = f"{operation}: " if operation else ""
    named = f"{code(error)}: " if operation and code(error) not in message else ""
    hint = HINTS.get(code(error)) or next(
        (HINTS[base.__name__] for base in type(error).__mro__ if base.__name__ in HINTS),
        "correct what the message names, or retry",
    )
    return f"{where}{named}{str(message).rstrip('.')}: {hint}"
