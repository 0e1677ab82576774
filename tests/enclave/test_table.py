"""Who decrypts the artifact, who does not, and why: the table that `make demo` ends with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from enclave import protocol
from enclave.protocol import Request
from rehearsal.attempts import rows, try_row
from rehearsal.aws import account_root
from rehearsal.enclave import run_in_enclave, security_module, served
from rehearsal.scenario import FIRST, SCRIPT, Scenario
from tests.server.harness import received
from tests.support import stacks
from tests.support.machine import enclave_kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def first_image_bound(scenario: Scenario) -> Iterator[Scenario]:
    """Return the scenario to a test that binds images, and restore it afterwards."""
    yield scenario
    stacks.update(
        *(scenario.service.kms.emulator, account_root(scenario.owner), scenario.stack),
        EnclaveImageSha384=FIRST,
    )


SAME_IN_BOTH_MODES = {
    *("asks without attestation", "asks", "overhears another's answer"),  # without an enclave
    *("attests with its own root", "signs with an expired certificate", "replays an old document"),
    *("replaces the key in a document", "runs the bound image in debug mode"),
}
"""What KMS refuses whoever asks; the enclave gets the same answer as for a bad signature."""


@pytest.mark.parametrize("attest", ["kmstool", "nsm"])
def test_every_row_of_the_table_has_its_expected_outcome(
    attest: str, first_image_bound: Scenario, subtests: pytest.Subtests
) -> None:
    if attest == "nsm":
        enclave_kernel()
    scenario = replace(first_image_bound, attest=attest)
    table = [*rows("hello from the enclave")]
    assert {row.what for row in table} > SAME_IN_BOTH_MODES
    for row in table:
        if attest == "nsm" and row.what in SAME_IN_BOTH_MODES:
            continue
        with subtests.test(f"{row.who} {row.what}"):
            outcome = try_row(row, scenario)
            assert outcome.decrypted is row.decrypts, outcome.reason
            assert row.reason in outcome.reason
            assert outcome.as_expected


@pytest.mark.parametrize("contract", ["0.3.0", "0.3.2", "0.4.4"])
def test_image_decrypts_the_artifact_with_each_version_of_kmstool(
    contract: str, scenario: Scenario
) -> None:
    result = run_in_enclave(scenario, security_module(scenario), contract=contract)
    assert (result.stdout, result.stderr) == ("hello from the enclave\n", "")


def test_kmstool_that_crashes_still_decrypts_every_time(scenario: Scenario, tmp_path: Path) -> None:
    """On one CPU it crashes 99 of 100 times, unless it is a batch process; faults come on top."""
    parent = scenario.parent
    header = Request(
        script=SCRIPT,
        arguments=(),
        credentials={
            "AWS_ACCESS_KEY_ID": parent.access_key_id,
            "AWS_SECRET_ACCESS_KEY": parent.secret_access_key,
            "AWS_SESSION_TOKEN": parent.session_token,
        },
        artifact=scenario.artifact.stat().st_size,
    )
    attest = security_module(scenario)
    faults = tmp_path / "faults"
    faults.write_text("none\ncrash\nnone\ncrash\ncrash\nnone\n")
    settings = {"KMSTOOL_MACHINE": "one-cpu", "KMSTOOL_FAULTS": str(faults)}
    with served(scenario, attest, **settings) as address:
        for _ in range(3):
            with protocol.connect(protocol.Address.parse(address), 60) as peer:
                connection = protocol.Connection(peer, 60)
                assert protocol.receive_frame(connection) == (protocol.ACCEPTED, b"")
                connection.send(header.encoded() + scenario.artifact.read_bytes())
                answer = received(connection)
            assert (answer.status, answer.output) == (0, b"hello from the enclave\n"), answer
    assert faults.read_text() == ""
