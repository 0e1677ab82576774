"""Take an artifact from source to decryption on AWS, and report the differences.

The owner's account gets the encryptor's stack, the host's account the bucket's
stack; a build runs, the host downloads the artifact, and every request that
must be refused is made. Before it creates anything, it says what it will create
and what that costs, and asks for confirmation. At the end, also after a failure
or an interrupt, it removes what it has created; a KMS key can only be scheduled
for deletion.
The status is 1 if AWS did anything that was not expected.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from conformance import sequence, sources
from conformance.run import HOST, ID, OWNER, TAG, Names, Party, Run
from conformance.step import tell
from generator import command_line, terminal
from generator.errors import GeneratorError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conformance.removal import Removal
    from conformance.run import Source
    from conformance.step import Result

PROGRAM: Final = "python -m conformance"
EXAMPLES: Final = """\
examples:
  python -m conformance --owner-profile owner --host-profile host
  python -m conformance --owner-profile owner --host-profile host \\
      --format json > found.json
  python -m conformance --owner-profile owner --host-profile host \\
      --only lockout,role-by-hand
  python -m conformance --owner-profile owner --host-profile host \\
      --remove 1a2b3c4d
"""
PCR_BYTES: Final = 48
SOURCES: Final = ("codecommit", "s3", "connection")
PLAN: Final = """\
This creates, in region {region}, tagged {tag}={run} and named {prefix}-…:
  in the owner's account {owner}, by profile {owner_profile}:
    two stacks (each with a KMS key, a CodeBuild project, a role and a log group; the second
    is meant to fail), another CodeBuild project, {source}, two roles, {builds} builds
  in the host's account {host}, by profile {host_profile}:
    a stack (a KMS key, a bucket), another bucket, a role
