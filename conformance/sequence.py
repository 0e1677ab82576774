"""The order of the steps, and how they are run: each after those that it needs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from conformance.step import DifferentError, Result, SkippedError, Step, Verdict, said
from conformance.steps import builds, keys, objects, stacks
from generator import terminal
from generator.errors import GeneratorError
from generator.services import aws

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from conformance.run import Run

STEPS: Final[tuple[Step, ...]] = (
    stacks.host_bucket,
    stacks.bucket_settings,
    stacks.source,
    stacks.owner_stack,
    stacks.project_settings,
    stacks.tags,
    stacks.zeros,
    builds.build_image,
    builds.build,
    builds.build_log,
    objects.object_encryption,
    objects.object_checksum,
    builds.large_build,
    builds.artifact,
    builds.other_project,
    builds.role_by_hand,
    objects.roles,
    objects.classic_bucket,
    objects.classic_with_acl,
    objects.classic_without_acl,
    objects.classic_multipart,
    objects.shared_without_acl,
    objects.shared_multipart,
    objects.other_owner,
    objects.other_key,
    keys.lockout,
    keys.unknown_principal,
    keys.enclave_before_binding,
    keys.bind,
    keys.host_denied,
    keys.administrator_denied,
    keys.enclave_runs,
    keys.policy_rewritten,
    stacks.alias_taken,
    stacks.deletion,
)
HOPELESS: Final = (aws.SIGN_IN, aws.CREDENTIALS, aws.NETWORK)
"""Hints of errors after which no other step can succeed either."""


def chosen(only: Collection[str]) -> list[Step]:
    """Return the steps to run: all, or *only* these and what they need."""
    if not only:
        return list(STEPS)
    wanted = set(only)
    for step in reversed(STEPS):  # a step comes after all that it needs
        if step.name in wanted:
            wanted.update(step.needs)
    return [step for step in STEPS if step.name in wanted]


def run_steps(run: Run, only: Collection[str], *, again: bool) -> list[Result]:
    """Run the steps, or *only* some and what they need.

    Args:
        run: the accounts and what the steps share.
        only: names of steps; none means all.
        again: an earlier run is continued, so some steps need not be repeated.

    Raises:
        GeneratorError: no further request to AWS can succeed.
    """
    results: dict[str, Result] = {}
    for step in chosen(only):
        begun = time.monotonic()
        terminal.say(f"{step.name}: {step.question}")
        verdict, answer = _run_step(run, step, results, reuse=again and step.name not in only)
        seconds = round(time.monotonic() - begun, 1)
        results[step.name] = Result(step.name, step.expected, answer, verdict, seconds)
        terminal.say(f"  {verdict.value}: {answer}")
    return list(results.values())


def _run_step(
    run: Run, step: Step, results: dict[str, Result], *, reuse: bool
) -> tuple[Verdict, str]:
    """Run one step after those in *results*, or *reuse* what it has left."""
    for need in step.needs:
        if results[need].verdict is not Verdict.AS_EXPECTED:
            return Verdict.SKIPPED, f"it needs {need}, which was {results[need].verdict.value}"
    try:
        found = step.found(run) if reuse and step.found else None
        return Verdict.AS_EXPECTED, found or step.run(run)
    except SkippedError as skipped:
        return Verdict.SKIPPED, str(skipped)
    except DifferentError as different:
        return Verdict.DIFFERENT, str(different)
    except Exception as error:
        if not _is_answer(error):
            raise
        return Verdict.DIFFERENT, said(error)


def _is_answer(error: Exception) -> bool:
    """Whether *error* is something that AWS, or a program that asked it, has said.

    Raises:
        GeneratorError: no further request to AWS can succeed.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    if not isinstance(error, (BotoCoreError, Boto3Error, ClientError, GeneratorError)):
        return False
    cause = error.__cause__ if isinstance(error, GeneratorError) else error
    if isinstance(cause, Exception) and _hint(cause) in HOPELESS:
        raise GeneratorError(aws.reason(cause)) from error
    return True


def _hint(error: Exception) -> str | None:
    return aws.HINTS.get(aws.code(error))


def names() -> list[str]:
    """Return the steps' names, in their order."""
    return [step.name for step in STEPS]


def anonymous(run: Run) -> Callable[[str], str]:
    """Return a function that removes accounts and callers from a text before it is shared."""
    words = {
        run.owner.caller: "the owner's caller",
        run.host.caller: "the host's caller",
        run.owner.number: "OWNER",
        run.host.number: "HOST",
    }

    def without(text: str) -> str:
        for word, instead in words.items():
            text = text.replace(word, instead)
        return text

    return without
