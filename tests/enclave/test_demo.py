"""The demo's options and output; its last step is tested by the table's tests, in both modes."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from rehearsal import demo
from tests.support.paths import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

KEY = "arn:aws:kms:eu-central-1:111111111111:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.mark.parametrize(
    ("way", "status", "message"),
    [
        pytest.param("nsm", 1, "error: demo: no C compiler here: install Debian's ", id="nsm"),
        pytest.param("other", 2, "argument --attest: invalid choice: 'other'", id="neither"),
    ],
)
def test_missing_compiler_or_wrong_option_is_reported_at_the_start(
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


@pytest.mark.parametrize(
    ("terminal", "expected"),
    [
        pytest.param(True, f"   → the key is\n     {KEY}\n     and nobody's", id="terminal"),
        pytest.param(False, f"   → the key is {KEY} and nobody's", id="pipe"),
    ],
)
def test_results_are_wrapped_and_not_truncated(
    terminal: bool,  # noqa: FBT001
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def step(_: demo.Stage) -> str:
        """A key is made."""
        return f"the key is {KEY} and nobody's"

    monkeypatch.setattr(demo, "STEPS", [step])
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=80, color_system=None)
    unused: Any = None
    demo.run(demo.Stage(unused, tmp_path, console))
    assert expected in shown.getvalue()
