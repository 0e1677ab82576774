"""Hostile clients of every kind, in random order, and randomly mutated requests.

Part of `make fuzz`. After each, nothing is left and the next request is served.
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from enclave import protocol
from tests.server.harness import Server, received, running
from tests.server.hostile import KINDS, SCRIPT, request, sent
from tests.support.enclave import DATA_KEY
from tests.support.mutations import mutated


def harm(server: Server, artifact: bytes, dice: Random) -> str:
    """Act as a random hostile client; return the outcome."""
    with server.connection() as connection:
        assert server.accepted(connection) is None
        if dice.random() < 0.5:
            KINDS[dice.choice(list(KINDS))](connection, artifact)
            return "hostile kind"
        valid = request(artifact), request(artifact, input=[1 << 20, 100]) + sent(b"")
        with contextlib.suppress(protocol.ProtocolError):
            connection.send(mutated(dice.choice(valid), valid, dice))
            answer = received(connection)
            return "refused" if answer.status is None else "served"
        return "broken off"


def fuzz(home: Path, seed: str, count: int) -> collections.Counter[str]:
    """Send *count* hostile requests, each followed by a valid one; count the outcomes."""
    dice = Random(f"requests {seed}")  # noqa: S311 - nothing here is secret
    outcomes: collections.Counter[str] = collections.Counter()
    quick = home / "quick"
    quick.write_text(f"#!/bin/sh\necho PLAINTEXT: {base64.b64encode(DATA_KEY).decode()}\n")
    quick.chmod(0o755)
    with running(home, "--stall", "0.2", "--kmstool", str(quick)) as server:
        artifact = server.artifact({"start": SCRIPT})
        for number in range(count):
            try:
                outcomes[harm(server, artifact.read_bytes(), dice)] += 1
                server.idle()
                assert server.request(artifact, "start").status == 0
                server.idle()
            except Exception as error:
                raise AssertionError(f"seed {seed}, request {number}") from error
    return outcomes


def main() -> int:
    """Send as many hostile requests as requested; the first mishandled one is shown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", default=str(time.time_ns()))
    options = parser.parse_args()
    began = time.monotonic()
    print(f"requests, seed {options.seed}", flush=True)  # noqa: T201
    with tempfile.TemporaryDirectory() as home:
        outcomes = fuzz(Path(home), options.seed, options.count)
    seconds = time.monotonic() - began
    print(f"{options.count} requests, 0 mishandled: {dict(outcomes)}, {seconds:.0f} s")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
