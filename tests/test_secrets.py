"""A canary replaces each secret, and is searched for wherever it could leak.

Everything runs as users run it: encrypt, upload, decrypt, run, and the enclave's server with its
client. Each stops at a gate, in KMS, S3, kmstool or the script, where the whole machine is
searched: arguments and environments of all processes, and the files. Each gate lists what is
allowed there; everything else is a leak. The programs' output is searched at the end.
"""

from __future__ import annotations

import base64
import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rehearsal import cms, disk
from rehearsal.attestation import Authority
from rehearsal.nitro import kernel
from tests.decryptor.scripted_kms import Request, http, released, serving
from tests.server.harness import client_environment, running
from tests.support.kms import KEY_ARN, KmsServer
from tests.support.machine import enclave_kernel
from tests.support.paths import ARTIFACT_UPLOADER, CLIENT, ENVELOPE_DECRYPTOR, ENVELOPE_ENCRYPTOR
from tests.support.processes import PATIENCE, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CANARY = os.urandom(16).hex()
DATA_KEY = bytes(byte or 1 for byte in os.urandom(32))  # no NUL: it is tried as an argument
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": f"ASIA{CANARY[:16].upper()}",
    "AWS_SECRET_ACCESS_KEY": f"secret{CANARY}",
    "AWS_SESSION_TOKEN": f"token{CANARY}",
}
CODE = f"code{CANARY}"

SECRETS: dict[str, list[bytes]] = {
    "data key": [
        DATA_KEY,
        *(DATA_KEY[half : half + 16] for half in (0, 16)),
        base64.b64encode(DATA_KEY).rstrip(b"="),
        base64.urlsafe_b64encode(DATA_KEY).rstrip(b"="),
        DATA_KEY.hex().encode(),
        repr(DATA_KEY)[2:-1].encode(),
    ],
    "credentials": [value.encode() for value in CREDENTIALS.values()],
    "code": [CODE.encode()],
}
PROGRAMS = (
    *("envelope_encryptor.py", "artifact_uploader.py", "envelope_decryptor.py"),
    *("server.py", "client.py", "kmstool_enclave_cli", "start.py"),
)
Sighting = tuple[str, str, str]
"""A process or path, where in it, and which secret."""

TOOL = """#!/bin/sh
# Like the real one, it logs its credentials.
echo "[TRACE] $*" >&2
echo kmstool > {gate}/arrived
read -r answer < {gate}/go
echo "$answer"
"""
SCRIPT = """import sys  # {code}
with open("{gate}/arrived", "w") as arrived:
    arrived.write("script\\n")
with open("{gate}/go") as go:
    go.readline()
print("ran")
"""


class Gate:
    """Two pipes at which programs wait until they have been examined."""

    def __init__(self, folder: Path) -> None:
        """Create the pipes in *folder*, for all users, because scripts run as their own user."""
        self._ends = {}
        for name in ("arrived", "go"):
            os.mkfifo(folder / name)
            (folder / name).chmod(0o666)
            self._ends[name] = os.open(folder / name, os.O_RDWR)  # does not block

    def await_arrival(self, who: str) -> None:
        """Return once *who* waits."""
        arrived = self._ends["arrived"]
        assert select.select([arrived], [], [], PATIENCE)[0], f"{who} does not come"
        assert os.read(arrived, 100).decode() == f"{who}\n"

    def open(self, answer: str = "") -> None:
        """Let the waiting program continue, with *answer*."""
        os.write(self._ends["go"], f"{answer}\n".encode())

    def close(self) -> None:
        """Close the pipes; the folder is removed elsewhere."""
        for end in self._ends.values():
            os.close(end)


class Storage:
    """S3, as far as an upload needs it: it waits before it responds."""

    def __init__(self) -> None:
        """Bind a free port of 127.0.0.1."""
        self.arrived, self.go = threading.Event(), threading.Event()
        self.status = 200
        storage = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                storage.arrived.set()
                storage.go.wait(PATIENCE)
                self.send_response(storage.status)
                for name, value in self.headers.items():
                    if name.lower().startswith(("x-amz-server", "x-amz-checksum")):
                        self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        """Stop."""
        self.go.set()
        self._http.shutdown()
        self._http.server_close()


