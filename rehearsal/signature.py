"""Who signed a request: AWS Signature Version 4, seen from the service's side.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from botocore import credentials
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rehearsal.aws import Credentials

CLOCK_SKEW: Final = timedelta(minutes=5)

_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 "
    r"Credential=(?P<access_key_id>\w+)/\d{8}/[\w-]+/\w+/aws4_request, *"
    r"SignedHeaders=(?P<signed_headers>[a-z0-9;-]+), *Signature=(?P<signature>[0-9a-f]{64})"
)
_ALWAYS_SIGNED: Final = frozenset({"host", "x-amz-date"})


class SignatureError(Exception):
    """A request that nobody known here has signed; ``code`` is AWS's name for it."""

    def __init__(self, code: str, message: str) -> None:
        """Say why, in AWS's terms."""
        super().__init__(message)
        self.code = code


def signer(
    headers: Mapping[str, str],
    body: bytes,
    known: Mapping[str, Credentials],
    scope: tuple[str, str],
    now: datetime,
) -> Credentials:
    """Return who of *known* signed a ``POST /`` with *headers* and *body*.

    Args:
        headers: names in lower case.
        body: which the signature covers, too.
        known: credentials by access key id.
        scope: region and service for which the signature must be.
        now: must be near the request's own time.

    Raises:
        SignatureError: nobody did, or not for this scope and time.
    """
    given = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if given is None:
        raise SignatureError("MissingAuthenticationTokenException", "the request is not signed")
    signed = given["signed_headers"].split(";")
    sent = {name for name in headers if name == "host" or name.startswith("x-amz-")}
    if not sent | _ALWAYS_SIGNED <= set(signed) <= headers.keys():
        raise SignatureError("InvalidSignatureException", "a required header is not signed")
    _check_time(headers["x-amz-date"], now)

    principal = known.get(given["access_key_id"])
    token = headers.get("x-amz-security-token", "").encode()
    if principal is None or not hmac.compare_digest(token, principal.session_token.encode()):
        raise SignatureError(
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        )
    expected = _signature({name: headers[name] for name in signed}, body, principal, scope)
    if not hmac.compare_digest(expected, given["signature"]):
        raise SignatureError(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided.",
        )
    return principal


def _check_time(moment: str, now: datetime) -> None:
    try:
        signed_at = datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise SignatureError("IncompleteSignatureException", "no date in X-Amz-Date") from error
    if abs(now - signed_at) > CLOCK_SKEW:
        raise SignatureError("InvalidSignatureException", f"Signature expired: {moment}")


def _signature(
    headers: Mapping[str, str], body: bytes, principal: Credentials, scope: tuple[str, str]
) -> str:
    """Sign the same request again, with botocore's client side; *scope* is part of it."""
    pair = credentials.Credentials(principal.access_key_id, principal.secret_access_key)
    auth = SigV4Auth(pair, scope[1], scope[0])
    request = AWSRequest("POST", f"https://{headers['host']}/", headers=dict(headers), data=body)
    # A hash that the client claims would be believed; what arrived is what counts.
    if "x-amz-content-sha256" in headers:
        request.headers.replace_header("x-amz-content-sha256", hashlib.sha256(body).hexdigest())
    request.context["timestamp"] = headers["x-amz-date"]
    return auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
