"""Deploys stacks without the AWS CLI, whose start takes longer than the deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehearsal.aws import REGION, CommandError
from tests.support.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rehearsal.aws import Aws, Credentials

POLL = {"Delay": 0.05, "MaxAttempts": 1200}


def deploy(  # noqa: PLR0913 - as Aws.deploy has them
    aws: Aws,
    principal: Credentials,
    stack: str,
    template: Path | str,
    parameters: Mapping[str, str],
    *,
    region: str = REGION,
) -> dict[str, str]:
    """Create or update *stack*, as `Aws.deploy` does; *template* may also be its text.

    Raises:
        CommandError: CloudFormation refuses, or the stack rolls back.
    """
    cloudformation = aws.client(principal, "cloudformation", region)
    given = {
        "StackName": stack,
        "TemplateBody": template if isinstance(template, str) else template.read_text(),
        "Capabilities": ["CAPABILITY_IAM"],
        "Parameters": [
            {"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()
        ],
    }
    failure = cloudformation.exceptions.ClientError

    def described() -> dict[str, Any]:
        found: dict[str, Any] = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
        return found

    try:
        exists = described()["StackStatus"] != "REVIEW_IN_PROGRESS"
    except failure:
        exists = False
    try:
        (cloudformation.update_stack if exists else cloudformation.create_stack)(**given)
    except failure as error:
        if "No updates are to be performed" not in str(error):
            raise CommandError(str(error)) from error
    wait_for(lambda: not described()["StackStatus"].endswith("_IN_PROGRESS"), pause=0.05)
    status = described()["StackStatus"]
    if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        raise CommandError(f"{stack}: {status}")
    return {each["OutputKey"]: each["OutputValue"] for each in described().get("Outputs", ())}


def update(aws: Aws, principal: Credentials, stack: str, **changes: str) -> None:
    """Change parameters of *stack*, and wait until that is complete."""
    cloudformation = aws.client(principal, "cloudformation")
    (found,) = cloudformation.describe_stacks(StackName=stack)["Stacks"]
    names = {each["ParameterKey"] for each in found["Parameters"]}
    cloudformation.update_stack(
        StackName=stack,
        UsePreviousTemplate=True,
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[
            {"ParameterKey": name, "ParameterValue": changes[name]}
            if name in changes
            else {"ParameterKey": name, "UsePreviousValue": True}
            for name in sorted(names | changes.keys())
        ],
    )
    wait = cloudformation.get_waiter("stack_update_complete").wait
    wait(StackName=stack, WaiterConfig=POLL)


def delete(aws: Aws, principal: Credentials, stack: str) -> None:
    """Delete *stack*, and wait until it is gone."""
    cloudformation = aws.client(principal, "cloudformation")
    cloudformation.delete_stack(StackName=stack)
    cloudformation.get_waiter("stack_delete_complete").wait(StackName=stack, WaiterConfig=POLL)
