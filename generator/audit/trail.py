"""CloudTrail's events about one key, from the event history or from a trail's files.

Sources: https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html,
https://docs.aws.amazon.com/kms/latest/developerguide/logging-using-cloudtrail.html
"""

from __future__ import annotations

import gzip
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from generator.errors import GeneratorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import BinaryIO

    Event = Mapping[str, Any]

SERVICE: Final = "kms.amazonaws.com"
HISTORY_DAYS: Final = 90
"""How far CloudTrail's event history goes back."""
FILE_MAX: Final = 512 << 20
"""Bytes of a decompressed file: CloudTrail delivers files of at most a few tens of megabytes."""
GZIP: Final = b"\x1f\x8b"
SUFFIXES: Final = (".json", ".json.gz")
STANDARD_INPUT: Final = "-"
PARTS: Final = ("userIdentity", "requestParameters", "responseElements", "additionalEventData")


def concerns(event: Event, arn: str) -> bool:
    """Return whether an event is about the key *arn*: KMS names it in one of three places."""
    if event.get("eventSource") != SERVICE:
        return False
    return arn in resources(event) or any(
        names(event[where].get(name), arn)
        for where in ("requestParameters", "responseElements")
        for name in ("keyId", "sourceKeyId", "targetKeyId", "destinationKeyId")
    )


def may_decrypt_with(event: Event, arn: str) -> bool:
    """Return whether a decryption may be with the key *arn*: it names an alias at most, no key."""
    if event.get("eventSource") != SERVICE or any(":key/" in each for each in resources(event)):
        return False
    asked = (event["requestParameters"].get(name) for name in ("keyId", "sourceKeyId"))
    return all(names(each, arn) is None for each in asked if each is not None)


def names(name: object, arn: str) -> bool | None:
    """Return whether a request's *name* of a key means the key *arn*, None for an alias.

    Where an alias leads is not in the event: it may be changed.
    """
    text = str(name)
    if text in (arn, arn.rpartition("/")[2]):
        return True
    place, alias, _ = text.rpartition(":alias/")
    if alias:  # an alias and its key are in the same account and region
        return None if place == arn.rpartition(":key/")[0] else False
    return None if text.startswith("alias/") else False


def resources(event: Event) -> list[str]:
    """Return the ARNs of the resources that an event names, in its order."""
    found = event.get("resources")
    named = found if isinstance(found, list) else []
    return [str(each.get("ARN")) for each in named if isinstance(each, dict)]


def when(event: Event) -> datetime:
    """Return the event's time.

    Raises:
        GeneratorError: it has none.
    """
    try:
        time = datetime.fromisoformat(str(event["eventTime"]))
    except (KeyError, ValueError) as error:
        raise GeneratorError(
            f"event {event.get('eventID')}: has no valid eventTime: pass the files as the trail "
            "delivered them"
        ) from error
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)


def _normal(event: dict[str, Any]) -> Event:
    """Return an event whose parts are all mappings: CloudTrail writes null for an empty one."""
    parts = {part: event.get(part) for part in PARTS}
    return event | {part: each if isinstance(each, dict) else {} for part, each in parts.items()}


def lookup(
    cloudtrail: Any,  # noqa: ANN401 - boto3's
    arn: str,
    since: datetime | None,
    count: Callable[[int], None],
) -> Iterator[Event]:
    """Yield the event history's events about the key *arn*; *count* gets the size of each page.

    Events name a key by its ARN, or by its id alone if the caller did.

    Raises:
        botocore.exceptions.ClientError: AWS refuses.
    """
    pages = cloudtrail.get_paginator("lookup_events")
    start = {"StartTime": since} if since else {}
    for name in (arn, arn.rpartition("/")[2]):
        attribute = {"AttributeKey": "ResourceName", "AttributeValue": name}
        for page in pages.paginate(LookupAttributes=[attribute], **start):
            count(len(page["Events"]))
            for event in page["Events"]:
                yield _normal(json.loads(event["CloudTrailEvent"]))


def read(name: str, count: Callable[[int], None]) -> Iterator[Event]:
    """Yield the events in a trail's file, in all files of a folder, or in standard input.

    The output of `aws cloudtrail lookup-events` is accepted, too. *count* gets the number of events
    in each file.

    Raises:
        GeneratorError: a file cannot be read, or does not contain CloudTrail events.
    """
    if name == STANDARD_INPUT:
        yield from _events(_unpacked(name, sys.stdin.buffer), name, count)
        return
    path = Path(name)
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.name.endswith(SUFFIXES))
        # A trail's digest files are delivered next to its log files and hold no events.
        files = [each for each in files if "CloudTrail-Digest" not in each.parts]
        if not files:
            raise GeneratorError(
                f"{name}: contains no *.json or *.json.gz files: pass the folder of a trail"
            )
    else:
        files = [path]
    for file in files:
        try:
            with file.open("rb") as opened:
                text = _unpacked(str(file), opened)
        except OSError as error:
            why = error.strerror or "is incomplete"
            raise GeneratorError(f"{file}: {why}: pass a trail's file or folder") from error
        yield from _events(text, str(file), count)


def _unpacked(name: str, file: BinaryIO) -> bytes:
    """Read a file, decompressed if it is compressed, up to FILE_MAX bytes."""
    opening = file.peek(len(GZIP))[: len(GZIP)] if hasattr(file, "peek") else b""
    try:
        source = gzip.GzipFile(fileobj=file) if opening == GZIP else file
        text = source.read(FILE_MAX + 1)
    except (EOFError, gzip.BadGzipFile) as error:
        raise GeneratorError(f"{name}: is damaged: copy it again") from error
    if len(text) > FILE_MAX:
        raise GeneratorError(
            f"{name}: has more than {FILE_MAX >> 20} MiB: name the files that a trail delivered"
        )
    return text


def _events(text: bytes, name: str, count: Callable[[int], None]) -> Iterator[Event]:
    try:
        try:
            found = json.loads(text)
        except json.JSONDecodeError:  # one event per line
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        events = list(_unwrapped(found))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise GeneratorError(
            f"{name}: does not contain CloudTrail events: pass a trail's file, or the output of "
            "aws cloudtrail lookup-events"
        ) from error
    count(len(events))
    yield from events


def _unwrapped(found: Any) -> Iterator[Event]:  # noqa: ANN401 - whatever a file holds
    """Yield the events in a trail's Records, lookup-events' Events, in a list, or as one."""
    if isinstance(found, dict) and "Records" in found:
        found = found["Records"]
    elif isinstance(found, dict) and "Events" in found:
        found = [json.loads(each["CloudTrailEvent"]) for each in found["Events"]]
    elif isinstance(found, dict):
        found = [found]
    for each in found:
        # EventBridge delivers the event as the detail of its own event.
        event = each.get("detail", each) if isinstance(each, dict) else each
        if (
            not isinstance(event, dict)
            or "eventSource" not in event
            or not isinstance(event.get("eventName"), str | None)
        ):
            raise TypeError(event)
        yield _normal(event)
