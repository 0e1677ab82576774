"""Any arguments, any environment, Ctrl-C at any moment: one line of error, no traceback."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import forked
from tests.support.enclave import PIN, Enclave, install, zipped
from tests.support.paths import ENVELOPE_DECRYPTOR
from tests.support.processes import PATIENCE, wait_for

HELLO = zipped({"start.py": "print('hello')"})
# Only what an argument list can contain: no NUL, and no lone surrogate.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
WORDS = (
    "-f -d --key-id --any-key --kmstool --region --proxy-port --timeout --max-bytes --max-members "
    "--not-before --help --version -- run decrypt nan inf 1e10 -1 0 \x1b[31m"
)
OPTIONS = st.sampled_from([*WORDS.split(" "), "a\nerror: b", *PIN])
VARIABLES = (
    "AWS_REGION AWS_DEFAULT_REGION AWS_SESSION_TOKEN AWS_MAX_ATTEMPTS AWS_ENDPOINT_URL TMPDIR PATH "
    "LANG COLUMNS"
)
NAMES = st.sampled_from(VARIABLES.split(" "))
REPEATED = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def shared() -> Enclave:
    return install(Path(tempfile.mkdtemp(prefix="decryptor-test-")))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    words=st.lists(OPTIONS | TEXT, max_size=8), variables=st.dictionaries(NAMES, TEXT, max_size=3)
)
def test_no_arguments_or_environment_cause_a_traceback(
    words: list[str], variables: dict[str, str], shared: Enclave
) -> None:
    result = forked.run(
        [sys.executable, ENVELOPE_DECRYPTOR, *words],
        env={**shared.environment(), **variables},
        cwd=shared.home,
    )
    text = result.stderr
    if result.returncode == 0:
        assert text == ""
    else:
        assert result.returncode in (1, 2)
        assert text.startswith("error: ")
        assert text.endswith("\n")
        assert text[:-1].isprintable()


AT_A_CALL = """
import os, runpy, signal, sys
_, *sys.argv, limit = sys.argv
left, main = int(limit), os.getpid()
def count(frame, event, argument):
    global left
    if os.getpid() == main and event == "call":
        left -= 1
        if left == 0:
            sys.setprofile(None)
            os.kill(main, signal.SIGINT)
            signal.sigtimedwait([], 0)
def start(frame, event, argument):
    if frame.f_code.co_name == "main" and frame.f_code.co_filename == sys.argv[0]:
        sys.setprofile(count)
        count(frame, event, argument)
sys.setprofile(start)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
CALLS = 30000  # more than either verb makes


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(call=st.integers(1, CALLS), verb=st.sampled_from(["decrypt", "run"]))
def test_interrupt_at_any_call_is_one_line_error_or_too_late(
    call: int, verb: str, shared: Enclave
) -> None:
    artifact = shared.artifact(HELLO)
    tail = ["-d", str(shared.home / "tree")] if verb == "decrypt" else ["--", "start.py"]
    _, *command = shared.command(verb, artifact, *PIN, *tail)
    result = subprocess.run(
        [sys.executable, "-c", AT_A_CALL, *command, str(call)],
        env=shared.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    left = shared.left_behind()
    subprocess.run(["rm", "-rf", shared.home / "tree"], check=True)
    if result.returncode == 130 and result.stderr:
        assert result.stderr == b"error: terminated by SIGINT, nothing is left behind\n"
        assert left == set()
    elif result.returncode == 130:
        assert verb == "run"
        assert left == set()
    else:
        assert (result.returncode, result.stderr) == (0, b"")
        assert left == ({"tree"} if verb == "decrypt" else set())


WHILE_HELD = """
import os, runpy, signal, sys
_, *sys.argv, name = sys.argv
main = os.getpid()
def watch(frame, event, argument):
    code = argument if event == "c_return" else frame.f_code
    function = getattr(code, "__name__", "") or getattr(code, "co_name", "")
    held = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    if event in ("return", "c_return") and function == name and held and os.getpid() == main:
        sys.setprofile(None)
        os.kill(main, signal.SIGINT)
sys.setprofile(watch)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    "function",
    [
        pytest.param("_created", id="the-private-directory"),
        pytest.param("_guard", id="its-guard"),
        pytest.param("_execute_child", id="kmstool"),
        pytest.param("fork", id="the-first-process"),
    ],
)
def test_interrupt_deferred_during_creation_still_cleans_up(
    function: str, enclave: Enclave
) -> None:
    """Once unblocked, the signal ends the program, which must know by then what to remove."""
    artifact = enclave.artifact(HELLO)
    _, *command = enclave.command("decrypt", artifact, *PIN, "-d", str(enclave.home / "tree"))
    errors = enclave.home / "bin/errors"
    with errors.open("w") as file:  # not a pipe, whose end would wait for the guard's end
        result = subprocess.run(
            [sys.executable, "-c", WHILE_HELD, *command, function],
            env=enclave.environment(KMSTOOL_BEHAVIOUR="hang"),
            stdin=subprocess.DEVNULL,
            stderr=file,
            timeout=PATIENCE,
            check=False,
        )
    assert enclave.left_behind() == set()
    assert (result.returncode, errors.read_text()) == (
        130,
        "error: terminated by SIGINT, nothing is left behind\n",
    )


@pytest.mark.parametrize("written", [None, b"\0\0\0\x04keys"])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGQUIT, 131)]
)
def test_signal_while_waiting_for_a_pipe_ends_the_decryptor(
    number: signal.Signals, status: int, written: bytes | None, enclave: Enclave
) -> None:
    pipe = enclave.home / "application_code.zip.encrypted"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR) if written else -1
    process = enclave.start(pipe)

    def has_opened_it() -> bool:
        with contextlib.suppress(FileNotFoundError):
            links = Path(f"/proc/{process.pid}/fd").iterdir()
            return any(link.readlink() == pipe for link in links)
        return False

    wait_for(has_opened_it)
    if writer >= 0:
        os.write(writer, written or b"")
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    if writer >= 0:
        os.close(writer)
    assert (process.returncode, errors) == (
        status,
        f"error: terminated by {number.name}, nothing is left behind\n",
    )
    assert enclave.left_behind() == set()
