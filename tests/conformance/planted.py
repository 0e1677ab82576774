"""Planted differences from AWS, and the step that must report each."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

from tests.support.endpoint import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conformance.amazon import Amazon
    from tests.support.endpoint import Exchange

ETAG = '"0123456789abcdef0123456789abcdef"'
OTHER_KEY = "arn:aws:kms:eu-central-1:999999999999:key/99999999-2222-3333-4444-555555555555"
COMPOSITE = "x-amz-checksum-type"


@dataclass(frozen=True)
class Planted:
    """A difference: the step that reports it, and what its answer contains."""

    step: str
    says: str
    plant: Callable[[Amazon], None]


def _altering(operation: str, alter: Callable[[Exchange], None]) -> Callable[[Amazon], None]:
    """Alter the responses to an operation, after any other alteration."""

    def plant(amazon: Amazon) -> None:
        before = amazon.endpoint.altered.get(operation)

        def both(exchange: Exchange) -> None:
            if before:
                before(exchange)
            alter(exchange)

        amazon.endpoint.altered[operation] = both

    return plant


def _json(change: Callable[[dict[str, Any]], None]) -> Callable[[Exchange], None]:
    def alter(exchange: Exchange) -> None:
        answer = json.loads(exchange.content)
        change(answer)
        exchange.content = json.dumps(answer).encode()

    return alter


def _accepted(name: str, content: bytes = b"") -> Callable[[Exchange], None]:
    """Accept an upload to an object of that name although the emulator refuses it."""

    def alter(exchange: Exchange) -> None:
        if name in exchange.path and exchange.status == 403:
            exchange.status, exchange.content = 200, content
            exchange.answered = {"etag": ETAG}

    return alter


def _policy_accepted(principal: str) -> Callable[[Exchange], None]:
    """Accept a key policy that names *principal* although the emulator refuses it."""

    def alter(exchange: Exchange) -> None:
        alone = ":root" not in json.loads(exchange.body)["Policy"]
        if exchange.status == 400 and alone == (principal == "nobody"):
            exchange.status, exchange.content = 200, b"{}"

    return alter


def _without(header: str) -> Callable[[Exchange], None]:
    def alter(exchange: Exchange) -> None:
        exchange.answered.pop(header, None)

    return alter


def _under_another_key(exchange: Exchange) -> None:
    name = "x-amz-server-side-encryption-aws-kms-key-id"
    if name in exchange.answered:
        exchange.answered[name] = OTHER_KEY


def _decrypts_for(role: str) -> Callable[[Amazon], None]:
    """Release the data key to a role without attestation."""

    def plant(amazon: Amazon) -> None:
        decrypt = amazon.endpoint.signed["Decrypt"]

        def answer(headers: dict[str, str], body: bytes) -> Any:  # noqa: ANN401 - as played
            try:
                return decrypt(headers, body)
            except Refused:
                if f"-{role}/" not in amazon.kms.trail[-1].caller:
                    raise
                return {"KeyId": json.loads(body)["KeyId"], "Plaintext": "AAAA"}

        amazon.endpoint.signed["Decrypt"] = answer

    return plant


def _no_log_group(answer: dict[str, Any]) -> None:
    answer["logGroups"] = []


def _no_tags(answer: dict[str, Any]) -> None:
    answer["Tags"] = []


def _other_settings(answer: dict[str, Any]) -> None:
    for project in answer["projects"]:
        project["queuedTimeoutInMinutes"] = 480


def _pending(answer: dict[str, Any]) -> None:
    answer["KeyMetadata"]["KeyState"] = "PendingDeletion"


def _deleted_with_its_key(amazon: Amazon) -> None:
    """Make a stack and its key look deleted, although both stay for later tests."""

    def gone(exchange: Exchange) -> None:
        status = b"<StackStatus>DELETE_COMPLETE<"
        exchange.content = re.sub(rb"<StackStatus>[A-Z_]+<", status, exchange.content)

    endpoint = amazon.endpoint
    endpoint.answers["DeleteStack"] = "<DeleteStackResponse/>"
    endpoint.before["DeleteStack"] = [lambda: _altering("DescribeStacks", gone)(amazon)]
    _altering("DescribeKey", _json(_pending))(amazon)


def _small_disk(amazon: Amazon) -> None:
    amazon.image["disk"] = "9000000000"


def _trusting(everybody: bool) -> Callable[[Amazon], None]:  # noqa: FBT001 - one of two
    def plant(amazon: Amazon) -> None:
        amazon.trusts = lambda _: everybody

    return plant


def _default_encryption(amazon: Amazon) -> None:
    answers = amazon.endpoint.answers
    answers["GET bucket encryption"] = answers["GET bucket encryption"].replace("aws:kms", "AES256")


def _longer_buildspec(amazon: Amazon) -> None:
    """Exceed the limit: the emulator receives a buildspec that is 1,000 characters longer."""

    def longer(body: bytes) -> bytes:
        fields = parse_qs(body.decode(), keep_blank_values=True)
        form = {name: values[0] for name, values in fields.items()}
        template = form["TemplateBody"]
        at = template.index("          version: 0.2\n")
        form["TemplateBody"] = f"{template[:at]}          # {'x' * 1000}\n{template[at:]}"
        return urlencode(form).encode()

    amazon.endpoint.rewritten["CreateChangeSet"] = longer


def _no_acls(amazon: Amazon) -> None:
    """Refuse every ACL, like a bucket whose owner has disabled them."""

    def refuse(exchange: Exchange) -> None:
        if "-classic-" in exchange.path and "x-amz-acl" in exchange.headers:
            exchange.status = 400
            exchange.content = (
                b"<Error><Code>AccessControlListNotSupported</Code>"
                b"<Message>The bucket does not allow ACLs</Message></Error>"
            )

    _altering("PUT object", refuse)(amazon)


def _no_parts(amazon: Amazon) -> None:
    amazon.endpoint.refusals["POST object uploads"] = "AccessDenied"


OBSERVED = (
    Planted("object-encryption", OTHER_KEY, _altering("HEAD object", _under_another_key)),
    Planted(
        "object-checksum",
        "S3 returns no SHA-256",
        _altering("HEAD object", _without("x-amz-checksum-sha256")),
    ),
    Planted("build-log", "does not exist", _altering("DescribeLogGroups", _json(_no_log_group))),
    Planted("build-image", "9,000,000,000 bytes of disk are free", _small_disk),
    Planted("tags", "has no tags", _altering("ListResourceTags", _json(_no_tags))),
    Planted("bucket-settings", "encryption is not", _default_encryption),
    Planted("project-settings", "480", _altering("BatchGetProjects", _json(_other_settings))),
    Planted(
        "classic-without-acl",
        "it was accepted",
        _altering("PUT object", _accepted("/without-acl")),
    ),
    Planted(
        "classic-multipart",
        "it was accepted",
        _altering("PUT object partNumber", _accepted("/parts")),
    ),
    Planted("other-owner", "it was accepted", _altering("PUT object", _accepted("/other-owner"))),
    Planted("other-key", "it was accepted", _altering("PUT object", _accepted("/other-key"))),
    Planted("other-project", "the build succeeded", _trusting(everybody=True)),
    Planted("host-denied", "it was accepted", _decrypts_for("parent")),
    Planted("administrator-denied", "it was accepted", _decrypts_for("administrator")),
    Planted(
        "lockout",
        "it was accepted",
        _altering("PutKeyPolicy", _policy_accepted("nobody")),
    ),
    Planted(
        "unknown-principal",
        "it was accepted",
        _altering("PutKeyPolicy", _policy_accepted("absent")),
    ),
)
"""Each observed on existing resources: all of them in one run."""
BLOCKING = (
    Planted("build", "AssumeRole", _trusting(everybody=False)),
    Planted("classic-with-acl", "AccessControlListNotSupported", _no_acls),
    Planted("shared-multipart", "AccessDenied", _no_parts),
    Planted("deletion", "the key is PendingDeletion", _deleted_with_its_key),
)
"""Each makes dependent steps be skipped."""
LIMIT = (Planted("owner-stack", "Max buildspec length", _longer_buildspec),)
RUNS = {"observed": OBSERVED, "blocking": BLOCKING, "limit": LIMIT}
