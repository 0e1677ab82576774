"""Runs small programs in forks of a process that has their libraries loaded.

To start Python and to load cryptography or botocore takes longer than most runs of the encryptor,
the decryptor and the client. What depends on the start is tested with processes of their own:
signals, closed streams, missing libraries, memory, the environment of Python itself.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
import types
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROJECT = Path(__file__).parents[2]
REQUEST_MAX = 1 << 17  # bytes
INPUT_MAX = 1 << 15  # bytes, which a pipe holds
PATIENCE = 180  # seconds
AT_START = ("PYTHON", "LANG", "LC_", "LD_")  # variables that are read when Python starts
DEFAULT = {("LANG", "C.UTF-8")}  # is the same as none

SMALL = (  # what the decryptor imports; smaller processes fork faster
    *("argparse", "ctypes", "resource", "selectors", "subprocess", "tempfile", "threading"),
    *("decryptor.kmstool", "decryptor.options", "decryptor.script", "pybase64"),
    *("isal.isal_zlib", "cryptography.hazmat.primitives.ciphers.algorithms"),
    "cryptography.hazmat.primitives.ciphers.modes",
)
LIBRARIES = {
    "envelope_decryptor.py": SMALL,
    "envelope_encryptor.py": (*SMALL, "botocore.session"),
    "client.py": (*SMALL, "botocore.session", "enclave.folders", "enclave.protocol"),
    "artifact_uploader.py": ("boto3.s3.transfer", "s3transfer.upload"),
}
"""What each program imports."""


# --- The side of the tests ------------------------------------------------------------------------


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path | str | None = None,
    input: str = "",  # noqa: A002 - likewise
    timeout: float = PATIENCE,
) -> subprocess.CompletedProcess[str]:
    """Run `sys.executable PROGRAM ARGUMENT…` as `subprocess.run` would, capturing text."""
    _, *words = map(str, command)
    libraries = LIBRARIES.get(Path(words[0]).name)
    if not libraries or any(name.startswith(AT_START) for name, _ in env.items() - DEFAULT):
        return subprocess.run(
            [sys.executable, *words],
            env=dict(env),
            cwd=cwd,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    connection = _server(libraries)
    request = pickle.dumps((words, dict(env), os.fspath(cwd or Path.cwd())))
    assert len(request) < REQUEST_MAX
    with ExitStack() as stack:
        (its_in, given), (out, its_out), (err, its_err) = (_pipe(stack) for _ in range(3))
        theirs = its_in, its_out, its_err
        socket.send_fds(connection, [request], [stream.fileno() for stream in theirs])
        for stream in theirs:
            stream.close()
        pid = int(connection.recv(100))
        try:
            assert len(input) < INPUT_MAX
            with given, suppress(BrokenPipeError):
                given.write(input.encode())
            output, errors = _read(out, err, time.monotonic() + timeout)
        except BaseException:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            raise
        finally:
            status = int(connection.recv(100))
    return subprocess.CompletedProcess([*command], status, output, errors)


@functools.cache
def _server(libraries: tuple[str, ...]) -> socket.socket:
    """Start the process that forks, and return a connection to it; it ends with this process."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(its.fileno()), *libraries],
            env={"PATH": os.environ["PATH"]},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[its.fileno()],
        )

    def stop() -> None:
        ours.close()
        process.wait()

    atexit.register(stop)
    return ours


def _pipe(stack: ExitStack) -> tuple[BinaryIO, BinaryIO]:
    reader, writer = os.pipe()
    return (
        stack.enter_context(os.fdopen(reader, "rb", buffering=0)),
        stack.enter_context(os.fdopen(writer, "wb", buffering=0)),
    )


def _read(out: BinaryIO, err: BinaryIO, deadline: float) -> list[str]:
    """Read both pipes until nobody holds their other ends."""
    found = {out: b"", err: b""}
    with selectors.DefaultSelector() as selector:
        for pipe in found:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            assert ready, "the program exceeds its time limit"
            for key, _ in ready:
                pipe = out if key.fileobj is out else err
                data = os.read(key.fd, 1 << 16)
                found[pipe] += data
                if not data:
                    selector.unregister(pipe)
    return [_text(content) for content in found.values()]


def _text(content: bytes) -> str:
    return content.decode().replace("\r\n", "\n").replace("\r", "\n")


# --- The side of the programs ---------------------------------------------------------------------


def _serve(connection: socket.socket) -> None:
    """Fork for each request, one after another."""
    while True:
        request, streams, *_ = socket.recv_fds(connection, REQUEST_MAX, 3)
        if not request:
            return
        words, environment, directory = pickle.loads(request)  # noqa: S301 - of our own parent
        code = _compiled(words[0], os.stat(words[0]).st_mtime_ns)  # noqa: PTH116
        pid = os.fork()
        if pid == 0:
            connection.close()
            _become(code, words, environment, directory, streams)
        for stream in streams:
            os.close(stream)
        connection.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())


@functools.cache
def _compiled(program: str, _changed: int) -> types.CodeType:
    return compile(Path(program).read_bytes(), program, "exec", dont_inherit=True)


def _become(
    code: types.CodeType,
    words: list[str],
    environment: dict[str, str],
    directory: str,
    streams: list[int],
) -> NoReturn:
    """Become `python3 WORD…`."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv = words
    sys.path.insert(0, os.path.dirname(os.path.realpath(words[0])))  # noqa: PTH120
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = words[0]
    os._exit(_ended(code, main.__dict__))  # without the cleanup of all that was loaded


def _ended(code: types.CodeType, variables: dict[str, object]) -> int:
    """Run *code*; return the exit status that Python would end with."""
    status = 1
    try:
        exec(code, variables)  # noqa: S102 - our own program
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - as Python does
        traceback.print_exc()
    sys.stdout.flush()
    return status


def _load(*libraries: str) -> None:
    """Import *libraries*, and have botocore keep what it reads."""
    path = [*sys.path]
    sys.path[:0] = [str(PROJECT), str(PROJECT / "encryption")]
    for name in libraries:
        importlib.import_module(name)
    sys.path[:] = path
    if "botocore.session" in sys.modules:
        import botocore.session
        from botocore.loaders import JSONFileLoader

        kept = functools.cache(JSONFileLoader.load_file)
        JSONFileLoader.load_file = kept  # type: ignore[method-assign]
        os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "a"}
        for service in ("kms", "s3") if "boto3" in sys.modules else ("kms",):
            botocore.session.get_session().create_client(service, region_name="eu-central-1")


if __name__ == "__main__":
    _load(*sys.argv[2:])
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
