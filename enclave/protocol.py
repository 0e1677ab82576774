"""A run request and its answer on the wire: what client and server share.

    client ─► server   length, header (JSON), artifact, [chunks of a tar of input], signals
    server ─► client   accepted or busy, then frames: output, errors, results, failed, exit

Integers are big-endian. The header is the only structured part, JSON of bounded size. Every length
is checked against its limit before that much is read. Each side treats the other as hostile: the
parent instance is the host's, and the enclave runs code that the host does not know.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

VERSION: Final = 1  # of this protocol, the header's member "version"
SOFTWARE: Final = "0.2.0"  # as in pyproject.toml, which is not copied along; a test compares them
PORT: Final = 6000  # the default vsock port
HEADER_MAX: Final = 1 << 18  # bytes
FRAME_MAX: Final = 1 << 20  # bytes of a frame's or chunk's content
CHUNK: Final = 1 << 18  # bytes sent at once
SIZE_MAX: Final = 1 << 48  # bytes: more than any machine has
CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": 128,
    "AWS_SECRET_ACCESS_KEY": 256,
    "AWS_SESSION_TOKEN": 16_384,
}
"""The parent role's credentials: their names, and how many characters each may have."""

ACCEPTED, BUSY, OUTPUT, ERRORS, RESULTS, FAILED, EXIT = b"a", b"b", b"o", b"e", b"r", b"f", b"x"
KINDS: Final = frozenset((ACCEPTED, BUSY, OUTPUT, ERRORS, RESULTS, FAILED, EXIT))
"""Kinds of frames. FAILED or EXIT is the last frame of an answer; BUSY is the only one."""

_LENGTH: Final = struct.Struct(">I")
_FRAME: Final = struct.Struct(">cI")
_VSOCK: Final = re.compile(r"vsock:(?:([0-9]{1,10}):)?([0-9]{1,10})")
_PRINTABLE: Final = re.compile(r"[!-~]+")
_UINT32: Final = (1 << 32) - 1


class ProtocolError(Exception):
    """The other side violated the protocol, or was too slow; the message says how."""


class DisconnectedError(ProtocolError):
    """The other side has disconnected."""


class Address(NamedTuple):
    """The address of a server.

    Attributes:
        path: of a Unix socket; empty for vsock.
        cid: of vsock; None means any, for a server.
        port: of vsock.
    """

    path: str = ""
    cid: int | None = None
    port: int = PORT

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``unix:PATH``, ``vsock:PORT`` or ``vsock:CID:PORT``.

        Raises:
            ValueError: it is none of these.
        """
        kind, _, path = text.partition(":")
        if kind == "unix" and path and "\0" not in path:
            return cls(path=path)
        numbers = _VSOCK.fullmatch(text)
        if numbers is None or any(int(number) > _UINT32 for number in numbers.groups("0")):
            raise ValueError(f"{text!r} is not unix:PATH, vsock:PORT or vsock:CID:PORT")
        cid = None if numbers[1] is None else int(numbers[1])
        return cls(cid=cid, port=int(numbers[2]))

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        if self.path:
            return f"unix:{self.path}"
        return f"vsock:{self.port}" if self.cid is None else f"vsock:{self.cid}:{self.port}"


class Size(NamedTuple):
    """A directory's size: the bytes of all its files, and the number of files and directories."""

    content: int
    members: int