@dataclass
class Stage:
    """The folder in which everything runs, and the programs' output."""

    home: Path
    gate: Gate
    printed: dict[str, bytes] = field(default_factory=dict)

    @property
    def tool(self) -> Path:
        """The program that replaces kmstool."""
        return self.home / "bin/kmstool_enclave_cli"

    @property
    def artifact(self) -> Path:
        """The encrypted artifact."""
        return self.home / "application_code.zip.encrypted"

    def run(
        self, *command: str | Path, status: int = 0, **environment: str
    ) -> contextlib.AbstractContextManager[None]:
        """Start a program, and wait for its end after the block; it must end with *status*."""
        return self._run([str(word) for word in command], status, environment)

    @contextlib.contextmanager
    def _run(self, command: list[str], status: int, environment: dict[str, str]) -> Iterator[None]:
        with subprocess.Popen(
            [sys.executable, *command],
            env=client_environment(**CREDENTIALS, **environment, TMPDIR=str(self.home / "tmp")),
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                yield
                output, errors = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
        self.printed[f"{len(self.printed)}: {command[0]}"] = output + errors
        assert process.returncode == status, errors
        if status:
            assert errors.startswith(b"error: ")
            assert errors.count(b"\n") == 1

    def leftovers(self, *folders: Path) -> set[Sighting]:
        """Return the secrets left once the programs, and their guards, have ended."""
        wait_for(lambda: not any(who in PROGRAMS for who, *_ in self.sightings()))
        return self.sightings(*folders)

    def sightings(self, *folders: Path) -> set[Sighting]:
        """Return where secrets are now: in processes, in files below *folders* and home."""
        found = set()
        for who, what, content in (*_processes(), *_files(self.home, *folders)):
            found |= {(who, what, secret) for secret in _secrets_in(content)}
        return found


def _secrets_in(content: bytes) -> list[str]:
    return [name for name, forms in SECRETS.items() if any(form in content for form in forms)]


def _processes() -> Iterator[tuple[str, str, bytes]]:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone, or another user's
            command = (process / "cmdline").read_bytes()
            words = [Path(os.fsdecode(word)).name for word in command.split(b"\0")]
            name = next((word for word in words if word in PROGRAMS), process.name)
            yield name, "arguments", command
            yield name, "environment", (process / "environ").read_bytes()


def _files(*folders: Path) -> Iterator[tuple[str, str, bytes]]:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and path.parent.name not in ("application", "fails"):
                inside = "tree" in path.parts
                yield "the tree" if inside else str(path), "file", path.read_bytes()


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Set up an application with a canary in it; the scripts' user must reach the gate."""
    home = Path(tempfile.mkdtemp(prefix="secrets-"))
    home.chmod(0o711)
    for name in ("application", "fails", "bin", "tmp"):
        (home / name).mkdir()
    gate = Gate(home)
    made = Stage(home, gate)
    (home / "application/start.py").write_text(SCRIPT.format(code=CODE, gate=home))
    (home / "fails/weights").write_text(f"version https://git-lfs.github.com/spec/v1\n{CODE}")
    made.tool.write_text(TOOL.format(gate=home))
    made.tool.chmod(0o755)
    yield made
    gate.close()
    shutil.rmtree(home)


PIN = ("--key-id", KEY_ARN)
ANSWER = f"PLAINTEXT: {base64.b64encode(DATA_KEY).decode()}"
# Programs that read AWS's variables are started with them in their environment; kmstool takes
# credentials only as arguments.
GIVEN = "environment", "credentials"
TAKEN = ("kmstool_enclave_cli", "arguments", "credentials")


def encrypts(stage: Stage) -> None:
    with KmsServer() as kms:
        kms.answer = {"Plaintext": base64.b64encode(DATA_KEY).decode()}
        where = {"AWS_ENDPOINT_URL": kms.url, "AWS_DEFAULT_REGION": "eu-central-1"}
        for directory, status in (("application", 0), ("fails", 1)):
            kms.speaking.clear()
            kms.asked.clear()
            output = stage.artifact if status == 0 else "none"
            command = (
                ENVELOPE_ENCRYPTOR,
                "encrypt",
                "-v",
                "-d",
                directory,
                "-k",
                KEY_ARN,
                "-o",
                output,
            )
            with stage.run(*command, status=status, **where):
                assert kms.asked.wait(PATIENCE)
                assert stage.sightings() == {("envelope_encryptor.py", *GIVEN)}
                kms.speaking.set()


def uploads(stage: Stage) -> None:
    storage = Storage()
    settings = {
        "EXTERNAL_BUCKET_NAME": "bucket",
        "EXTERNAL_BUCKET_PATH": "encrypted",
        "EXTERNAL_BUCKET_KEY_ARN": KEY_ARN,
        "EXTERNAL_BUCKET_ACCOUNT": "111122223333",
        "ENCRYPTION_KEY_ARN": KEY_ARN,
        "AWS_ENDPOINT_URL": storage.url,
        "AWS_MAX_ATTEMPTS": "1",
    }
    for status, code in ((0, 200), (1, 403)):
        storage.status = code
        storage.arrived.clear()
        storage.go.clear()
        with stage.run(ARTIFACT_UPLOADER, stage.artifact, status=status, **settings):
            assert storage.arrived.wait(PATIENCE)
            assert stage.sightings() == {("artifact_uploader.py", *GIVEN)}
            storage.go.set()
    storage.close()


def decrypts(stage: Stage) -> None:
    tree, altered = stage.home / "tree", stage.home / "altered"
    content = stage.artifact.read_bytes()
    altered.write_bytes(content[:-100] + content[-101:-100] + content[-99:])
    common = (*PIN, "--kmstool", stage.tool)
    mine = ("envelope_decryptor.py", *GIVEN)
    for artifact, answer, status in (
        (stage.artifact, ANSWER, 0),
        (stage.artifact, f"{ANSWER} and more", 1),  # none of which may be printed
        (altered, ANSWER, 1),
    ):
        with stage.run(
            ENVELOPE_DECRYPTOR, "decrypt", "-f", artifact, *common, "-d", tree, status=status
        ):
            stage.gate.await_arrival("kmstool")
            assert stage.sightings() == {mine, TAKEN, ("kmstool_enclave_cli", *GIVEN)}
            stage.gate.open(answer)
        if status == 0:
            assert stage.leftovers() == {("the tree", "file", "code")}
            shutil.rmtree(tree)
        assert stage.leftovers() == set()
    with stage.run(ENVELOPE_DECRYPTOR, "run", "-f", stage.artifact, *common, "--", "start.py"):
        stage.gate.await_arrival("kmstool")
        stage.gate.open(ANSWER)
        stage.gate.await_arrival("script")
        assert stage.sightings() == {mine, ("the tree", "file", "code")}
        stage.gate.open()


def serves(stage: Stage) -> None:
    home = stage.home / "server"
    home.mkdir()
    with running(home, "--kmstool", str(stage.tool), "--stall", "60") as server:
        place = ("--address", str(server.address), "-f", stage.artifact)
        client = ("client.py", *GIVEN)
        for answer, status in ((ANSWER, 0), (f"{ANSWER} and more", 1)):
            with stage.run(CLIENT, "run", *place, "--", "start.py", status=status):
                stage.gate.await_arrival("kmstool")
                assert stage.sightings(server.runs) == {client, TAKEN}
                stage.gate.open(answer)
                if status == 0:
                    stage.gate.await_arrival("script")
                    assert stage.sightings(server.runs) == {client, ("the tree", "file", "code")}
                    stage.gate.open()
            server.idle()
            assert stage.leftovers(server.runs) == set()
    stage.printed["the server"] = (home / "server.log").read_bytes()


def test_no_secret_leaks_while_every_program_runs(stage: Stage) -> None:
    steps: list[Callable[[Stage], Any]] = [encrypts, uploads, decrypts, serves]
    secrets = SECRETS["data key"] + SECRETS["credentials"]
    with disk.watched(secrets, stage.home) as findings:
        for step in steps:
            step(stage)
            assert stage.leftovers() == set(), step.__name__
    assert findings.leaks == []
    leaks = {who: names for who, text in stage.printed.items() if (names := _secrets_in(text))}
    assert leaks == {}
    assert len(stage.printed) == 2 + 2 + 4 + 3


def test_without_kmstool_no_argument_contains_a_secret(stage: Stage, tmp_path: Path) -> None:
    enclave_kernel()
    arrived, go = threading.Event(), threading.Event()
    refusal = {"__type": "InvalidSignatureException", "message": " ".join(CREDENTIALS.values())}

    def answer(request: Request) -> bytes:
        arrived.set()
        go.wait(PATIENCE)
        wrapped = base64.b64encode(cms.wrap(DATA_KEY, request.key)).decode()
        return http(200, released(request, KeyId=KEY_ARN, CiphertextForRecipient=wrapped))

    encrypts(stage)
    module = Authority(datetime.now(UTC)).module({0: b"\1" * 48}, datetime.now(UTC))
    mine = ("envelope_decryptor.py", *GIVEN)
    with (
        kernel(lambda key: module.attest(datetime.now(UTC), key)) as enclave,
        serving(tmp_path) as kms,
    ):
        environment: dict[str, Any] = enclave.environment | {"SSL_CERT_FILE": str(kms.trust)}
        asked = ("--attest", "nsm", "--proxy-port", str(kms.port), *PIN, "-f", stage.artifact)
        command = (ENVELOPE_DECRYPTOR, "run", *asked, "--", "start.py")
        kms.reply = answer
        with stage.run(*command, **environment):
            assert arrived.wait(PATIENCE)
            assert stage.sightings() == {mine}
            go.set()
            stage.gate.await_arrival("script")
            assert stage.sightings() == {mine, ("the tree", "file", "code")}
            stage.gate.open()
        kms.reply = lambda _: http(400, refusal)
        with stage.run(*command, status=1, **environment):
            pass
    assert stage.leftovers() == set()
    assert [_secrets_in(text) for text in stage.printed.values()] == [[]] * 4


@pytest.mark.parametrize(
    ("secret", "form"),
    [
        pytest.param(secret, form, id=f"{secret}-{number}")
        for secret, forms in SECRETS.items()
        for number, form in enumerate(forms)
    ],
)
def test_exposed_secret_is_detected(secret: str, form: bytes, stage: Stage) -> None:
    """Tests the search itself: an argument, a variable, a file."""
    left = stage.home / "tmp/left"
    left.write_bytes(b"x" + form)
    waiting = [sys.executable, "-c", "import signal; signal.pause()", os.fsdecode(form)]
    with subprocess.Popen(waiting, env={"X": os.fsdecode(form)}) as process:
        try:
            found = stage.sightings()
        finally:
            process.kill()
    shown = {(str(process.pid), what, secret) for what in ("arguments", "environment")}
    assert found == {*shown, (str(left), "file", secret)}
