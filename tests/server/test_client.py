"""The client on the parent instance: credentials, the enclave's address, and failures."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socketserver
import subprocess
import sys
import tarfile
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from enclave.protocol import FRAME_MAX
from tests.server.harness import client_environment
from tests.support import forked
from tests.support.enclave import CREDENTIALS
from tests.support.paths import CLIENT, PROJECT
from tests.support.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.server.harness import Server

HELLO: dict[str, bytes | str] = {"print-hello.py": "print('hello')\n"}
TOKEN = "token-of-imds"  # noqa: S105 - it is not one
ROLE = {
    "Code": "Success",
    "AccessKeyId": "ASIAINSTANCE",
    "SecretAccessKey": "secret-of-the-instance",
    "Token": "session-of-the-instance",
    "Expiration": "2099-01-01T00:00:00Z",
}


class _Imds(BaseHTTPRequestHandler):
    """Instance metadata that requires a token, as with IMDSv2 only."""

    def do_PUT(self) -> None:
        self._answer(TOKEN if self.path == "/latest/api/token" else None)

    def do_GET(self) -> None:
        role = "/latest/meta-data/iam/security-credentials/"
        pages = {role: "EnclaveParent", f"{role}EnclaveParent": json.dumps(ROLE)}
        known = self.headers.get("x-aws-ec2-metadata-token") == TOKEN
        self._answer(pages.get(self.path) if known else None)

    def _answer(self, page: str | None) -> None:
        body = (page or "").encode()
        self.send_response(200 if page else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def imds() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Imds) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_credentials_of_the_instance_role_are_fetched_by_imdsv2(server: Server, imds: str) -> None:
    result = server.client(
        server.artifact(HELLO),
        "print-hello.py",
        options=(),
        AWS_EC2_METADATA_DISABLED="false",
        AWS_EC2_METADATA_SERVICE_ENDPOINT=imds,
        **dict.fromkeys(CREDENTIALS, ""),
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "hello\n", "")
    call = server.enclave.calls()[-1]
    handed = dict(zip(call[1::2], call[2::2], strict=True))
    assert handed["--aws-access-key-id"] == ROLE["AccessKeyId"]
    assert handed["--aws-secret-access-key"] == ROLE["SecretAccessKey"]
    assert handed["--aws-session-token"] == ROLE["Token"]


def test_profile_is_used_for_credentials(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(
        "[mine]\naws_access_key_id = ASIAPROFILE\naws_secret_access_key = s\n"
        "aws_session_token = t\n"
    )
    options = ("--profile", "mine")
    result = server.client(
        server.artifact(HELLO),
        "print-hello.py",
        options=options,
        AWS_SHARED_CREDENTIALS_FILE=str(file),
    )
    assert result.returncode == 0, result.stderr
    assert "ASIAPROFILE" in server.enclave.calls()[-1]


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        pytest.param(
            dict.fromkeys(CREDENTIALS, ""), (), "error: no credentials: attach", id="none"
        ),
        pytest.param(
            {"AWS_SESSION_TOKEN": ""},
            (),
            "error: these credentials have no session token",
            id="user",
        ),
        pytest.param({}, ("--profile", "gone"), "error: no credentials: The config", id="profile"),
        pytest.param(
            {},
            ("--address", "unix:/nowhere"),
            "error: no server answers at unix:/nowhere",
            id="nobody",
        ),
        pytest.param({}, ("-f", "/nowhere"), "error: /nowhere: No such file", id="no-artifact"),
        pytest.param({}, ("--input", "/nowhere"), "error: /nowhere: No such file", id="no-input"),
        pytest.param({}, ("--input", "/dev"), "is neither a regular file nor", id="devices"),
        pytest.param(
            {}, ("--output", "/dev"), "error: /dev exists and is not an empty", id="output-exists"
        ),
        pytest.param(
            {}, ("--output", "/nowhere/x"), "error: /nowhere is not a directory", id="no-parent"
        ),
    ],
)
def test_local_problem_is_one_line_error_and_nothing_runs(
    settings: dict[str, str], options: tuple[str, ...], message: str, server: Server
) -> None:
    asked = len(server.enclave.calls()) if server.enclave.tool.with_name("calls").exists() else 0
    result = server.client(server.artifact(HELLO), "print-hello.py", options=options, **settings)
    assert (result.returncode, result.stdout) == (1, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    server.idle()
    calls = server.enclave.tool.with_name("calls")
    assert (len(server.enclave.calls()) if calls.exists() else 0) == asked


def test_missing_botocore_error_says_how_to_install_it(tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    artifact.touch()
    result = subprocess.run(
        [sys.executable, "-S", CLIENT, "run", "-f", artifact, "--", "x"],  # without site-packages
        env=client_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == (
        "error: botocore is not installed: python3 -m pip install --user botocore, then try again\n"
    )


def nitro_cli(folder: Path, answer: str) -> dict[str, str]:
    """Install a nitro-cli into *folder*, and return an environment with it on PATH."""
    program = folder / "nitro-cli"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = describe-enclaves ] && cat <<'END'\n{answer}\nEND\n")
    program.chmod(0o755)
    return client_environment(PATH=f"{folder}:{os.environ['PATH']}")


ENCLAVE = {"EnclaveName": "app", "EnclaveCID": 4_000_000_000, "State": "RUNNING"}


@pytest.mark.parametrize(
    ("described", "message"),
    [
        pytest.param(
            "[]", "no enclave is running here: start it with nitro-cli run-enclave", id="none"
        ),
        pytest.param(
            json.dumps([ENCLAVE | {"State": "TERMINATING"}]),
            "no enclave is running here",
            id="ending",
        ),
        pytest.param(
            json.dumps([ENCLAVE, ENCLAVE]),
            "2 enclaves are running here: choose one with --address vsock:CID:PORT",
            id="two",
        ),
        pytest.param("oops", "did not list a running enclave", id="no-JSON"),
        pytest.param('["x"]', "did not list a running enclave", id="other-JSON"),
        # There is no such enclave here: only the attempt to connect can be observed.
        pytest.param(
            json.dumps([ENCLAVE]), "no server answers at vsock:4000000000:6000", id="the-only-one"
        ),
    ],
)
def test_running_enclave_is_found_by_nitro_cli(
    described: str, message: str, server: Server, tmp_path: Path
) -> None:
    artifact = server.artifact(HELLO)
    result = forked.run(
        [sys.executable, CLIENT, "run", "-f", artifact, "--", "print-hello.py"],
        env=nitro_cli(tmp_path, described),
    )
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(("run", "-f", "x"), "run needs -- SCRIPT", id="no-script"),
        pytest.param(("run", "-f", "x", "--"), "run needs -- SCRIPT", id="empty"),
        pytest.param(("run", "--", "x"), "arguments are required: -f", id="no-file"),
        pytest.param(("run", "-f", "x", "--address", "tcp:1", "--", "x"), "is not unix:", id="tcp"),
        pytest.param(("run", "-f", "x", "--address", "vsock:9", "--", "x"), "has no CID", id="cid"),
        pytest.param(("go",), "invalid choice", id="another-verb"),
    ],
)
def test_usage_error_is_status_2(words: tuple[str, ...], message: str) -> None:
    result = forked.run([sys.executable, CLIENT, *words], env=client_environment())
    assert result.returncode == 2
    assert message in result.stderr


@pytest.mark.parametrize("program", ["client.py", "server.py"])
def test_help_shows_an_example_and_version_is_that_of_the_project(program: str) -> None:
    words = ("run", "--help") if program == "client.py" else ("--help",)
    path = str(CLIENT.with_name(program))
    shown, version = (
        subprocess.run([sys.executable, path, *w], capture_output=True, text=True, check=True)
        for w in (words, ("--version",))
    )
    assert f"example:\n  {program} " in shown.stdout
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert version.stdout == f"{program} {project['version']}\n"


def lying_server(folder: Path, answer: bytes) -> contextlib.AbstractContextManager[str]:
    """Listen in *folder*, and answer every request with *answer*; return the address."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(answer)
            while self.request.recv(1 << 16):
                pass

    @contextlib.contextmanager
    def listening() -> Iterator[str]:
        path = folder / "s"
        with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"unix:{path}"
            server.shutdown()

    return listening()


