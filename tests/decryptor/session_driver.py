"""Serves one run request as a server does: the artifact is a stream, output goes to a callback.

Arguments: the artifact's file, settings as JSON, the script and its arguments. Prints one
line of JSON for each chunk of output, and one for the result.
"""

import errno
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "encryption"))

from decryptor.archive import Limits
from decryptor.errors import DecryptorError
from decryptor.script import Control, Session, run
from decryptor.token import Artifact

KEY = bytes(range(32))


class Stream:
    """An artifact that arrives a few bytes at a time, and has no descriptor."""

    def __init__(self, content: bytes, fault: str) -> None:
        """Give *content*, then fail with *fault* unless that is empty."""
        self._content, self._fault = content, fault

    def read(self, size: int, /) -> bytes:
        """Return some of the next *size* bytes."""
        size = min(size, 70_001)
        data, self._content = self._content[:size], self._content[size:]
        if not data and self._fault:
            raise OSError(5, self._fault)
        return data


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _unknown_to_it(*_: object) -> int:
    """Fail as a system call that the enclave's kernel does not have."""
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def main(path: str, how: str, *words: str) -> None:
    wish = json.loads(how)
    if wish.get("old_kernel"):
        vars(os)["pidfd_open"] = _unknown_to_it
    content = Path(path).read_bytes()

    def output(number: int, data: bytes) -> None:
        say(stream=number, data=data.decode())
        if wish.get("gone"):
            raise BrokenPipeError(32, "the client has gone")

    def receive() -> int | None:
        line = os.read(0, 100)
        if not line:
            raise ConnectionResetError(104, "the client has gone")
        return int(line)

    session = Session(
        output=output,
        control=Control(0, receive) if wish.get("control") else None,
        seconds=wish.get("seconds"),
        user=tuple(wish["user"]) if "user" in wish else None,
        environment={"ENCLAVE_INPUT": "/in", "AWS_SECRET_ACCESS_KEY": "s", "PATH": os.defpath},
    )
    artifact = Artifact(Stream(content, wish.get("fault", "")), len(content))
    try:
        end: dict[str, object] = {
            "status": run(artifact, words, lambda _: KEY, Limits(None, 1000), session)
        }
    except (DecryptorError, OSError) as error:
        end = {"error": f"{type(error).__name__}: {error}"}
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    say(**end, children=children)


main(*sys.argv[1:])
