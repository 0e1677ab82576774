"""Deploy a template: show what changes, ask for confirmation, deploy, follow.

The template is validated. Then the command shows who gains and who loses
access compared with the live stack, which parameters change, and
CloudFormation's change set, and asks for confirmation. A parameter that is not
given keeps its value. A --parameters file that does not exist yet is written,
for later deployments; one that exists is only read.

`aws cloudformation deploy` of the same template has the same result, without
the explanations.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generator import terminal
from generator.errors import GeneratorError
from generator.parameters import ENCLAVE_IMAGES, ENCRYPTOR_TEMPLATE, NO_IMAGE
from generator.services import aws

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import StackTypeDef

EXAMPLES = """\
  application-encryptor deploy --stack-name my-application --parameters my.json
  application-encryptor deploy --stack-name my-application ExternalBucketPath=v2
  application-encryptor deploy --stack-name code-from-acme \\
      --template templates/Deploy-ApplicationSharingBucket-Cfn.yaml \\
      ThirdPartyIdentifier=acme ThirdPartyAWSAccountNumber=444455556666
"""
STACK = "application-encryptor"
TEMPLATES = Path("templates")
STANDARD_INPUT = Path("-")
DIRECT_MAX = 51_200
"""Bytes of a template that a call may carry (CloudFormation quotas)."""
ERRORS = 2
"""The bit of cfn-lint's status that stands for errors."""
BUSY = "_IN_PROGRESS"
LEFT_BY_FAILURE = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED")


def add_stack_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which stack is meant, and which parameters it is to have."""
    parser.add_argument(
        "wanted",
        nargs="*",
        metavar="PARAMETER=VALUE",
        type=pair,
        help="a parameter's value; overrides the one in the --parameters file",
    )
    parser.add_argument("--stack-name", default=STACK, metavar="S", help="default: %(default)s")
    parser.add_argument(
        "--parameters", type=Path, metavar="FILE", help="the parameters' values, as JSON or YAML"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    add_stack_arguments(parser)
    parser.add_argument(
        "--template", type=Path, metavar="FILE", help="default: this project's encryptor template"
    )
    parser.add_argument(
        "--tag",
        action="append",
        type=pair,
        metavar="NAME=VALUE",
        help="tag the stack and all its resources; may be repeated",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    aws.add_arguments(parser)


def pair(text: str) -> tuple[str, str]:
    """Return the name and the value in NAME=VALUE, for argparse."""
    from generator.services import parameter_values

    try:
        return parameter_values.pair(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=VALUE") from error


def run(options: argparse.Namespace) -> int:
    """Deploy; status 0 also if there was nothing to change."""
    from generator.services import stacks

    name = options.stack_name
    piped = [options.parameters, options.template].count(STANDARD_INPUT)
    if piped > 1 or (piped and not options.yes):
        raise GeneratorError(
            "- reads standard input, so the confirmation cannot come from there: use - only once, "
            "and add --yes"
        )
    if not stacks.NAME.fullmatch(name):
        raise GeneratorError(f"{name}: is not a stack name: use letters, digits and hyphens")
    with _template(options.template) as path:
        return _deploy(options, path)


def _deploy(options: argparse.Namespace, path: Path) -> int:
    """Deploy the template in the file *path*; what takes long comes after what often goes wrong."""
    from generator.nodes import mapping
    from generator.reading import documents
    from generator.services import change_sets, parameter_values, stacks

    name, shown = options.stack_name, options.template or path
    template = _read(path, shown)
    document = documents.parse(template)
    declared: dict[str, dict[str, Any]] = {
        name: dict(mapping(each)) for name, each in mapping(document.get("Parameters")).items()
    }
    wanted = _wanted(options)
    with aws.failures(f"stack {name}"):
        cloudformation: CloudFormationClient = aws.Account(options).client("cloudformation")
        stack = _deployable(stacks.find(cloudformation, name), name)
        before = stacks.parameters(stack) if stack else {}
        parameter_values.check(declared, wanted, before)
        _validate(path, shown)
        values = {each: wanted.get(each) for each in declared if each in {*wanted, *before}}
        with change_sets.proposed(
            *(cloudformation, name, template, values), new=stack is None, tags=options.tag
        ) as change_set:
            if change_set:
                _show_who_gains(cloudformation, stack, document)
                _show_parameters(before, wanted)
                change_sets.show(change_set.changes)
                _agree(options, change_set.stack_id)
                change_sets.execute(cloudformation, change_set)
        _remember(options, {**before, **wanted})
        deployed = stacks.existing(cloudformation, name)
    _report(options, deployed, changed=change_set is not None)
    return 0


@contextlib.contextmanager
def _template(named: Path | None) -> Iterator[Path]:
    """Yield the path of the template: the one that is *named*, else this project's."""
    from tempfile import TemporaryDirectory

    from generator.templates import rendering

    checked_in = TEMPLATES / ENCRYPTOR_TEMPLATE
    from_pipe = named == STANDARD_INPUT
    if not from_pipe and (named or checked_in.exists()):
        yield named or checked_in
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / ENCRYPTOR_TEMPLATE
        text = sys.stdin.read() if from_pipe else rendering.render(ENCRYPTOR_TEMPLATE)
        path.write_text(text, encoding="utf-8")
        yield path


