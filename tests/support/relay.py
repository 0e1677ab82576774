"""Gives a shell the commands that `preloaded` runs: a program that has them run by the tests."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import socketserver
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """Run commands until the end of the block; yield the shell's words that run the next ones."""
    from tests.support import preloaded

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            words, environment, directory, given = json.loads(self.rfile.read())
            ended = preloaded.run(
                *words, environment=environment, answer=given.encode(), directory=Path(directory)
            )
            answer = json.dumps([ended.returncode, ended.stdout, ended.stderr])
            self.wfile.write(answer.encode())

    # The path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="relay-") as folder:
        address = f"{folder}/socket"
        with socketserver.ThreadingUnixStreamServer(address, Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield shlex.join([sys.executable, "-I", "-S", __file__, address])
            finally:
                server.shutdown()


def relay(address: str, *words: str) -> int:
    """Have the command run with this process's environment, directory and standard input."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        request = [words, dict(os.environ), str(Path.cwd()), sys.stdin.read()]
        connection.sendall(json.dumps(request).encode())
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            status, out, err = json.load(answer)
    sys.stdout.write(out)
    sys.stderr.write(err)
    return int(status)


if __name__ == "__main__":
    sys.exit(relay(*sys.argv[1:]))