ACCEPTED = b"a\0\0\0\0"


def test_interrupt_while_sending_ends_the_client(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, sending = tmp_path_factory.mktemp("s"), threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(ACCEPTED)
            self.request.recv(1)
            sending.set()  # and read no more, so that the socket fills up
            gone.wait(PATIENCE)

    gone = threading.Event()
    artifact = server.artifact({"large": os.urandom(8 << 20)})
    with socketserver.ThreadingUnixStreamServer(str(folder / "s"), Handler) as deaf:
        threading.Thread(target=deaf.serve_forever, daemon=True).start()
        options = ("--address", f"unix:{folder / 's'}")
        with subprocess.Popen(
            server.client_command(artifact, "x", options=options),
            env=client_environment(),
            stderr=subprocess.PIPE,
            text=True,
        ) as client:
            assert sending.wait(PATIENCE)
            client.send_signal(signal.SIGINT)
            _, errors = client.communicate(timeout=PATIENCE)
        gone.set()
        deaf.shutdown()
    assert (client.returncode, errors) == (
        130,
        "error: terminated by SIGINT, and the run with it\n",
    )


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", "not from an enclave server", id="another"),
        pytest.param(ACCEPTED + b"o\xff\xff\xff\xff", "not from an enclave", id="too-long"),
        pytest.param(ACCEPTED + b"x\0\0\0\2ab", "not from an enclave server", id="two-ends"),
        pytest.param(ACCEPTED + b"f\0\0\0\5a\x1b[2Jb"[:10], "\\x1b", id="control-characters"),
    ],
)
def test_invalid_response_of_an_enclave_is_refused(
    answer: bytes, message: str, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    artifact = server.artifact(HELLO)
    with lying_server(tmp_path_factory.mktemp("s"), answer) as address:
        result = server.client(artifact, "x", options=("--address", address))
    assert (result.returncode, result.stdout) == (1, "")
    assert message in result.stderr
    assert "\x1b" not in result.stderr


def test_hostile_results_stay_in_their_directory(
    server: Server, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tests.server.hostile import tar

    content = tar("../escaped", size=1, content=b"x")
    answer = ACCEPTED + b"r" + len(content).to_bytes(4, "big") + content + b"x\0\0\0\1\0"
    options = ("--output", str(tmp_path / "results"))
    with lying_server(tmp_path_factory.mktemp("s"), answer) as address:
        result = server.client(
            server.artifact(HELLO), "x", options=(*options, "--address", address)
        )
    assert result.returncode == 1
    assert "leaves its directory" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_deep_results_that_fail_leave_nothing(
    server: Server, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for depth in range(1, 1200):
            info = tarfile.TarInfo("d/" * depth)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
    content = stream.getvalue()
    frames = [content[start : start + FRAME_MAX] for start in range(0, len(content), FRAME_MAX)]
    results = b"".join(b"r" + len(frame).to_bytes(4, "big") + frame for frame in frames)
    options = ("--output", str(tmp_path / "results"))
    with lying_server(tmp_path_factory.mktemp("s"), ACCEPTED + results + b"f\0\0\0\1x") as address:
        result = server.client(
            server.artifact(HELLO), "x", options=(*options, "--address", address)
        )
    assert (result.returncode, result.stderr) == (1, "error: x\n")
    assert list(tmp_path.iterdir()) == []


def test_results_directory_may_have_the_longest_name(server: Server, tmp_path: Path) -> None:
    output = tmp_path / ("n" * 255)
    result = server.client(
        server.artifact(HELLO), "print-hello.py", options=("--output", str(output))
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_results_do_not_replace_a_link(server: Server, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    output = tmp_path / "link"
    output.symlink_to("empty")
    result = server.client(
        server.artifact(HELLO), "print-hello.py", options=("--output", str(output))
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert f"{output} exists and is not an empty directory" in result.stderr
