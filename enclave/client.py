#!/usr/bin/env python3
"""Have the enclave on this parent instance run a script from an artifact.

    client.py run -f application_code.zip.encrypted [--input DIR] [--output DIR] -- SCRIPT [ARG...]

The script's output appears here as it is written; the exit status is the script's. Credentials are
found as by any AWS program: in the environment, in a profile, or from this instance's role
(IMDSv2). Needs botocore and, of this project, only the folder that contains this file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from enclave.protocol import Address, Connection, Request

CONNECT_SECONDS: Final = 10
FINDING_SECONDS: Final = 30
SECONDS_SHOWN: Final = 0.1  # between two progress lines
PASSED_ON: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ClientError(Exception):
    """There is no exit status of a script; the message says why."""


class Interrupted(BaseException):
    """A signal, *number*, ends the client."""

    def __init__(self, number: int) -> None:
        """Remember the signal's *number*."""
        super().__init__(number)
        self.number = number


class Signals:
    """Ending signals: until the script runs they end the client, then they are passed on."""

    def __init__(self) -> None:
        """Take the signals over, except those that are already ignored."""
        self._connection: Connection | None = None
        self._passed: set[int] = set()
        for number in PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._receive)

    def pass_on(self, connection: Connection) -> None:
        """Send further signals to the script; the same signal a second time ends the client."""
        self._connection = connection

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._connection is None or number in self._passed:
            raise Interrupted(number)
        self._passed.add(number)
        # One byte always fits, since nothing else is sent after the request.
        with contextlib.suppress(OSError):
            self._connection.peer.send(bytes((number,)))


class Progress:
    """Bytes sent so far, on one line of the terminal; silent where there is none."""

    def __init__(self, total: int) -> None:
        """Count up to *total* bytes."""
        self._total, self._done = total, 0
        self._began = self._shown = time.monotonic()
        self._visible = sys.stderr.isatty()

    def add(self, size: int) -> None:
        """Count *size* more bytes."""
        self._done += size
        now = time.monotonic()
        if self._visible and now - self._shown > SECONDS_SHOWN:
            self._shown = now
            rate = self._done / (now - self._began)
            left = max(0, self._total - self._done) / rate
            self._show(
                f"sending {self._done / 1e6:.0f} of {self._total / 1e6:.0f} MB, "
                f"{rate / 1e6:.0f} MB/s, {left:.0f} s left"
            )

    def end(self) -> None:
        """Remove the line."""
        if self._visible:
            self._show("")

    def _show(self, line: str) -> None:
        sys.stderr.write(f"\r\033[K{line[: _width() - 1]}")
        sys.stderr.flush()


def _width() -> int:
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80


# --- what a request needs -------------------------------------------------------------------------


def credentials(profile: str | None) -> dict[str, str]:
    """Return the credentials that botocore finds: environment, profile, instance role.

    Raises:
        ClientError: it finds none, or none that the enclave can use, or is not installed.
    """
    try:
        import botocore.exceptions
        import botocore.session
    except ModuleNotFoundError as error:
        raise ClientError(
            f"{error.name} is not installed: python3 -m pip install --user botocore, then try again"
        ) from error
    try:
        found = botocore.session.Session(profile=profile).get_credentials()
        frozen = found.get_frozen_credentials() if found else None
    except botocore.exceptions.BotoCoreError as error:
        raise ClientError(f"no credentials: {error}") from error
    if frozen is None or not frozen.access_key or not frozen.secret_key:
        raise ClientError(
            "no credentials: attach the parent's role to this instance, or pass --profile"
        )
    if not frozen.token:
        raise ClientError(
            "these credentials have no session token, which the enclave needs: "
            "use a role's credentials, not a user's access key"
        )
    return {
        "AWS_ACCESS_KEY_ID": frozen.access_key,
        "AWS_SECRET_ACCESS_KEY": frozen.secret_key,
        "AWS_SESSION_TOKEN": frozen.token,
    }


