"""Whatever a client does, it ends only its own run: nothing is left, and the next is served."""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING

import pytest

from enclave import protocol
from tests.server.harness import received, running
from tests.server.hostile import KINDS, REFUSALS, SCRIPT
from tests.support.enclave import CREDENTIALS, DATA_KEY
from tests.support.processes import ended, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server.harness import Answer, Server

REQUESTS = 120
HOSTILE = 10  # every tenth request is hostile
GROWTH_MAX = 4 << 20  # bytes; it grows by a fraction of one


def harm(server: Server, kind: str, artifact: bytes) -> Answer | None:
    """Do what *kind* does; return the response, if it waited for one."""
    with server.connection() as connection:
        assert server.accepted(connection) is None
        return KINDS[kind](connection, artifact)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_client_ends_only_its_own_run(kind: str, server: Server) -> None:
    artifact = server.artifact({"start": SCRIPT})
    answer = harm(server, kind, artifact.read_bytes())
    if answer:
        assert answer.status is None
        assert REFUSALS[kind] in answer.failure
    server.idle()
    assert server.request(artifact, "start").status == 0


def test_client_that_disconnects_during_the_kms_request_does_not_block(tmp_path: Path) -> None:
    with running(tmp_path, KMSTOOL_BEHAVIOUR="hang") as server:
        artifact = server.artifact({"start": SCRIPT})
        with server.connection() as connection:
            assert server.accepted(connection) is None
            request = protocol.Request("start", (), CREDENTIALS, artifact.stat().st_size)
            connection.send(request.encoded() + artifact.read_bytes())
            hanging = server.enclave.tool.with_name("hanging")
            wait_for(lambda: hanging.exists() and hanging.read_text().endswith("\n"))
        server.idle()  # long before kmstool's time limit, three times a minute
        assert all(map(ended, map(int, hanging.read_text().split())))


def test_client_that_does_not_read_does_not_block(server: Server) -> None:
    artifact = server.artifact({"start": "#!/bin/sh\nyes\n"})
    with server.connection() as connection:
        assert server.accepted(connection) is None
        request = protocol.Request("start", (), CREDENTIALS, artifact.stat().st_size)
        connection.send(request.encoded() + artifact.read_bytes())
        server.idle()


def test_reason_of_a_refusal_is_sent_to_the_client(server: Server) -> None:
    artifact = server.artifact({"start": SCRIPT})
    with server.connection() as connection:
        assert server.accepted(connection) is None
        connection.send(b"\0\0\0\2{}")
        assert (
            received(connection).failure == "the header does not have the members of a run request"
        )
    request = protocol.Request("start", (), CREDENTIALS, artifact.stat().st_size)
    for change, failure in ((b"x", "does not match the data key"), (b"=", "not canonical")):
        with server.connection() as connection:
            assert server.accepted(connection) is None
            content = artifact.read_bytes()
            middle = len(content) // 2
            connection.send(request.encoded() + content[:middle] + change + content[middle + 1 :])
            assert failure in received(connection).failure


def test_request_cannot_forge_log_lines(tmp_path: Path) -> None:
    forged = "a\n\x1b[2Jrun ended with status 0"
    with running(tmp_path) as server:
        artifact = server.artifact({"start": SCRIPT})
        assert server.request(artifact, forged).failure.startswith(forged)
        server.idle()
        _, line = (tmp_path / "server.log").read_text().splitlines()
    assert line.startswith("run failed: a\\n\\x1b[2Jrun ended")
    assert line.isprintable()


def test_other_clients_are_refused_as_busy_during_a_run(server: Server) -> None:
    artifact = server.artifact({"start": "#!/bin/sh\necho ready\nsleep 1\necho done\n"})
    request = protocol.Request("start", (), CREDENTIALS, artifact.stat().st_size)
    with server.connection() as connection, contextlib.ExitStack() as crowd:
        assert server.accepted(connection) is None
        connection.send(request.encoded() + artifact.read_bytes())
        assert protocol.receive_frame(connection)[1] == b"ready\n"
        for _ in range(200):
            other = crowd.enter_context(server.connection())
            assert protocol.receive_frame(other) == (protocol.BUSY, b"")
        assert received(connection).output == b"done\n"


def test_many_requests_leave_nothing(tmp_path: Path) -> None:
    """Of 120 requests, 10 % are hostile, one kind after another."""
    quick = tmp_path / "quick"  # faster than the fixture's kmstool
    quick.write_text(f"#!/bin/sh\necho PLAINTEXT: {base64.b64encode(DATA_KEY).decode()}\n")
    quick.chmod(0o755)
    with running(tmp_path, "--stall", "0.2", "--kmstool", str(quick)) as server:
        artifact = server.artifact({"start": SCRIPT})
        content = artifact.read_bytes()
        kinds = list(KINDS)
        memory = descriptors = served = 0
        for number in range(REQUESTS):
            if number % HOSTILE == HOSTILE - 1:
                harm(server, kinds[number // HOSTILE * 7 % len(kinds)], content)
                server.idle()
                continue
            answer = server.request(artifact, "start", str(number), results=True)
            assert (answer.status, answer.busy, answer.failure) == (0, False, "")
            served += 1
            if number == HOSTILE:
                memory, descriptors = server.memory(), server.descriptors()
        server.idle()
        assert served == REQUESTS - REQUESTS // HOSTILE
        assert server.descriptors() <= descriptors
        assert server.memory() - memory < GROWTH_MAX
