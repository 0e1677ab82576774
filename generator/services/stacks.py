"""CloudFormation stacks as the verbs use them: finding, following, and explaining failures.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Final

from generator import terminal
from generator.errors import GeneratorError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import StackEventTypeDef, StackTypeDef

POLL_SECONDS: Final = 2
NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}|arn:[^:]+:cloudformation:.+")
REVIEWED: Final = "REVIEW_IN_PROGRESS"
"""Status of a stack that consists of nothing but a change set."""
HINTS: Final = (
    (r"(?i)alias.*already exists", "choose another EncryptionKeyAlias, or delete that alias"),
    (
        r"(?i)invalid principal|MalformedPolicyDocument",
        "the role that ParentInstanceRoleName names must exist in the host's account",
    ),
    (r"(?i)not authorized|AccessDenied", "ask for that permission, then deploy again"),
    (r"(?i)already exists", "choose another name, or delete the resource that has it"),
)


def find(cloudformation: CloudFormationClient, name: str) -> StackTypeDef | None:
    """Return the description of the stack *name*, None if there is none.

    Raises:
        botocore.exceptions.ClientError: AWS refuses.
    """
    from botocore.exceptions import ClientError

    try:
        return cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        message = error.response.get("Error", {}).get("Message", "")
        if "does not exist" in message:
            return None
        raise


def existing(cloudformation: CloudFormationClient, name: str) -> StackTypeDef:
    """Return the description of the stack *name*.

    Raises:
        GeneratorError: there is none.
    """
    stack = find(cloudformation, name)
    if stack is None or stack["StackStatus"] == REVIEWED:
        region = cloudformation.meta.region_name
        raise GeneratorError(
            f"stack {name}: does not exist in {region}: correct --stack-name or --region, "
            "or deploy it first"
        )
    return stack


def outputs(stack: StackTypeDef) -> dict[str, str]:
    """Return the stack's outputs."""
    return {each["OutputKey"]: each["OutputValue"] for each in stack.get("Outputs", [])}


def parameters(stack: StackTypeDef) -> dict[str, str]:
    """Return the values of the stack's parameters."""
    return {
        each["ParameterKey"]: each.get("ParameterValue", "") for each in stack.get("Parameters", [])
    }


def newest_event(cloudformation: CloudFormationClient, name: str) -> str | None:
    """Return the id of the stack's newest event: `follow` shows the events after it."""
    events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
    return events[0]["EventId"] if events else None


def follow(cloudformation: CloudFormationClient, stack_id: str, mark: str | None) -> str:
    """Print each event of the stack after the event *mark*, until the operation has ended.

    Returns:
        The stack's final status, like UPDATE_COMPLETE.
    """
    status = ""
    while True:
        for event in reversed(list(_since(cloudformation, stack_id, mark))):
            mark = event["EventId"]
            terminal.say(_line(event))
            if event.get("PhysicalResourceId") == event["StackId"]:
                status = event.get("ResourceStatus", "")
        # After an update, replaced resources are removed: CLEANUP_IN_PROGRESS precedes the end.
        if status.endswith(("_COMPLETE", "_FAILED")):
            return status
        time.sleep(POLL_SECONDS)


def _since(
    cloudformation: CloudFormationClient, stack_id: str, mark: str | None
) -> Iterator[StackEventTypeDef]:
    """Yield the events after *mark*, the newest first."""
    pages = cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack_id)
    for page in pages:
        for event in page["StackEvents"]:
            if event["EventId"] == mark:
                return
            yield event


def _line(event: StackEventTypeDef) -> str:
    time_of_day = event["Timestamp"].astimezone().strftime("%H:%M:%S")
    reason = event.get("ResourceStatusReason", "")
    what = f"{event.get('ResourceStatus', ''):<28} {event.get('LogicalResourceId', '')}"
    return f"  {time_of_day}  {what}{f': {reason}' if reason else ''}"


def first_failure(cloudformation: CloudFormationClient, stack_id: str, mark: str | None) -> str:
    """Return what failed first after the event *mark*, why, and what to do."""
    failed = [
        event
        for event in _since(cloudformation, stack_id, mark)
        if event.get("ResourceStatus", "").endswith("_FAILED")
    ]
    if not failed:
        return "no resource gives a reason: read the stack's events in the console"
    return explained_failure(failed[-1])


def explained_failure(event: Mapping[str, Any]) -> str:
    """Return the reason of a failed event and what to do."""
    reason = str(event.get("ResourceStatusReason", "no reason given"))
    hint = next(
        (hint for pattern, hint in HINTS if re.search(pattern, reason)),
        "correct that, then deploy again",
    )
    return f"{event.get('LogicalResourceId')}: {reason.rstrip('.')}: {hint}"
