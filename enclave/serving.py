"""One run, in a process of its own: receive the request, run the script, send the answer.

The process is forked by `server.py` for one connection and ends with it. Whatever happens here, the
server then ends all that is left of it and removes its folder, which holds everything decrypted.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from decryptor.errors import DecryptorError, reason
from decryptor.script import Control, Session, run
from decryptor.token import Artifact
from enclave import folders, protocol
from enclave.folders import FolderError
from enclave.protocol import Connection, DisconnectedError, ProtocolError

if TYPE_CHECKING:
    from pathlib import Path

    from decryptor.archive import Limits
    from decryptor.attester import Attester
    from decryptor.kmstool import Kmstool
    from enclave.protocol import Request

TRANSFER_SECONDS: Final = 60
TRANSFER_RATE: Final = 1 << 20  # bytes per further second: a tenth of a slow disk's rate
LINGER_SECONDS: Final = 2
SIGNALS: Final = frozenset((1, 2, 15))  # SIGHUP, SIGINT, SIGTERM: a client may pass these on


@dataclass(frozen=True)
class Settings:
    """What the server's command line, measured by PCR0, sets for every run.

    Attributes:
        source: how to ask KMS for a data key; the credentials come from the request.
        limits: of the artifact's tree.
        stall: seconds that a transfer may make no progress.
        seconds: how long a script may run; None for no limit.
        user: user and group id of scripts; None for the server's own.
    """

    source: Kmstool | Attester
    limits: Limits
    stall: float
    seconds: float | None
    user: tuple[int, int] | None


@dataclass(frozen=True)
class Places:
    """The directories of one run, all inside one that is removed afterwards."""

    folder: Path

    @property
    def input(self) -> Path:
        """The host's data, read-only."""
        return self.folder / "input"

    @property
    def output(self) -> Path:
        """The directory for the script's results."""
        return self.folder / "output"

    @property
    def temporary(self) -> Path:
        """The script's TMPDIR and HOME, which are removed after the run."""
        return self.folder / "tmp"

    def create(self, user: tuple[int, int] | None) -> None:
        """Create all of them; *user* owns the writable ones."""
        if user:
            self.folder.chmod(0o711)  # may be passed through, but not listed
        for place in (self.input, self.output, self.temporary):
            place.mkdir(mode=0o755 if place == self.input else 0o700)
        for place in (self.output, self.temporary):
            if user:
                os.chown(place, *user)

    def environment(self) -> dict[str, str]:
        """Return a script's environment: the image's, and its directories."""
        return dict(os.environ) | {
            "ENCLAVE_INPUT": str(self.input),
            "ENCLAVE_OUTPUT": str(self.output),
            "HOME": str(self.temporary),
            "TMPDIR": str(self.temporary),
        }


def serve(peer: socket.socket, settings: Settings, folder: Path) -> str:
    """Serve the one request that comes from *peer*; everything is written into *folder*.

    Returns:
        The outcome, for the server's log; it contains at most a name from the request.
    """
    connection = Connection(peer, settings.stall)
    began = time.monotonic()
    try:
        try:
            status = _run(connection, settings, Places(folder))
        except (DecryptorError, ProtocolError, FolderError, OSError) as error:
            _fail(connection, error)
            return f"failed: {reason(error) if isinstance(error, OSError) else error}"
        protocol.send_frame(connection, protocol.EXIT, bytes((status,)))
    except ProtocolError as error:
        return f"was aborted: {error}"
    return f"ended with status {status} after {time.monotonic() - began:.1f} s"


def _fail(connection: Connection, error: Exception) -> None:
    """Tell the client why there is no exit status, if it is still connected."""
    if isinstance(error, DisconnectedError):
        raise error
    connection.within(LINGER_SECONDS)  # the previous deadline may have passed
    known = isinstance(error, (DecryptorError, ProtocolError, FolderError))
    text = str(error) if known else reason(error)
    protocol.send_frame(connection, protocol.FAILED, text.encode(errors="backslashreplace"))
    # Closing with unread data would reset the connection before the client has read this.
    connection.peer.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ProtocolError):
        while connection.receive(protocol.CHUNK):
            pass


def _run(connection: Connection, settings: Settings, places: Places) -> int:
    """Receive a request, run its script, and send all of the answer but its last frame."""
    protocol.send_frame(connection, protocol.ACCEPTED)
    connection.within(settings.stall)  # for the whole header, which is small
    request = protocol.receive_header(connection)
    places.create(settings.user)
    artifact = _Upload(connection, request.artifact)

    def output(stream: int, data: bytes) -> None:
        protocol.send_frame(connection, protocol.OUTPUT if stream == 1 else protocol.ERRORS, data)

    session = Session(
        output=output,
        control=Control(connection.peer.fileno(), lambda: _signal(connection)),
        seconds=settings.seconds,
        environment=places.environment(),
        user=settings.user,
        ready=lambda: _receive_input(connection, request, places.input),
    )
    source = settings.source._replace(credentials=request.credentials)

    def unwrap(encrypted_key: bytes) -> bytes:
        data_key = source.unwrap(encrypted_key)
        connection.within(_patience(request.artifact))  # the time for KMS does not count
        return data_key

    connection.within(settings.stall)
    status = run(
        Artifact(artifact, request.artifact),
        (request.script, *request.arguments),
        unwrap,
        settings.limits,
        session,
    )
    if request.results:
        folders.pack(
            places.output,
            lambda data: protocol.send_frame(connection, protocol.RESULTS, data),
            follow=False,
        )
    return status


def _patience(size: int) -> float:
    """Return how many seconds *size* bytes may take to arrive."""
    return TRANSFER_SECONDS + size / TRANSFER_RATE


class _Upload:
    """The artifact as it arrives: exactly as many bytes as the header said."""

    def __init__(self, connection: Connection, size: int) -> None:
        self._connection, self._left = connection, size

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most *size*; none at the end."""
        wanted = min(size, self._left)
        if not wanted:
            return b""
        data = self._connection.receive(wanted)
        self._left -= len(data)
        return data


def _receive_input(connection: Connection, request: Request, folder: Path) -> None:
    """Unpack the input, if the request has one, and remove the time limit for the script."""
    if request.input:
        size = request.input.content
        room = os.statvfs(folder)
        if room.f_blocks and size > room.f_bavail * room.f_frsize:
            raise FolderError(
                f"the input has {size:,} bytes, but the enclave has room for only "
                f"{room.f_bavail * room.f_frsize:,}: give it more memory"
            )
        connection.within(_patience(size))
        folders.unpack(protocol.chunks(connection), folder, request.input, read_only=True)
    connection.within(None)


def _signal(connection: Connection) -> int | None:
    """Return the signal that the client passes on.

    Raises:
        DisconnectedError: it has disconnected, so nobody reads the script's output any more.
        ProtocolError: it sent something else.
    """
    (number,) = connection.receive(1)
    if number not in SIGNALS:
        raise ProtocolError("the client sent something that is not a signal")
    return int(number)
