"""A server as an image starts it, and two ways to call it: the protocol, and the client."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from enclave import folders, protocol
from enclave.protocol import Connection, Request
from tests.support import forked
from tests.support.enclave import CREDENTIALS, KEY_ARN, Enclave, install, zipped
from tests.support.machine import memory
from tests.support.paths import CLIENT, SERVER
from tests.support.processes import PATIENCE, children, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LENGTH = struct.Struct(">I")


@dataclass
class Answer:
    """A server's response: output, errors, the results' tar, and the ending."""

    output: bytes = b""
    errors: bytes = b""
    results: list[bytes] = field(default_factory=list)
    status: int | None = None
    failure: str = ""
    busy: bool = False


class Server:
    """A running server, its enclave's kmstool, and the folder for its runs."""

    def __init__(
        self, home: Path, *options: str, program: Sequence[str] = (), **environment: str
    ) -> None:
        """Start it in *home*, or *program* instead of our own."""
        self.enclave: Enclave = install(home)
        # If we are root, scripts run as another user, who must reach their folder.
        self.runs = Path(tempfile.mkdtemp(prefix="runs-", dir=memory()))
        self.runs.chmod(0o711)
        self._log = home / "server.log"  # not a pipe, which would fill up
        self.address = protocol.Address(path=str(self.runs.parent / f"{self.runs.name}.socket"))
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(program or (sys.executable, str(SERVER))),
                    *("--listen", str(self.address), "--key-id", KEY_ARN),
                    *("--kmstool", str(self.enclave.tool), "--stall", "1", *options),
                ],
                env={
                    "PATH": os.environ["PATH"],
                    "TMPDIR": str(self.runs),
                    "AWS_SECRET_ACCESS_KEY": "of-the-server",
                    **environment,
                },
                stderr=log,
            )
        wait_for(lambda: self._log.stat().st_size or self.process.poll() is not None)
        assert self._log.read_text() == f"listening on {self.address}\n"

    def stop(self) -> str:
        """End the server; return its log."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        shutil.rmtree(self.runs)
        return self._log.read_text()

    def artifact(self, files: dict[str, bytes | str]) -> Path:
        """Encrypt *files*; those that begin with #! are executable."""
        executable = tuple(name for name, text in files.items() if str(text).startswith("#!"))
        return self.enclave.artifact(zipped(files, executable))

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """Connect, even while another client is served."""
        with protocol.connect(self.address, PATIENCE) as peer:
            yield Connection(peer, PATIENCE)

    def request(
        self,
        artifact: Path,
        script: str,
        *arguments: str,
        given: Path | None = None,
        results: bool = False,
    ) -> Answer:
        """Send a request by the protocol and return the whole response."""
        header = Request(
            script=script,
            arguments=arguments,
            credentials=CREDENTIALS,
            artifact=artifact.stat().st_size,
            input=folders.measured(given, follow=True) if given else None,
            results=results,
        )
        with self.connection() as connection:
            if refused := self.accepted(connection):
                return refused
            with contextlib.suppress(protocol.DisconnectedError):
                connection.send(header.encoded() + artifact.read_bytes())
                if given:
                    folders.pack(given, lambda d: protocol.send_chunk(connection, d), follow=True)
                    protocol.send_chunk(connection, b"")
            return received(connection)

    def accepted(self, connection: Connection) -> Answer | None:
        """Return None if the server accepts *connection*, or its refusal."""
        kind, content = protocol.receive_frame(connection)
        if kind == protocol.ACCEPTED:
            return None
        return Answer(busy=kind == protocol.BUSY, failure=content.decode())

    def idle(self) -> None:
        """Wait until no process or file of a run is left."""
        wait_for(lambda: not children(self.process.pid) and not list(self.runs.iterdir()))
        assert self.process.poll() is None

    def memory(self) -> int:
        """Return the server's resident memory in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(line)

    def descriptors(self) -> int:
        """Count the server's open files."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def client(
        self, artifact: Path, *words: str, options: tuple[str, ...] = (), **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the client to its end."""
        return forked.run(
            self.client_command(artifact, *words, options=options),
            env=client_environment(**settings),
        )

    def client_command(
        self, artifact: Path, *words: str, options: tuple[str, ...] = ()
    ) -> list[str]:
        """Return the client's command line."""
        place = ("--address", str(self.address), "-f", str(artifact))
        return [sys.executable, str(CLIENT), "run", *place, *options, "--", *words]


def client_environment(**settings: str) -> dict[str, str]:
    """Return the environment of a developer's machine with a role's credentials."""
    nothing = {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return {"PATH": os.environ["PATH"], **nothing, **CREDENTIALS, **settings}


def received(connection: Connection) -> Answer:
    """Read a response to its end."""
    answer = Answer()
    while True:
        kind, content = protocol.receive_frame(connection)
        if kind == protocol.OUTPUT:
            answer.output += content
        elif kind == protocol.ERRORS:
            answer.errors += content
        elif kind == protocol.RESULTS:
            answer.results.append(content)
        elif kind == protocol.EXIT:
            answer.status = content[0]
            return answer
        else:
            answer.failure = content.decode()
            return answer


@contextlib.contextmanager
def running(
    home: Path, *options: str, program: Sequence[str] = (), **environment: str
) -> Iterator[Server]:
    """Run a server, which must leave nothing and report no defect."""
    server = Server(home, *options, program=program, **environment)
    try:
        yield server
        server.idle()
    finally:
        log = server.stop()
    assert server.process.returncode == 128 + signal.SIGTERM
    assert log.endswith("error: terminated by SIGTERM, nothing is left behind\n")
    assert "please report it" not in log
    assert not Path(server.address.path).exists()