def running_enclave() -> Address:
    """Return the address of the only running enclave on this instance.

    Raises:
        ClientError: there is none, or more than one.
    """
    from enclave.protocol import Address

    try:
        answer = subprocess.run(
            ["nitro-cli", "describe-enclaves"],
            capture_output=True,
            timeout=FINDING_SECONDS,
            check=True,
        ).stdout
        described = json.loads(answer)
        cids = [int(each["EnclaveCID"]) for each in described if each.get("State") == "RUNNING"]
    except FileNotFoundError as error:
        raise ClientError(
            "nitro-cli is not installed here: pass the enclave's --address"
        ) from error
    except (subprocess.SubprocessError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ClientError(
            "nitro-cli describe-enclaves did not list a running enclave: pass its --address"
        ) from error
    if not cids:
        raise ClientError("no enclave is running here: start it with nitro-cli run-enclave")
    if len(cids) > 1:
        raise ClientError(
            f"{len(cids)} enclaves are running here: choose one with --address vsock:CID:PORT"
        )
    return Address(cid=cids[0])


# --- sending --------------------------------------------------------------------------------------


def _send(connection: Connection, request: Request, artifact: Path, folder: Path | None) -> None:
    """Send a whole request, unless the server answers before its end.

    Raises:
        ProtocolError: the server has disconnected; an answer may still be there to be read.
    """
    from enclave import folders, protocol

    size = request.artifact + (request.input.content if request.input else 0)
    progress = Progress(size)
    try:
        connection.send(request.encoded())
        with artifact.open("rb") as file:
            left = request.artifact
            while left:
                data = file.read(min(protocol.CHUNK, left))
                if not data:
                    raise ClientError(
                        f"{artifact}: it became shorter while it was read: stop what writes to it, "
                        "then retry"
                    )
                if _answered(connection):
                    return
                connection.send(data)
                progress.add(len(data))
                left -= len(data)
        if folder:

            def send(data: bytes) -> None:
                protocol.send_chunk(connection, data)
                progress.add(len(data))

            folders.pack(folder, send, follow=True)
            protocol.send_chunk(connection, b"")
    finally:
        progress.end()


def _answered(connection: Connection) -> bool:
    """Return whether the server has sent something; before the request's end that is a failure."""
    return bool(select.select([connection.peer], [], [], 0)[0])


# --- receiving ------------------------------------------------------------------------------------


def _results(connection: Connection, ending: dict[str, Any]) -> Iterator[bytes]:
    """Yield the chunks of the results' tar, and put the frame that follows them into *ending*."""
    from enclave import protocol

    kind, content = ending["first"]
    while kind == protocol.RESULTS:
        yield content
        kind, content = protocol.receive_frame(connection)
    ending["last"] = kind, content


def _write(stream: int, data: bytes) -> None:
    """Write to our own standard output or error, which may accept less than asked at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(stream, view) :]


def _receive(connection: Connection, output: Path | None) -> int:
    """Pass the script's output on; return its exit status, or raise why there is none.

    Raises:
        ClientError: the server's reason.
    """
    from enclave import protocol

    while True:
        kind, content = protocol.receive_frame(connection)
        if kind in (protocol.OUTPUT, protocol.ERRORS):
            _write(1 if kind == protocol.OUTPUT else 2, content)
        elif kind == protocol.RESULTS and output:
            kind, content = _unpacked(connection, content, output)
            return _status(kind, content)
        else:
            return _status(kind, content)


def _unpacked(connection: Connection, first: bytes, output: Path) -> tuple[bytes, bytes]:
    """Unpack results next to *output*, and rename them to *output* when they are complete."""
    from enclave import folders, protocol

    ending: dict[str, Any] = {"first": (protocol.RESULTS, first)}
    allowed = protocol.Size(protocol.SIZE_MAX, protocol.SIZE_MAX)
    # Not named after *output*, whose name may be as long as names can be.
    draft = Path(tempfile.mkdtemp(dir=output.parent, prefix=".results-"))
    try:
        folder = draft / "results"
        folder.mkdir()
        folders.unpack(_results(connection, ending), folder, allowed, read_only=False)
        if ending["last"][0] == protocol.EXIT:
            if output.is_dir():
                output.rmdir()  # it was empty
            folder.rename(output)
    finally:
        folders.remove(draft)  # at any depth, unlike what tempfile has before Python 3.13
    last: tuple[bytes, bytes] = ending["last"]
    return last


def _status(kind: bytes, content: bytes) -> int:
    from enclave import protocol

    if kind == protocol.EXIT and len(content) == 1:
        return content[0]
    if kind == protocol.FAILED:
        raise ClientError(_printable(content.decode(errors="replace")))
    raise ClientError("the response is not from an enclave server: check --address")


def _printable(text: str) -> str:
    """Return *text* on one line, with everything escaped that could control a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def run(arguments: argparse.Namespace, words: Sequence[str], signals: Signals) -> int:
    """Send one request and return the script's exit status.

    Raises:
        ClientError: there is none.
    """
    from enclave import folders, protocol
    from enclave.folders import FolderError

    output: Path | None = arguments.output
    if output:
        output = Path.cwd() / output
        _require_room_for(output)
    artifact: Path = arguments.file
    try:
        request = protocol.Request(
            script=words[0],
            arguments=tuple(words[1:]),
            credentials=credentials(arguments.profile),
            artifact=artifact.stat().st_size,
            input=folders.measured(arguments.input, follow=True) if arguments.input else None,
            results=output is not None,
        )
        request.encoded()
    except FolderError as error:
        raise ClientError(f"{arguments.input}: {error}") from error
    address = arguments.address or running_enclave()
    try:
        peer = protocol.connect(address, CONNECT_SECONDS)
    except OSError as error:
        raise ClientError(
            f"no server answers at {address} ({error.strerror or 'timed out'}): is the enclave "
            "running?"
        ) from error
    with peer:
        connection = protocol.Connection(peer, stall=None)
        kind, content = protocol.receive_frame(connection)
        if kind == protocol.BUSY:
            raise ClientError("the enclave is busy with another run: try again when it has ended")
        if kind != protocol.ACCEPTED:
            _status(kind, content)
        # If the server has gone, what it said before is still there to be read.
        with contextlib.suppress(protocol.DisconnectedError):
            _send(connection, request, artifact, arguments.input)
        signals.pass_on(connection)
        return _receive(connection, output)


def _require_room_for(output: Path) -> None:
    if not output.parent.is_dir():
        raise ClientError(f"{output.parent} is not a directory: create it first")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise ClientError(f"{output.parent} cannot be written to: choose another --output")
    directory = output.is_dir() and not output.is_symlink() and not output.is_mount()
    if os.path.lexists(output) and not (directory and not any(output.iterdir())):
        raise ClientError(f"{output} exists and is not an empty directory: choose another --output")


# --- the command line -----------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Have an enclave run a script from an artifact.", allow_abbrev=False
    )
    parser.add_argument(
        "--version", action="version", version=_version(), help="print the version and exit"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="run")
    verb = verbs.add_parser(
        "run",
        allow_abbrev=False,
        help="send one request, show the script's output, and exit with its status",
        description="Send one request, show the script's output, and exit with its status.",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # an example is copied as it is
        epilog="example:\n  client.py run -f application_code.zip.encrypted --input data \\\n"
        "    --output results -- print-hello.py a b",
        usage="%(prog)s [-h] [--address ADDRESS] -f FILE [--input DIR]\n"
        "                     [--output DIR] [--profile NAME] -- SCRIPT [ARG...]",
    )
    add = verb.add_argument
    add("-f", dest="file", required=True, type=Path, metavar="FILE", help="the artifact")
    add(
        "--address",
        type=_address,
        metavar="ADDRESS",
        help="vsock:CID:6000 or unix:PATH; default: the running enclave that nitro-cli lists",
    )
    add("--input", type=Path, metavar="DIR", help="a directory for the script, in $ENCLAVE_INPUT")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="a new directory for the results that the script leaves in $ENCLAVE_OUTPUT",
    )
    add("--profile", metavar="NAME", help="a profile of the AWS configuration")
    return parser


