"""Patches of the emulator: what it lacks and the project depends on; `aws.py` serves the result.

This module runs in the emulator's own environment. Each patch makes the emulator
refuse what AWS refuses. They use internal names of a locked version: if one of them
disappears, the emulator does not start.
"""

# This module works on internals of the emulator, which have no types:
# ruff: noqa: ANN401, SLF001

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

from generator.limits import BUILDSPEC_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

# The emulator is not installed where the project's types are checked.
ministack = import_module("ministack.app")
s3 = import_module("ministack.services.s3")
kms = import_module("ministack.services.kms")
iam = import_module("ministack.services.iam")
codebuild = import_module("ministack.services.codebuild")
responses = import_module("ministack.core.responses")
iam_actions = import_module("ministack.core.iam_actions")
iam_evaluator = import_module("ministack.core.iam_evaluator")
provisioners = import_module("ministack.services.cloudformation.provisioners")

SSE_KEY_HEADER = "x-amz-server-side-encryption-aws-kms-key-id"
SSE_KEY = f"s3:{SSE_KEY_HEADER}"
ACCOUNT = re.compile(r"\d{12}|arn:aws[a-z-]*:iam::\d{12}:root")
BUILDSPEC_TOO_LONG = f"Max buildspec length is {BUILDSPEC_MAX}"
BYPASS = "BypassPolicyLockoutSafetyCheck"
IDENTITY = re.compile(r"arn:aws[a-z-]*:(?:iam|sts)::(\d{12}):(user|role|assumed-role)/(.+)")
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


def patch(module: Any, name: str) -> Callable[[Callable[..., Any]], None]:
    """Replace *module*'s function *name*; the patch gets the original as first argument."""
    original = getattr(module, name)

    def install(replacement: Callable[..., Any]) -> None:
        @wraps(original)
        def patched(*args: Any, **named: Any) -> Any:
            return replacement(original, *args, **named)

        setattr(module, name, patched)

    return install


@patch(iam_actions, "_s3_object_context")
def upload_names_its_key(
    context: Callable[..., dict[str, Any]],
    action: str,
    query: dict[str, Any],
    path: str,
    headers: dict[str, str],
) -> dict[str, Any]:
    """Make the key that an upload asks for visible to policies.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/amazon-s3-policy-keys.html
    """
    key = {SSE_KEY: headers[SSE_KEY_HEADER]} if SSE_KEY_HEADER in headers else {}
    return context(action, query, path, headers) | key


@patch(iam_evaluator, "enforce")
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


@patch(iam_evaluator, "enforce")
def upload_with_an_acl_needs_its_permission(
    enforce: Callable[..., Any], caller: str, action: str, service: str, region: str, **about: Any
) -> Any:
    """Refuse an upload that sets an ACL if the caller may upload, but not set ACLs.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html, Permissions
    """
    refusal = enforce(caller, action, service, region, **about)
    context = about.get("service_context") or {}
    if refusal or action != "s3:PutObject" or "s3:x-amz-acl" not in context:
        return refusal
    return enforce(caller, "s3:PutObjectAcl", service, region, **about)


@patch(s3, "_put_object")
def upload_is_answered_with_its_checksum(
    put: Callable[..., Any], bucket: str, key: str, body: bytes, headers: dict[str, str]
) -> Any:
    """Answer with the checksum that came with the object, which S3 has verified.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html
    """
    status, answer, content = put(bucket, key, body, headers)
    checksums = {name: headers[name] for name in headers if name.startswith("x-amz-checksum-")}
    return status, answer | checksums, content


@patch(kms, "key_policy_for_arn")
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


@patch(provisioners, "_kms_alias_create")
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


@patch(codebuild, "_create_project")
def new_project_has_a_short_buildspec(create: Callable[..., Any], request: dict[str, Any]) -> Any:
    """Refuse to create a project whose buildspec CodeBuild refuses; see `BUILDSPEC_MAX`."""
    return _refusal_of_buildspec(request.get("source", {}).get("buildspec")) or create(request)


