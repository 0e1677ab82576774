"""Hostile clients, by kind: each may end only its own run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import select
import socket
import tarfile
from typing import TYPE_CHECKING, Any

from enclave import protocol
from tests.server.harness import LENGTH, received
from tests.support.enclave import CREDENTIALS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from enclave.protocol import Connection
    from tests.server.harness import Answer

    Kind = Callable[[Connection, bytes], Answer | None]
    """Misbehaves on an accepted connection, given a valid artifact.

    It returns the response, if it waits for one.
    """


def header(artifact: int) -> dict[str, Any]:
    """Return a valid header."""
    return {
        "version": 1,
        "script": "start",
        "arguments": ["a"],
        "credentials": CREDENTIALS,
        "artifact": artifact,
        "input": None,
        "results": True,
    }


def sent(content: bytes) -> bytes:
    return LENGTH.pack(len(content)) + content


def request(content: bytes, /, **changes: object) -> bytes:
    """Return a whole request whose header has *changes*."""
    return sent(json.dumps(header(len(content)) | changes).encode()) + content


def says(make: Callable[[bytes], bytes]) -> Kind:
    """Send something, and read the response."""

    def kind(connection: Connection, artifact: bytes) -> Answer:
        with contextlib.suppress(protocol.DisconnectedError):  # refused before its end
            connection.send(make(artifact))
        return received(connection)

    return kind


def tells(**changes: object) -> Kind:
    """Send a request whose header has *changes*."""
    return says(lambda artifact: request(artifact, **changes))


def text(make: Callable[[Mapping[str, Any]], bytes]) -> Kind:
    """Send a header of arbitrary text."""
    return says(lambda artifact: sent(make(header(len(artifact)))) + artifact)


def unpacks(tar: bytes, size: tuple[int, int] = (1 << 20, 100)) -> Kind:
    """Send a tar of input."""
    chunks = sent(tar) + sent(b"")
    return says(lambda artifact: request(artifact, input=list(size)) + chunks)


def goes(make: Callable[[bytes], bytes]) -> Kind:
    """Send something and disconnect."""

    def kind(connection: Connection, artifact: bytes) -> None:
        connection.send(make(artifact))

    return kind


def drips(connection: Connection, artifact: bytes) -> Answer:
    """Send one byte at a time, each within the time limit of a step."""
    with contextlib.suppress(protocol.DisconnectedError):
        for byte in request(artifact):
            connection.send(bytes((byte,)))
            if select.select([connection.peer], [], [], 0.1)[0]:
                break
    return received(connection)


def runs_and(then: Callable[[Connection], Answer | None]) -> Kind:
    """Start a long-running script, and then do something."""

    def kind(connection: Connection, artifact: bytes) -> Answer | None:
        connection.send(request(artifact, arguments=["never-ends"]))
        kind, _ = protocol.receive_frame(connection)
        assert kind == protocol.OUTPUT
        return then(connection)

    return kind


def floods(connection: Connection) -> Answer:
    with contextlib.suppress(protocol.DisconnectedError):
        while True:
            connection.send(bytes(1 << 20))
    return received(connection)


def sends_another_signal(connection: Connection) -> Answer:
    connection.send(b"\x09")
    return received(connection)


def resets(connection: Connection) -> None:
    connection.peer.shutdown(socket.SHUT_RDWR)


def tar(name: str = "file", size: int = 0, content: bytes = b"", **fields: Any) -> bytes:  # noqa: ANN401
    """Return a tar with one member, with arbitrary fields."""
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    block = info.tobuf(tarfile.GNU_FORMAT)
    return block + content + bytes(-len(content) % 512) + bytes(1024)


def twice() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("file"))
    return stream.getvalue()


def tampered(artifact: bytes) -> bytes:
    middle = len(artifact) // 2
    other = b"A" if artifact[middle : middle + 1] != b"A" else b"B"
    return artifact[:middle] + other + artifact[middle + 1 :]


KINDS: dict[str, Kind] = {
    # the header
    "goes-at-once": goes(lambda _: b""),
    "goes-inside-the-length": goes(lambda _: b"\0\0"),
    "goes-inside-the-header": goes(lambda artifact: request(artifact)[:50]),
    "says-nothing": says(lambda _: b""),
    "drips": drips,
    "announces-a-header-of-4-GiB": says(lambda _: b"\xff\xff\xff\xff" + bytes(1000)),
    "announces-no-header": says(lambda _: bytes(4)),
    "speaks-HTTP": says(lambda _: b"GET / HTTP/1.1\r\nHost: enclave\r\n\r\n" + bytes(1000)),
    "sends-noise": says(lambda _: os.urandom(5000)),
    "pickles": says(lambda artifact: sent(pickle.dumps(header(len(artifact)))) + artifact),
    "nests-deeply": says(lambda _: sent(b"[" * 200_000)),
    "writes-a-huge-number": text(
        lambda right: json.dumps(right)[:-1].encode() + b"9" * 9000 + b"}"
    ),
    "says-something-twice": text(
        lambda right: b'{"script": "x", ' + json.dumps(right)[1:].encode()
    ),
    "leaves-something-out": text(lambda _: b"{}"),
    "sends-a-list": text(lambda _: b"[]"),
    "chooses-the-key": tells(**{"key-id": "arn:aws:kms:eu-central-1:222222222222:key/1"}),
    "chooses-the-environment": tells(environment={"LD_PRELOAD": "/x"}),
    "speaks-another-version": tells(version=2),
    "has-a-script-that-is-no-text": tells(script=["start"]),
    "has-a-script-outside": tells(script="../../../../bin/sh"),
    "has-an-absolute-script": tells(script="/bin/sh"),
    "has-a-NUL": tells(arguments=["a\0b"]),
    "has-half-a-surrogate": tells(arguments=["\ud800"]),
    "has-credentials-with-options": tells(credentials=CREDENTIALS | {"AWS_SESSION_TOKEN": "a --x"}),
    "has-long-credentials": tells(credentials=CREDENTIALS | {"AWS_ACCESS_KEY_ID": "A" * 129}),
    "has-other-credentials": tells(credentials=CREDENTIALS | {"AWS_PROFILE": "x"}),
    "says-true-for-a-size": tells(artifact=True),
    "has-a-negative-size": tells(artifact=-1),
    "has-a-size-beyond-everything": tells(artifact=1 << 60),
    # the artifact
    "lies-about-its-size": says(lambda artifact: request(artifact, artifact=1 << 40)),
    "sends-less-than-it-said": goes(lambda a: request(a, artifact=len(a) + 1)),
    "cuts-it-off": tells(artifact=100),
    "has-no-artifact": tells(artifact=0),
    "sends-another-file": says(lambda artifact: request(bytes(len(artifact)))),
    "tampers-with-it": says(lambda artifact: request(tampered(artifact))),
    "stalls-inside-it": says(lambda artifact: request(artifact)[:-50]),
    "goes-inside-it": goes(lambda artifact: request(artifact)[:-50]),
    "sends-more": says(lambda a: request(a, arguments=["never-ends"]) + bytes(1 << 18)),
    # the input
    "announces-more-input-than-room": tells(input=[1 << 47, 1]),
    "sends-a-chunk-of-4-GiB": says(lambda a: request(a, input=[1, 1]) + b"\xff\xff\xff\xff"),
    "stalls-inside-the-input": says(lambda a: request(a, input=[1, 1]) + sent(bytes(100))[:50]),
    "goes-inside-the-input": goes(lambda a: request(a, input=[1, 1]) + sent(bytes(100))[:50]),
    "sends-no-tar": unpacks(os.urandom(2048)),
    "sends-an-empty-input": unpacks(b""),
    "sends-a-tar-cut-off": unpacks(tar(size=4000, content=bytes(100))[:700]),
    "climbs-out": unpacks(tar("../escaped")),
    "is-absolute": unpacks(tar("/tmp/escaped")),  # noqa: S108
    "sends-a-link": unpacks(tar("file", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "sends-a-hard-link": unpacks(tar("file", type=tarfile.LNKTYPE, linkname="/etc/passwd")),
    "sends-a-device": unpacks(tar("file", type=tarfile.CHRTYPE)),
    "sends-a-pipe": unpacks(tar("file", type=tarfile.FIFOTYPE)),
    "sends-a-huge-pax-header": unpacks(tar("x", size=1 << 40, type=tarfile.XHDTYPE)),
    "sends-a-huge-name": unpacks(tar("x", size=1 << 30, type=tarfile.GNUTYPE_LONGNAME)),
    "sends-a-sparse-file": unpacks(tar("x", type=tarfile.GNUTYPE_SPARSE)),
    "sends-a-negative-file": unpacks(tar("x", size=-512)),
    "sends-a-file-twice": unpacks(twice()),
    "sends-more-than-announced": unpacks(tar(size=2, content=b"ab"), (1, 1)),
    "sends-more-members": unpacks(twice(), (0, 1)),
    "sends-a-file-before-its-directory": unpacks(tar("a/b")),
    "sends-something-after-the-tar": unpacks(tar() + b"more"),
    # while the script runs
    "goes-while-it-runs": runs_and(lambda _: None),
    "floods-while-it-runs": runs_and(floods),
    "sends-another-signal": runs_and(sends_another_signal),
    "resets-while-it-runs": runs_and(resets),
}
"""Every kind of hostile client, by what it does."""

REFUSALS: dict[str, str] = {
    "says-nothing": "too slow",
    "drips": "too slow",
    "announces-a-header-of-4-GiB": "the header has 4,294,967,295 bytes, not 1 to 262,144",
    "announces-no-header": "the header has 0 bytes",
    "speaks-HTTP": "the header has 1,195,725,856 bytes",
    "sends-noise": "the header has ",
    "pickles": "the header is not JSON",
    "nests-deeply": "the header is not JSON",
    "writes-a-huge-number": "the header is not JSON",
    "says-something-twice": "the header is not JSON",
    "leaves-something-out": "the header does not have the members",
    "sends-a-list": "the header does not have the members",
    "chooses-the-key": "the header does not have the members",
    "chooses-the-environment": "the header does not have the members",
    "speaks-another-version": "the header's version",
    "has-a-script-that-is-no-text": "the header's script",
    "has-a-script-outside": "not a regular file of the artifact",
    "has-an-absolute-script": "not a regular file of the artifact",
    "has-a-NUL": "the header's arguments",
    "has-half-a-surrogate": "the header's arguments",
    "has-credentials-with-options": "the header's credentials",
    "has-long-credentials": "the header's credentials",
    "has-other-credentials": "the header's credentials",
    "says-true-for-a-size": "the header's artifact",
    "has-a-negative-size": "the header's artifact",
    "has-a-size-beyond-everything": "the header's artifact",
    "lies-about-its-size": " bytes are needed",
    "has-no-artifact": "encrypted data key length is 0",
    "sends-another-file": "encrypted data key length is 0",
    "cuts-it-off": "ends inside the encrypted data key",
    "tampers-with-it": "HMAC does not match",
    "stalls-inside-it": "too slow",
    "sends-more": "something that is not a signal",
    "announces-more-input-than-room": "the enclave has room for",
    "sends-a-chunk-of-4-GiB": "a chunk of input has 4,294,967,295 bytes",
    "stalls-inside-the-input": "too slow",
    "sends-no-tar": "the tar is damaged",
    "sends-an-empty-input": "the tar ends too early",
    "sends-a-tar-cut-off": "the tar ends too early",
    "climbs-out": "leaves its directory",
    "is-absolute": "leaves its directory",
    "sends-a-link": "so it cannot be transferred",
    "sends-a-hard-link": "so it cannot be transferred",
    "sends-a-device": "so it cannot be transferred",
    "sends-a-pipe": "so it cannot be transferred",
    "sends-a-huge-pax-header": "so it cannot be transferred",
    "sends-a-huge-name": "a name in the tar has 1,073,741,824 bytes",
    "sends-a-sparse-file": "so it cannot be transferred",
    "sends-a-negative-file": "so it cannot be transferred",
    "sends-a-file-twice": "is in the tar twice",
    "sends-more-than-announced": "more than was announced",
    "sends-more-members": "more than was announced",
    "sends-a-file-before-its-directory": "precedes its directory",
    "sends-something-after-the-tar": "the tar has data after its end",
    "floods-while-it-runs": "something that is not a signal",
    "sends-another-signal": "something that is not a signal",
}
"""The refusal of each kind that waits for a response."""

SCRIPT = """#!/bin/sh
[ "$1" = never-ends ] || exit 0
setsid sleep 600 &
echo running
sleep 600
"""
"""The script of their requests: it ends at once unless told otherwise."""