def _read(path: Path, shown: Path) -> str:
    """Return the text of the template in the file *path*.

    Raises:
        GeneratorError: it cannot be read, or is too large.
    """
    from generator.reading import documents

    documents.read(path)
    text = path.read_text(encoding="utf-8")
    if len(text.encode()) > DIRECT_MAX:
        raise GeneratorError(
            f"{shown}: has more than {DIRECT_MAX:,} bytes, so CloudFormation takes it only from "
            "S3: use aws cloudformation deploy with --s3-bucket"
        )
    return text


def _validate(path: Path, shown: Path) -> None:
    """Refuse a template in which the rules find an error."""
    from generator import validation

    terminal.note(f"validating {shown}")
    with contextlib.redirect_stdout(sys.stderr):  # the result is what was deployed
        status = validation.validate([str(path)], [])
    if status & ERRORS:
        raise GeneratorError(f"{shown}: has errors: fix those above; nothing was deployed")


def _wanted(options: argparse.Namespace) -> dict[str, str]:
    from generator.services import parameter_values

    return {**parameter_values.read_if_there(options.parameters), **dict(options.wanted)}


def _deployable(stack: StackTypeDef | None, name: str) -> StackTypeDef | None:
    """Return the stack, None if it does not exist yet.

    Raises:
        GeneratorError: it is being changed, or can only be deleted.
    """
    from generator.services import stacks

    if stack is None or stack["StackStatus"] == stacks.REVIEWED:
        return None
    status = stack["StackStatus"]
    if status in LEFT_BY_FAILURE:
        raise GeneratorError(
            f"stack {name}: is {status} after a failure: delete it (aws cloudformation "
            f"delete-stack --stack-name {name}), then deploy again"
        )
    if status.endswith(BUSY):
        raise GeneratorError(
            f"stack {name}: is {status}: wait until that has finished, then deploy again"
        )
    return stack


def _show_who_gains(
    cloudformation: CloudFormationClient, stack: StackTypeDef | None, document: Mapping[str, object]
) -> None:
    """Print who gains and who loses access, from the live stack's template to this one.

    Keys without any attestation, such as the one of the host's bucket, get no verdict.
    """
    from rich.console import Console

    from generator.explain import report
    from generator.explain.differences import differences, print_differences
    from generator.reading import documents
    from generator.rules._scope import judged_keys

    console = Console(stderr=True, highlight=False, markup=False)
    try:
        new = report.explain_document(document, "this template")
        if stack is None:
            verdict = (
                new.sentence
                if judged_keys(document)
                else "No key policy in it names an attestation."
            )
            console.print(f"New stack. {verdict}")
            return
        body = cloudformation.get_template(StackName=stack["StackName"])["TemplateBody"]
        live = documents.parse(body if isinstance(body, str) else json.dumps(body))
        old = report.explain_document(live, f"stack {stack['StackName']}")
        judged = bool(judged_keys(live) or judged_keys(document))
        print_differences(differences(old, new), console, judged=judged)
    except GeneratorError as error:  # for instance a template without a key
        terminal.say(error)


def _show_parameters(before: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    for name, value in wanted.items():
        if name not in before:
            terminal.say(f"  {name}: {value}")
        elif before[name] != value:
            terminal.say(f"  {name}: {before[name]} → {value}")


def _agree(options: argparse.Namespace, stack_id: str) -> None:
    """Ask for confirmation, unless --yes was given.

    Raises:
        GeneratorError: it was not confirmed.
    """
    _, _, _, region, account, _ = stack_id.split(":", 5)
    question = f"Deploy stack {options.stack_name} in account {account}, region {region}?"
    if not options.yes and not terminal.agreed(question):
        raise GeneratorError(f"stack {options.stack_name}: not confirmed, so nothing was changed")


def _remember(options: argparse.Namespace, values: Mapping[str, str]) -> None:
    """Write the parameters file if it was named and does not exist yet."""
    from generator.services import parameter_values

    file = options.parameters
    if file and file != STANDARD_INPUT and not file.exists():
        parameter_values.write(options.parameters, values)
        terminal.say(f"wrote {options.parameters}: the stack's parameters, for later deployments")


def _report(options: argparse.Namespace, stack: StackTypeDef, *, changed: bool) -> None:
    from generator.services import stacks

    outputs = stacks.outputs(stack)
    if not changed:
        terminal.say(f"stack {stack['StackName']}: nothing to change")
    if options.format == "json":
        facts = {"stack": stack["StackName"], "stack_id": stack["StackId"], "changed": changed}
        print(json.dumps({**facts, "status": stack["StackStatus"], "outputs": outputs}, indent=2))
    else:
        sys.stdout.write(terminal.aligned(outputs.items()))
    if "ProjectName" in outputs:
        terminal.say(f"next: application-encryptor build --stack-name {stack['StackName']}")
        if stacks.parameters(stack).get(ENCLAVE_IMAGES.name) == NO_IMAGE:
            bind = "scripts/bind_enclave_image.py"
            terminal.say(f"nobody may decrypt until an enclave image is bound: see {bind} --help")
    elif "ExternalBucketName" in outputs:
        terminal.say("next: send these outputs to the code owner, who passes them as parameters")