@patch(codebuild, "_update_project")
def changed_project_has_a_short_buildspec(
    update: Callable[..., Any], request: dict[str, Any]
) -> Any:
    """Refuse to give a project a buildspec that CodeBuild refuses."""
    return _refusal_of_buildspec(request.get("source", {}).get("buildspec")) or update(request)


@patch(codebuild, "_start_build")
def build_has_a_short_buildspec(start: Callable[..., Any], request: dict[str, Any]) -> Any:
    """Refuse to start a build whose own buildspec is one that CodeBuild refuses."""
    return _refusal_of_buildspec(request.get("buildspecOverride")) or start(request)


@patch(provisioners, "_codebuild_project_create")
def created_stack_has_a_short_buildspec(
    create: Callable[..., Any], logical_id: str, properties: dict[str, Any], stack: str
) -> Any:
    """Make a stack fail on CodeBuild's refusal, which the emulator ignores."""
    _require_short_buildspec(properties)
    return create(logical_id, properties, stack)


@patch(provisioners, "_codebuild_project_update")
def updated_stack_has_a_short_buildspec(
    update: Callable[..., Any],
    physical_id: str,
    old: dict[str, Any],
    new: dict[str, Any],
    stack: str,
) -> Any:
    """Make an update of a stack fail on CodeBuild's refusal."""
    _require_short_buildspec(new)
    return update(physical_id, old, new, stack)


provisioners._RESOURCE_HANDLERS["AWS::CodeBuild::Project"] |= {
    "create": provisioners._codebuild_project_create,
    "update": provisioners._codebuild_project_update,
}


def _refusal_of_buildspec(buildspec: str | None) -> Any:
    """Answer as CodeBuild does to a request with *buildspec* if that is too long, else None."""
    if len(buildspec or "") <= BUILDSPEC_MAX:
        return None
    return responses.error_response_json("InvalidInputException", BUILDSPEC_TOO_LONG)


def _require_short_buildspec(properties: dict[str, Any]) -> None:
    if len(properties.get("Source", {}).get("BuildSpec") or "") > BUILDSPEC_MAX:
        raise ValueError(f"{BUILDSPEC_TOO_LONG} (Service: AWSCodeBuild; Status Code: 400)")


@patch(kms, "_create_key")
def new_key_needs_a_sound_policy(create: Callable[..., Any], request: dict[str, Any]) -> Any:
    """Refuse to create a key whose policy KMS refuses.

    Source: https://docs.aws.amazon.com/kms/latest/APIReference/API_CreateKey.html
    """
    return _refusal_of_policy(request) or create(request)


@patch(provisioners, "_kms_create_key_payload")
def stack_may_bypass_the_check(
    payload: Callable[..., dict[str, Any]], properties: dict[str, Any]
) -> dict[str, Any]:
    """Pass on a property of the key that the emulator forgets.

    Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-kms-key.html
    """
    return payload(properties) | {BYPASS: properties.get(BYPASS, False)}


@patch(kms, "_replicate_key")
def replica_needs_a_sound_policy(replicate: Callable[..., Any], request: dict[str, Any]) -> Any:
    """Refuse to replicate a key under a policy that KMS refuses.

    Source: https://docs.aws.amazon.com/kms/latest/APIReference/API_ReplicateKey.html
    """
    return _refusal_of_policy(request) or replicate(request)


@patch(kms, "_put_key_policy")
def changed_policy_is_sound(put: Callable[..., Any], request: dict[str, Any]) -> Any:
    """Refuse to give a key a policy that KMS refuses.

    Source: https://docs.aws.amazon.com/kms/latest/APIReference/API_PutKeyPolicy.html
    """
    return _refusal_of_policy(request) or put(request)


