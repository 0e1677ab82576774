"""Who opens the artifact, who does not, and why: the table that `make demo` ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rehearsal import enclave

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
