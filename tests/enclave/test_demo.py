"""The demo's options; what its last step plays is played by the table's tests, either way."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import PROJECT


@pytest.mark.parametrize(
    ("way", "status", "message"),
    [
        pytest.param("nsm", 1, "error: demo: no C compiler here: install Debian's ", id="nsm"),
        pytest.param("other", 2, "argument --attest: invalid choice: 'other'", id="neither"),
    ],
)
def test_what_is_missing_is_said_before_anything_starts(
    way: str, status: int, message: str
) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "rehearsal.demo", "--attest", way],
        cwd=PROJECT,
        env={"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (status, "")
    assert message in found.stderr