@patch(provisioners, "_kms_key_update")
def updated_stack_needs_a_sound_policy(
    update: Callable[..., Any],
    physical_id: str,
    old: dict[str, Any],
    new: dict[str, Any],
    stack: str,
) -> Any:
    """Refuse a policy in an update of a stack as CloudFormation's own PutKeyPolicy would."""
    bypass = bool(new.get(BYPASS))
    fault = (
        _fault_of_policy(new["KeyPolicy"], physical_id, bypass=bypass)
        if "KeyPolicy" in new
        else None
    )
    if fault:
        raise ValueError(f"{fault} (Service: Kms, Status Code: 400)")
    return update(physical_id, old, new, stack)


provisioners._RESOURCE_HANDLERS["AWS::KMS::Key"]["update"] = provisioners._kms_key_update


def _refusal_of_policy(request: dict[str, Any]) -> Any:
    """Answer as KMS does to a *request* with a policy that it refuses; None for any other."""
    if "Policy" not in request:
        return None
    bypass = request.get(BYPASS, False)
    fault = _fault_of_policy(request["Policy"], request.get("KeyId"), bypass=bool(bypass))
    return (
        responses.error_response_json("MalformedPolicyDocumentException", fault) if fault else None
    )


def _fault_of_policy(policy: str | dict[str, Any], key: str | None, *, bypass: bool) -> str | None:
    """Say in KMS's words why it refuses *policy* for *key*, or for a new one, of the caller's."""
    try:
        document = json.loads(policy) if isinstance(policy, str) else policy
        named = [
            principal for statement in _statements(document) for principal in _named(statement)
        ]
    except (ValueError, AttributeError, TypeError):
        return "The new key policy is not valid."
    if not all(map(_exists, named)):
        return "Policy contains a statement with one or more invalid principals."
    if not bypass and not _lets_caller_change_it(document, key):
        return "The new key policy will not allow you to update the key policy in the future."
    return None


def _statements(document: dict[str, Any]) -> list[dict[str, Any]]:
    statements = document.get("Statement", [])
    return statements if isinstance(statements, list) else [statements]


def _named(statement: dict[str, Any]) -> list[str]:
    """List the AWS principals that a *statement* names."""
    principal = statement.get("Principal", statement.get("NotPrincipal", {}))
    found = principal.get("AWS", []) if isinstance(principal, dict) else principal
    return [found] if isinstance(found, str) else found


def _exists(principal: str) -> bool:
    """Whether *principal* is somebody: here any twelve digits are an account.

    "The principals in the key policy must exist and be visible to AWS KMS": a role or user by
    the path in its ARN, a session by its role.
    """
    if principal == "*" or ACCOUNT.fullmatch(principal):
        return True
    arn = IDENTITY.fullmatch(principal)
    if arn is None:
        return False
    account, kind, name = arn.groups()
    if kind == "assumed-role":
        return iam._roles.get_scoped(account, None, name.partition("/")[0]) is not None
    store = iam._users if kind == "user" else iam._roles
    record = store.get_scoped(account, None, name.rpartition("/")[2])
    return record is not None and bool(record["Arn"] == principal)


def _lets_caller_change_it(document: dict[str, Any], key: str | None) -> bool:
    """Whether *document* lets the caller, or IAM policies of the caller's account, change it.

    "The key policy must allow the principal that is making the request to make a subsequent
    PutKeyPolicy request on the KMS key."
    """
    caller, account = iam_evaluator.caller_arn(), responses.get_account_id()
    record = kms._resolve_key(key) if key else None
    request = iam_evaluator.EvalContext(
        principal_arn=caller,
        principal_type="Root" if caller.endswith(":root") else "AssumedRole",
        principal_account=account,
        action="kms:PutKeyPolicy",
        resource_arn=record["Arn"] if record else kms._arn("new"),
        region=responses.get_region(),
        service_context={"kms:calleraccount": account},
    )
    return bool(iam_evaluator.evaluate_resource_policy(document, request).decision == "Allow")


def _end_with_caller() -> None:
    """Wait until nobody holds the other end of standard input, then end."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


# Whoever started the emulator may be killed before it could end it.
threading.Thread(target=_end_with_caller, daemon=True).start()
