"""Decrypts every artifact of vectors.json, and prints how each ended, and what it left.

    python -m tests.decryptor.vector_driver accelerated|plain

It is a process of its own because a small one forks quickly, and to run without `isal` and
`pybase64`.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from pathlib import Path

LIBRARIES = ("isal", "pybase64")


def outcome(content: bytes, folder: Path) -> str:
    """Decrypt *content* in *folder*; return the error's class, or "opens"."""
    from decryptor import archive, errors, token, tree
    from tests.decryptor.make_vectors import DATA_KEY

    artifact = folder / "artifact"
    artifact.write_bytes(content)
    limits = archive.Limits(total_bytes=1 << 20, members=1000)
    try:
        with token.Artifact.opened(artifact, 60) as opened:
            tree.decrypt(opened, folder / "tree", lambda _: DATA_KEY, limits)
    except errors.DecryptorError as error:
        return type(error).__name__
    return "opens"


def main() -> None:
    """Print a list of pairs: the outcome, and the names that are left."""
    if sys.argv[1] == "plain":
        sys.modules.update(dict.fromkeys(LIBRARIES))  # type: ignore[arg-type]
    found = []
    for vector in json.loads(Path(__file__).with_name("vectors.json").read_text()):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ended = outcome(base64.b64decode(vector["artifact"]), folder)
            found.append((ended, sorted(path.name for path in folder.iterdir())))
    assert sys.argv[1] == "accelerated" or not any(map(sys.modules.get, LIBRARIES))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
