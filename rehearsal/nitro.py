"""Gives a program on this machine what an enclave's kernel offers: ``/dev/nsm`` and vsock.

`nitro.c`, preloaded, intercepts the program's system calls: the rehearsal's security module answers
those for ``/dev/nsm``, and those for vsock lead to a port of 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any, Final

import cbor2

from rehearsal.aws import PROJECT, RehearsalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCE: Final = Path(__file__).with_name("nitro.c")
BUILT: Final = PROJECT / ".rehearsal"
REQUEST_MAX: Final = 0x1000  # bytes; linux/nsm.h
RANDOM: Final = 256  # bytes that a module gives at once
_POOL_INFO: Final = struct.pack("ii", 8 * RANDOM, RANDOM)  # how a packet for random(4) begins


class NoCompilerError(RehearsalError):
    """This machine has no C compiler."""


@dataclass
class Kernel:
    """What a program is given, and what it did with it.

    Attributes:
        environment: in which the program must be started.
        answer: returns the module's answer to a request, both decoded; tests replace it.
        requests: what it was asked.
        entropy: what the kernel was given.
    """

    environment: dict[str, str]
    answer: Callable[[Any], Any]
    requests: list[Any] = field(default_factory=list)
    entropy: list[bytes] = field(default_factory=list)

    def serve(self, connection: socket.socket) -> None:
        """Act as the device that one descriptor is open on."""
        with connection, contextlib.suppress(OSError):
            while packet := connection.recv(REQUEST_MAX):
                if packet.startswith(_POOL_INFO):
                    self.entropy.append(packet[len(_POOL_INFO) :])
                    continue
                request = cbor2.loads(packet)
                self.requests.append(request)
                answer = self.answer(request)
                connection.sendall(answer if isinstance(answer, bytes) else cbor2.dumps(answer))


@contextlib.contextmanager
def kernel(attest: Callable[[bytes], bytes]) -> Iterator[Kernel]:
    """Offer what an enclave's kernel does, until the end of the block.

    Args:
        attest: the security module: a DER public key in, a document out.

    Raises:
        NoCompilerError: there is none to build `SOURCE` with.
    """

    def answer(request: Any) -> Any:  # noqa: ANN401 - whatever CBOR has
        match request:
            case "GetRandom":
                return {"GetRandom": {"random": os.urandom(RANDOM)}}
            case {"Attestation": {"public_key": bytes(key), "user_data": None, "nonce": None}}:
                return {"Attestation": {"document": attest(key)}}
        return {"Error": "InvalidArgument"}

    with tempfile.TemporaryDirectory(prefix="nsm-") as folder:  # a socket's path must be short
        path = f"{folder}/nsm"
        made = Kernel({"LD_PRELOAD": str(library()), "NITRO_MODULE": path}, answer)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(path)
            listener.listen()
            threading.Thread(target=_accept, args=(listener, made), daemon=True).start()
            try:
                yield made
            finally:
                listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, kernel: Kernel) -> None:
    with contextlib.suppress(OSError):  # the end of the block
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=kernel.serve, args=(connection,), daemon=True).start()


def library() -> Path:
    """Return `SOURCE`, compiled; once for each of its states.

    Raises:
        NoCompilerError: nothing compiles here.
        RehearsalError: it is not accepted.
    """
    compiler = which("cc")
    if not compiler or not Path("/usr/include/stdio.h").exists():
        raise NoCompilerError("no C compiler here: install Debian's packages gcc and libc6-dev")
    target = BUILT / f"nitro-{sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    if not target.exists():
        BUILT.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILT) as folder:
            made = Path(folder) / target.name
            options = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror")
            command: list[str | Path] = [compiler, *options, "-o", made, SOURCE, "-ldl"]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                raise RehearsalError(f"{SOURCE.name} does not compile: {result.stderr[:1000]}")
            made.replace(target)  # whole at once: others may be building it, too
    return target