def _version() -> str:
    from enclave import protocol

    return f"%(prog)s {protocol.SOFTWARE}"


def _address(text: str) -> Address:
    from enclave.protocol import Address

    try:
        address = Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not address.path and address.cid is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no CID: write vsock:CID:{address.port}")
    return address


def _arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, Sequence[str]]:
    """Parse the command line; everything after ``--`` is passed to the script unchanged."""
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = _parser()
    arguments = parser.parse_args(argv[:cut])
    words = argv[cut + 1 :]
    if not words or not words[0]:
        parser.error("run needs -- SCRIPT [ARG...]: a file of the artifact, and its arguments")
    return arguments, words


def _complain(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")


def main(argv: Sequence[str]) -> int:
    """Run the command line *argv* and return its exit status."""
    from enclave.folders import FolderError
    from enclave.protocol import ProtocolError

    arguments, words = _arguments(argv)
    try:
        return run(arguments, words, Signals())
    except Interrupted as interrupted:
        _complain(f"terminated by {signal.Signals(interrupted.number).name}, and the run with it")
        return 128 + interrupted.number
    except ClientError as error:
        _complain(str(error))
    except FolderError as error:
        _complain(f"{arguments.input or arguments.output}: {error}")
    except ProtocolError as error:
        _complain(f"the enclave's response: {error}")
    except BrokenPipeError:
        _forget_output()
        _complain("standard output was closed before the script ended, so the run was aborted")
    except OSError as error:
        _complain(f"{error.filename or arguments.file}: {error.strerror}")
    return 1


def _forget_output() -> None:
    """Keep Python from reporting the closed pipe at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    # This folder's parent, so that the modules in this folder have their full names.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))  # noqa: PTH120
    sys.exit(main(sys.argv[1:]))