@dataclass(frozen=True)
class Request:
    """A request's header: what to run, and what follows.

    Attributes:
        script: a file of the artifact, relative to its root.
        arguments: of the script.
        credentials: the parent role's, under the names of `CREDENTIALS`.
        artifact: bytes of the artifact, which follows the header.
        input: size of the directory whose tar follows the artifact; None if there is none.
        results: whether a tar of the results is requested.
    """

    script: str
    arguments: tuple[str, ...]
    credentials: Mapping[str, str]
    artifact: int
    input: Size | None = None
    results: bool = False

    def encoded(self) -> bytes:
        """Return the header, preceded by its length.

        Raises:
            ProtocolError: it is longer than `HEADER_MAX`.
        """
        header = {
            "version": VERSION,
            "script": self.script,
            "arguments": self.arguments,
            "credentials": self.credentials,
            "artifact": self.artifact,
            "input": self.input,
            "results": self.results,
        }
        text = json.dumps(header).encode()
        if len(text) > HEADER_MAX:
            raise ProtocolError(
                f"the script's arguments are too long: the header has {len(text):,} bytes, more "
                f"than {HEADER_MAX:,}"
            )
        return _LENGTH.pack(len(text)) + text

    @classmethod
    def parse(cls, text: bytes) -> Request:
        """Read a header, without its length, validating every member.

        Raises:
            ProtocolError: it is not exactly what `encoded` writes.
        """
        try:
            header = json.loads(text, object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as error:
            raise ProtocolError("the header is not JSON") from error
        if not isinstance(header, dict) or header.keys() != _VALID.keys():
            raise ProtocolError("the header does not have the members of a run request")
        for name, valid in _VALID.items():
            if not valid(header[name]):
                raise ProtocolError(f"the header's {name} is not valid")
        return cls(
            script=header["script"],
            arguments=tuple(header["arguments"]),
            credentials=header["credentials"],
            artifact=header["artifact"],
            input=None if header["input"] is None else Size(*header["input"]),
            results=header["results"],
        )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= SIZE_MAX  # a bool is an int to isinstance


def _is_word(value: object) -> bool:
    """Return whether *value* can be an argument of a program."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:  # an unpaired surrogate
        return False
    return True


def _are_credentials(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == CREDENTIALS.keys()
        and all(
            isinstance(value[name], str)
            and len(value[name]) <= longest
            and _PRINTABLE.fullmatch(value[name])
            for name, longest in CREDENTIALS.items()
        )
    )


_VALID: Final[Mapping[str, Callable[[Any], object]]] = {
    "version": lambda value: type(value) is int and value == VERSION,
    "script": lambda value: _is_word(value) and value,
    "arguments": lambda value: isinstance(value, list) and all(map(_is_word, value)),
    "credentials": _are_credentials,
    "artifact": _is_size,
    "input": lambda value: (
        value is None
        or (
            isinstance(value, list)
            and len(value) == len(Size._fields)
            and all(map(_is_size, value))
        )
    ),
    "results": lambda value: isinstance(value, bool),
}


class Connection:
    """One side of a connection, with time limits.

    A call that makes no progress for *stall* seconds, or has not returned by the deadline that
    `within` sets, ends with a ProtocolError. So a peer cannot block it by sending a byte from time
    to time.
    """

    def __init__(self, peer: socket.socket, stall: float | None) -> None:
        """Use *peer*, which the caller closes; if *stall* is None, wait forever."""
        self.peer = peer
        self._stall = stall
        self._deadline: float | None = None

    def within(self, seconds: float | None) -> None:
        """Set a deadline, *seconds* from now, for all further calls; None for no deadline."""
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def receive(self, size: int) -> bytes:
        """Return the next 1 to *size* bytes.

        Raises:
            DisconnectedError: there are none, because the other side has disconnected.
            ProtocolError: the other side is too slow.
        """
        self._wait()
        try:
            data = self.peer.recv(size)
        except TimeoutError as error:
            raise self._too_slow() from error
        except OSError as error:
            raise DisconnectedError(f"the connection broke: {error.strerror}") from error
        if not data:
            raise DisconnectedError("the connection was closed too early")
        return data

    def receive_exactly(self, size: int) -> bytes:
        """Return the next *size* bytes; the caller has checked *size* against its limit."""
        parts = []
        while size:
            parts.append(self.receive(size))
            size -= len(parts[-1])
        return b"".join(parts)

    def send(self, data: bytes | memoryview) -> None:
        """Send all of *data*.

        Raises:
            DisconnectedError: the other side has disconnected.
            ProtocolError: the other side does not read.
        """
        rest = memoryview(data)
        while rest:
            self._wait()
            try:
                rest = rest[self.peer.send(rest) :]
            except TimeoutError as error:
                raise self._too_slow() from error
            except OSError as error:
                raise DisconnectedError(f"the connection broke: {error.strerror}") from error

    def _wait(self) -> None:
        left = self._stall
        if self._deadline is not None:
            until = self._deadline - time.monotonic()
            if until <= 0:
                raise self._too_slow()
            left = until if left is None else min(left, until)
        self.peer.settimeout(left)

    def _too_slow(self) -> ProtocolError:
        return ProtocolError("the other side of the connection is too slow")


# --- what is sent over it -------------------------------------------------------------------------


def receive_header(connection: Connection) -> Request:
    """Read a request's header.

    Raises:
        ProtocolError: it is too long, or not valid.
    """
    (length,) = _LENGTH.unpack(connection.receive_exactly(_LENGTH.size))
    if not 0 < length <= HEADER_MAX:
        raise ProtocolError(f"the header has {length:,} bytes, not 1 to {HEADER_MAX:,}")
    return Request.parse(connection.receive_exactly(length))


def send_frame(connection: Connection, kind: bytes, content: bytes = b"") -> None:
    """Send one frame, or several if *content* is longer than one may be."""
    view = memoryview(content)
    for start in range(0, max(1, len(view)), FRAME_MAX):
        part = view[start : start + FRAME_MAX]
        connection.send(_FRAME.pack(kind, len(part)) + part)


def receive_frame(connection: Connection) -> tuple[bytes, bytes]:
    """Return the kind and the content of the next frame.

    Raises:
        ProtocolError: its kind is unknown, or it is too long.
    """
    kind, length = _FRAME.unpack(connection.receive_exactly(_FRAME.size))
    if kind not in KINDS or length > FRAME_MAX:
        raise ProtocolError("the response is not from an enclave server")
    return kind, connection.receive_exactly(length)


def send_chunk(connection: Connection, content: bytes) -> None:
    """Send a chunk of the input's tar; an empty one marks its end."""
    connection.send(_LENGTH.pack(len(content)) + content)


def chunks(connection: Connection) -> Iterator[bytes]:
    """Yield the chunks of the input's tar up to its end.

    Raises:
        ProtocolError: a chunk is too long.
    """
    while True:
        (length,) = _LENGTH.unpack(connection.receive_exactly(_LENGTH.size))
        if length > FRAME_MAX:
            raise ProtocolError(f"a chunk of input has {length:,} bytes, more than {FRAME_MAX:,}")
        if not length:
            return
        yield connection.receive_exactly(length)


def open_socket(address: Address) -> socket.socket:
    """Return a new socket of the kind that *address* needs."""
    # These few lines are the only ones specific to vsock.
    if address.path:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)


def connect(address: Address, seconds: float) -> socket.socket:
    """Connect to the server at *address*.

    Raises:
        OSError: no server listens there.
    """
    peer = open_socket(address)
    try:
        peer.settimeout(seconds)
        peer.connect(address.path or (address.cid, address.port))
    except BaseException:
        peer.close()
        raise
    return peer
