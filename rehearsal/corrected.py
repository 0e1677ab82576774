"""The stand-in with what it lacks and the project depends on: what `aws.py` serves.

This module runs in the stand-in's own environment. Each correction makes the stand-in
refuse what AWS refuses. They reach for names inside a version that is locked: were one
to disappear, the stand-in would not start.
"""

# Reaching inside, where nothing has types, is what this module is for:
# ruff: noqa: ANN401, SLF001

from __future__ import annotations

import os
import signal
import sys
import threading
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

# The stand-in is not installed where the project's types are checked.
ministack = import_module("ministack.app")
s3 = import_module("ministack.services.s3")
kms = import_module("ministack.services.kms")
iam_actions = import_module("ministack.core.iam_actions")
iam_evaluator = import_module("ministack.core.iam_evaluator")
provisioners = import_module("ministack.services.cloudformation.provisioners")

SSE_KEY_HEADER = "x-amz-server-side-encryption-aws-kms-key-id"
SSE_KEY = f"s3:{SSE_KEY_HEADER}"
FORBIDDEN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
)


async def app(
    scope: MutableMapping[str, Any], receive: Callable[..., Any], send: Callable[..., Any]
) -> None:
    """Serve one request, unless it expects another owner of its bucket.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html
    """
    expected = dict(scope.get("headers", ())).get(b"x-amz-expected-bucket-owner")
    if expected is None or expected.decode() == _owner(scope["path"]):
        await ministack.app(scope, receive, send)
        return
    while (await receive()).get("more_body"):
        pass  # An answer before the end of the upload would look like a broken connection.
    headers = [(b"content-type", b"application/xml")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": FORBIDDEN})


def _owner(path: str) -> str | None:
    """Who owns the bucket that *path* begins with: so it does when the host is an address."""
    owner: str | None = s3._bucket_owner_account(path.split("/")[1])
    return owner


def correct(module: Any, name: str) -> Callable[[Callable[..., Any]], None]:
    """Replace *module*'s function *name*; the correction gets the original as first argument."""
    original = getattr(module, name)

    def install(correction: Callable[..., Any]) -> None:
        @wraps(original)
        def corrected(*args: Any, **named: Any) -> Any:
            return correction(original, *args, **named)

        setattr(module, name, corrected)

    return install


@correct(iam_actions, "_s3_object_context")
def upload_names_its_key(
    context: Callable[..., dict[str, Any]],
    action: str,
    query: dict[str, Any],
    path: str,
    headers: dict[str, str],
) -> dict[str, Any]:
    """Let policies see the key that an upload asks for.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/amazon-s3-policy-keys.html
    """
    key = {SSE_KEY: headers[SSE_KEY_HEADER]} if SSE_KEY_HEADER in headers else {}
    return context(action, query, path, headers) | key


@correct(iam_evaluator, "enforce")
def upload_needs_its_key(
    enforce: Callable[..., Any], caller: str, action: str, service: str, region: str, **about: Any
) -> Any:
    """Ask KMS, as S3 does for its caller, whether an upload may use the key that it names.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html
    """
    refusal = enforce(caller, action, service, region, **about)
    key = (about.get("service_context") or {}).get(SSE_KEY)
    if refusal or key is None:
        return refusal
    via_s3 = {"kms:ViaService": f"s3.{region}.amazonaws.com"}
    return enforce(
        *(caller, "kms:GenerateDataKey", "kms", region), resource_arn=key, service_context=via_s3
    )


@correct(kms, "key_policy_for_arn")
def key_of_another_account_has_a_policy(
    policy: Callable[[str], tuple[str, str] | None], key: str
) -> tuple[str, str] | None:
    """Find the policy of a key in whichever account its ARN names.

    Source: https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-modifying-external-accounts.html
    """
    found = policy(key)
    if found or not key.startswith("arn:"):
        return found
    *_, region, account, name = key.split(":")
    record = kms._keys.get_scoped(account, region, name.removeprefix("key/"))
    return (record["Policy"], account) if record else ("", account)


@correct(provisioners, "_kms_alias_create")
def alias_is_taken_once(
    create: Callable[..., Any], logical_id: str, properties: dict[str, Any], stack: str
) -> Any:
    """Refuse an alias that a key has already, instead of moving it.

    Source: https://docs.aws.amazon.com/kms/latest/APIReference/API_CreateAlias.html
    """
    arn = kms._alias_arn(properties["AliasName"])
    if arn in kms._aliases:
        raise ValueError(f"An alias with the name {arn} already exists")
    return create(logical_id, properties, stack)


provisioners._RESOURCE_HANDLERS["AWS::KMS::Alias"]["create"] = provisioners._kms_alias_create


def _end_with_caller() -> None:
    """Wait until nobody holds the other end of standard input, then end."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


# Whoever started the stand-in may be killed before it could end it.
threading.Thread(target=_end_with_caller, daemon=True).start()
