"""Who opens the artifact, who does not, and why: the table that `make demo` ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from enclave import protocol
from enclave.protocol import Request
from rehearsal import enclave
from tests.server.harness import received

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def first_image_bound(stage: enclave.Stage) -> Iterator[enclave.Stage]:
    """Lend the stage to a test that binds images, and leave it as it was."""
    yield stage
    stage.bind("add", enclave.FIRST)
    stage.bind("promote", enclave.FIRST)


def test_every_row_ends_as_the_table_says(
    first_image_bound: enclave.Stage, subtests: pytest.Subtests
) -> None:
    for row in enclave.rows("hello from the enclave"):
        with subtests.test(f"{row.who} {row.what}"):
            outcome = enclave.play(row, first_image_bound)
            assert outcome.opened is row.opens, outcome.reason
            assert row.reason in outcome.reason
            assert outcome.as_expected


def test_the_code_never_lies_in_the_clear_on_the_hosts_disk(stage: enclave.Stage) -> None:
    marker = b"hello from the enclave"
    assert enclave.run_in_enclave(stage, enclave.enclave(stage)).returncode == 0
    assert enclave.in_the_clear(stage.folder, marker) == []
    planted = stage.folder / "planted"
    planted.write_bytes(b"x" + marker)
    assert enclave.in_the_clear(stage.folder, marker) == [planted]
    planted.unlink()


@pytest.mark.parametrize("contract", ["0.3.0", "0.3.2", "0.4.4"])
def test_the_image_opens_the_artifact_by_either_contract(
    contract: str, stage: enclave.Stage
) -> None:
    result = enclave.run_in_enclave(stage, enclave.enclave(stage), contract=contract)
    assert (result.stdout, result.stderr) == ("hello from the enclave\n", "")


def test_a_kmstool_that_crashes_as_under_load_opens_every_time(stage: enclave.Stage) -> None:
    parent = stage.parent
    header = Request(
        script=enclave.SCRIPT,
        arguments=(),
        credentials={
            "AWS_ACCESS_KEY_ID": parent.access_key_id,
            "AWS_SECRET_ACCESS_KEY": parent.secret_access_key,
            "AWS_SESSION_TOKEN": parent.session_token,
        },
        artifact=stage.artifact.stat().st_size,
    )
    attest = enclave.enclave(stage)
    with enclave.served(stage, attest, KMSTOOL_MACHINE="loaded") as address:
        for _ in range(50):
            with protocol.connect(protocol.Address.parse(address), 60) as peer:
                connection = protocol.Connection(peer, 60)
                assert protocol.receive_frame(connection) == (protocol.ACCEPTED, b"")
                connection.send(header.encoded() + stage.artifact.read_bytes())
                answer = received(connection)
            assert (answer.status, answer.output) == (0, b"hello from the enclave\n"), answer