It takes about {minutes} minutes and costs less than {dollars} USD: a KMS key costs 1 USD a month,
charged by the hour, and nothing while its deletion is pending; a minute of a small Linux build
about 0.005 USD; S3, CloudWatch Logs and CodeCommit less than a cent. See
  https://aws.amazon.com/kms/pricing/
  https://aws.amazon.com/codebuild/pricing/
  https://aws.amazon.com/s3/pricing/
{removal}
  python -m conformance --owner-profile {owner_profile} --host-profile {host_profile}
    --region {region} --remove {run}"""
REMOVED: Final = """\
All of it is removed at the end, also after a failure or Ctrl-C. A KMS key can only be
scheduled for deletion; KMS deletes it after 7 days. If this is killed, remove what is left:"""
KEPT: Final = """\
All of it is KEPT (--keep), and costs money as long as it exists. Remove it later:"""


def parser() -> command_line.Parser:
    """Return the parser of the command line."""
    result = command_line.Parser(
        prog=PROGRAM,
        description=__doc__,
        epilog=f"{EXAMPLES}\nsteps:\n{_listed()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command_line.add_version(result)
    add = result.add_argument
    add(
        "--owner-profile",
        required=True,
        metavar="NAME",
        help="a profile of the code owner's account",
    )
    add("--host-profile", required=True, metavar="NAME", help="a profile of the host's account")
    add("--region", metavar="REGION", help="region of both accounts; default: the owner profile's")
    add("--yes", action="store_true", help="do not ask for confirmation")
    add("--format", choices=("text", "json"), default="text", help="format of the report")
    add(
        *("--only",),
        action="extend",
        type=_steps,
        default=[],
        metavar="STEP[,STEP…]",
        help="run only these steps, and those that they need",
    )
    add("--keep", action="store_true", help="do not remove anything at the end")
    which = result.add_mutually_exclusive_group()
    which.add_argument("--resume", type=_run, metavar="RUN", help="continue a run that was kept")
    which.add_argument(
        "--remove", type=_run, metavar="RUN", help="only remove what a run left behind"
    )
    add(
        "--source",
        choices=SOURCES,
        default=SOURCES[0],
        help="the build's source; default: %(default)s",
    )
    connection = result.add_argument_group("with --source connection")
    connection.add_argument("--connection-arn", metavar="ARN", help="an available connection")
    connection.add_argument("--repository-url", metavar="URL", help="https://…")
    connection.add_argument(
        "--repository-type", default="GITHUB", metavar="TYPE", help="default: %(default)s"
    )
    connection.add_argument(
        *("--directory",),
        default=sources.DIRECTORY,
        help="directory of the application in the repository; default: %(default)s",
    )
    add(
        "--large",
        action="store_true",
        help="also build an artifact larger than 5 GiB: takes 15 more minutes",
    )
    enclave = result.add_argument_group("on a parent instance, with --resume")
    enclave.add_argument(
        "--image", metavar="IMAGE", help="the image to bind: a PCR0 or an .eif file"
    )
    enclave.add_argument(
        "--enclave",
        metavar="ADDRESS",
        help="address of an enclave with that image: vsock:CID:6000, or 'running', which means the"
        " only enclave on this instance",
    )
    add(
        "--patience",
        type=float,
        default=60,
        metavar="SECONDS",
        help="how long to wait for a new role or policy to take effect; default: %(default)s",
    )
    return result


def _listed() -> str:
    """Return the steps and their questions, in two columns."""
    from textwrap import fill

    width = max(map(len, sequence.names()))
    indentation = " " * (width + 4)
    return "".join(
        fill(f"  {step.name:{width}}  {step.question}", 80, subsequent_indent=indentation) + "\n"
        for step in sequence.STEPS
    )


def _steps(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in sequence.names():
            from difflib import get_close_matches

            close = get_close_matches(name, sequence.names(), 1)
            raise argparse.ArgumentTypeError(
                f"{name} is not a step{f': did you mean {close[0]}?' if close else ''}"
            )
    return names


def _run(text: str) -> str:
    if not ID.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text} is not the id of a run: 8 hexadecimal digits")
    return text


def _source(options: argparse.Namespace) -> Source:
    if options.source == "connection":
        return sources.connection(
            *(options.connection_arn, options.repository_type),
            *(options.repository_url, options.directory),
        )
    return sources.s3() if options.source == "s3" else sources.codecommit()


def _parties(options: argparse.Namespace) -> tuple[Party, Party]:
    """Return the owner and the host, in one region.

    Raises:
        GeneratorError: a profile reaches nobody, or both reach the same account.
    """
    owner = Party(OWNER, options.owner_profile, options.region)
    host = Party(HOST, options.host_profile, owner.region)
    if owner.number == host.number:
        raise GeneratorError(
            f"profiles {owner.profile} and {host.profile}: both belong to account {owner.number}: "
            "pass a profile of another account"
        )
    return owner, host


def _agree(options: argparse.Namespace, run: str, owner: Party, host: Party) -> None:
    """Say what is about to happen, and ask.

    Raises:
        GeneratorError: the answer is no.
    """
    common = {
        "region": owner.region,
        "owner_profile": owner.profile,
        "host_profile": host.profile,
        "run": run,
    }
    if options.remove:
        question = (
            f"Remove what run {run} left behind in accounts {owner.number} and {host.number}?"
        )
    else:
        question = "Continue?"
        plan = PLAN.format(
            **common,
            tag=TAG,
            prefix=Names.of(run).prefix,
            owner=owner.number,
            host=host.number,
            source={
                "codecommit": "a CodeCommit repository",
                "s3": "a bucket",
                "connection": "nothing in your repository",
            }[options.source],
            builds=4 if options.large else 3,
            minutes=45 if options.large else 30,
            dollars="1.00" if options.large else "0.20",
            removal=KEPT if options.keep else REMOVED,
        )
        for line in plan.splitlines():
            terminal.say(line)
    if not options.yes and not terminal.agreed(question):
        raise GeneratorError("not confirmed, so nothing was changed")


def _remove(run: str, parties: tuple[Party, Party]) -> Removal:
    """Remove what a run has made.

    Raises:
        KeyboardInterrupt: with how to go on, if it is interrupted.
    """
    from conformance import removal

    tell(f"removing what run {run} has created")
    try:
        return removal.remove(run, parties)
    except KeyboardInterrupt as interrupt:
        todo = f"run again with --remove {run}"
        interrupt.args = (f"interrupted: run {run} was not fully removed: {todo}",)
        raise


def _run_all(options: argparse.Namespace, run: Run) -> tuple[list[Result], Removal | None]:
    """Run the steps, and remove what they created even if one fails."""

    def end() -> Removal | None:
        return None if options.keep else _remove(run.id, (run.owner, run.host))

    try:
        results = sequence.run_steps(run, options.only, again=options.resume is not None)
    except KeyboardInterrupt as interrupt:
        removed = end()
        # An interrupted verb has said what continues; what counts is what is left at the end.
        left = removed is None or removed.failed
        todo = f"some resources are left: run again with --remove {run.id}"
        what = todo if left else "everything it created was removed"
        interrupt.args = (f"interrupted: run {run.id}: {what}",)
        raise
    except BaseException:
        end()
        raise
    return results, end()


def _image(named: str) -> str:
    """Return the PCR0 that *named* is or holds.

    Raises:
        GeneratorError: it is none, or several.
    """
    from generator.images import golden

    found = list(golden.pcr0s(named))
    if len(found) != 1:
        raise GeneratorError(f"{named}: contains {len(found)} images: name one")
    return found[0]


def _conform(options: argparse.Namespace) -> int:
    """Do what was asked, and return the exit status."""
    from conformance.report import Report

    owner, host = _parties(options)
    run_id = options.remove or options.resume or os.urandom(4).hex()
    image = _image(options.image) if options.image else secrets.token_hex(PCR_BYTES)
    _agree(options, run_id, owner, host)
    if options.remove:
        removal = _remove(run_id, (owner, host))
        sys.stdout.write(terminal.aligned([("removed", text) for text in removal.removed]))
        sys.stdout.write(terminal.aligned([("pending", text) for text in removal.pending]))
        return _left(removal)
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        run = Run(
            run_id,
            *(owner, host, Path(folder), _source(options)),
            image=image,
            patience=options.patience,
            enclave=options.enclave,
            large=options.large,
        )
        results, removed = _run_all(options, run)
    report = Report(run_id, owner.region, results, removed, sequence.anonymous(run))
    if options.format == "json":
        print(report.as_json())
    else:
        report.print_text()
    return max(int(report.differs), _left(removed) if removed else 0)


def _left(removal: Removal) -> int:
    """Say what waits for its deletion; status 1 if something could not be removed.

    Raises:
        GeneratorError: something could not be removed.
    """
    for key in removal.pending:
        tell(key)
    if removal.failed:
        raise GeneratorError(
            f"{len(removal.failed)} resources were not removed, see above: run --remove again"
        )
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run the command line; a failure is one line and status 1."""
    grammar = parser()
    options = grammar.parse_args(arguments)
    if options.source == "connection" and not (options.connection_arn and options.repository_url):
        grammar.error("--source connection needs --connection-arn and --repository-url")
    if not (options.owner_profile and options.host_profile):
        grammar.error("a profile is empty: make conformance OWNER_PROFILE=… HOST_PROFILE=…")
    terminal.listen()
    # Handle Ctrl-C like the other signals: an interrupted verb must not ask questions here.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    try:
        return _conform(options)
    except KeyboardInterrupt as interrupt:
        return terminal.interrupted(interrupt)
    except GeneratorError as error:
        return terminal.complain(error)
    except BrokenPipeError:  # whoever reads has seen enough; what was made is removed by now
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return terminal.complain(f"{error.filename or 'output'}: {error.strerror}: free some space")


def _stop(number: int, _: Any) -> None:  # noqa: ANN401 - a frame
    raise terminal.Stopped(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
