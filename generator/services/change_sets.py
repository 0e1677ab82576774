"""CloudFormation's change sets: what a deployment would do, shown before it is done.

Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-updating-stacks-changesets.html
"""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from generator import terminal
from generator.errors import GeneratorError
from generator.services import stacks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import (
        ChangeTypeDef,
        ParameterTypeDef,
        ResourceChangeTypeDef,
    )

POLL_SECONDS: Final = 1
NOTHING: Final = ("didn't contain changes", "No updates are to be performed")
SIGNS: Final = {"Add": "+", "Modify": "~", "Remove": "-", "Import": ">", "Dynamic": "?"}


@dataclass
class ChangeSet:
    """A change set, executed or not."""

    stack: str
    stack_id: str
    id: str
    new: bool
    changes: list[ResourceChangeTypeDef]
    executed: bool = False


@contextmanager
def proposed(  # noqa: PLR0913 - what a change set is made of
    cloudformation: CloudFormationClient,
    stack: str,
    template: str,
    parameters: Mapping[str, str | None],
    *,
    new: bool,
    tags: Iterable[tuple[str, str]] | None = None,
) -> Iterator[ChangeSet | None]:
    """Have CloudFormation compute what a deployment would change; yield None if nothing.

    A change set that was not executed is removed at the end of the block, together with the
    empty stack that CloudFormation creates for the change set of a new stack.

    Args:
        cloudformation: the client.
        stack: the stack's name.
        template: its text.
        parameters: name to value; None keeps the stack's present value.
        new: the stack does not exist yet.
        tags: of the stack, which CloudFormation puts on its resources, too; without any it keeps
            those that it has.

    Raises:
        GeneratorError: CloudFormation cannot make the change set.
    """
    given: list[ParameterTypeDef] = [
        {"ParameterKey": name, "UsePreviousValue": True}
        if value is None
        else {"ParameterKey": name, "ParameterValue": value}
        for name, value in parameters.items()
    ]
    # An empty list would remove the tags that the stack has.
    tagged: Any = {"Tags": [{"Key": name, "Value": value} for name, value in tags]} if tags else {}
    made = cloudformation.create_change_set(
        StackName=stack,
        ChangeSetName=f"application-encryptor-{uuid.uuid4()}",
        ChangeSetType="CREATE" if new else "UPDATE",
        TemplateBody=template,
        Parameters=given,
        Capabilities=["CAPABILITY_IAM"],
        **tagged,
    )
    change_set = ChangeSet(stack, made["StackId"], made["Id"], new, [])
    try:
        found = _made(cloudformation, change_set.id)
        if found is not None:
            change_set.changes = [change["ResourceChange"] for change in found]
        yield None if found is None else change_set
    finally:
        if not change_set.executed:
            _remove(cloudformation, change_set)


def _made(cloudformation: CloudFormationClient, change_set: str) -> list[ChangeTypeDef] | None:
    """Wait for the change set; return its changes of resources, None if nothing changes."""
    while True:
        found = cloudformation.describe_change_set(ChangeSetName=change_set)
        status, reason = found["Status"], found.get("StatusReason", "")
        if status == "FAILED" and any(each in reason for each in NOTHING):
            return None
        if status == "FAILED":
            raise GeneratorError(
                f"CloudFormation cannot create the change set: {reason or 'no reason given'}"
            )
        if status == "CREATE_COMPLETE":
            break
        time.sleep(POLL_SECONDS)
    changes = list(found["Changes"])
    while token := found.get("NextToken"):
        found = cloudformation.describe_change_set(ChangeSetName=change_set, NextToken=token)
        changes += found["Changes"]
    return [change for change in changes if "ResourceChange" in change]


def _remove(cloudformation: CloudFormationClient, change_set: ChangeSet) -> None:
    """Remove a change set that was not executed, and the stack that exists only for it."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        stack = stacks.find(cloudformation, change_set.stack_id)
        if change_set.new and stack and stack["StackStatus"] == stacks.REVIEWED:
            cloudformation.delete_stack(StackName=change_set.stack_id)
        else:
            cloudformation.delete_change_set(ChangeSetName=change_set.id)
    except (BotoCoreError, ClientError):
        # The earlier error is the one to report; a change set that remains changes nothing.
        return


def show(changes: list[ResourceChangeTypeDef]) -> None:
    """Print what would happen to each resource, marking those that are replaced."""
    for change in changes:
        sign = SIGNS.get(change.get("Action", ""), "?")
        replaced = change.get("Replacement")
        note = {"True": ", REPLACED by a new one", "Conditional": ", possibly replaced"}
        what = f"{change.get('LogicalResourceId')}  {change.get('ResourceType')}"
        terminal.say(f"  {sign} {what}{note.get(replaced or '', '')}")


def execute(cloudformation: CloudFormationClient, change_set: ChangeSet) -> None:
    """Execute a change set and print the stack's events until the deployment has ended.

    Raises:
        GeneratorError: the deployment failed.
    """
    mark = stacks.newest_event(cloudformation, change_set.stack_id)
    cloudformation.execute_change_set(ChangeSetName=change_set.id)
    change_set.executed = True
    try:
        status = stacks.follow(cloudformation, change_set.stack_id, mark)
    except KeyboardInterrupt as interrupt:
        continues = f"the deployment of stack {change_set.stack} continues: follow its events"
        interrupt.args = (f"interrupted: {continues}",)
        raise
    if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        why = stacks.first_failure(cloudformation, change_set.stack_id, mark)
        raise GeneratorError(f"the deployment ended in {status}: {why}")
