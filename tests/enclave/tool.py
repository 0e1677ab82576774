"""The rehearsal's kmstool_enclave_cli, without a server that calls it: shared by its tests.

Its libraries take longer to load than it takes to run, so most calls are forks of a process that
has them; `Tool.start` starts it as a server does.
"""

from __future__ import annotations

import base64
import contextlib
import socketserver
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from rehearsal.enclave import KMSTOOL
from tests.support import artifacts, preloaded
from tests.support.paths import PROJECT

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from rehearsal.scenario import Scenario

ENDS = "Could not decrypt ciphertext\nCould not decrypt\n\n"


class Tool:
    """The tool in an enclave on *scenario*, whose *environment* a test may change."""

    def __init__(self, scenario: Scenario, module: Path) -> None:
        """Give it the parent's credentials, the artifact's data key and *module*."""
        encrypted_key, _ = artifacts.parts(scenario.artifact.read_bytes())
        self.ciphertext = base64.b64encode(encrypted_key)
        self.environment = {
            "KMSTOOL_MODULE": str(module),
            "KMSTOOL_PACE": "0.01",
            "KMSTOOL_PYTHON": sys.executable,
            "SSL_CERT_FILE": str(scenario.service.trust),
        }
        parent = scenario.parent
        self.credentials = {
            "--aws-access-key-id": parent.access_key_id,
            "--aws-secret-access-key": parent.secret_access_key,
            "--aws-session-token": parent.session_token,
        }
        self.options = self.credentials | {
            "--region": "eu-central-1",
            "--proxy-port": str(scenario.service.port),
            "--ciphertext": self.ciphertext.decode(),
        }

    def __call__(
        self, *words: str, contract: str = "0.4.4", **changes: str | None
    ) -> subprocess.CompletedProcess[str]:
        """Run it; *changes* to the options are spelt like ``proxy_port``, None omits one."""
        options: Mapping[str, str | None] = self.options | {
            f"--{name.replace('_', '-')}": value for name, value in changes.items()
        }
        given = [word for pair in options.items() if pair[1] is not None for word in pair]
        return preloaded.run(
            *("-m", "rehearsal.kmstool", *words, *map(str, given)),
            environment=self._environment(contract),
            directory=PROJECT,
        )

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """Start its program with valid options, in the background."""
        return subprocess.Popen(
            [KMSTOOL, "decrypt", *(word for pair in self.options.items() for word in pair)],
            env=self._environment() | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def _environment(self, contract: str = "0.4.4") -> dict[str, str]:
        return self.environment | {"KMSTOOL_CONTRACT": contract, "PATH": "/usr/bin:/bin"}


@contextlib.contextmanager
def peer(behave: Callable[[socket.socket], object]) -> Iterator[str]:
    """Have *behave* handle every connection to a port; yield the port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                behave(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield str(server.server_address[1])
        finally:
            server.shutdown()
