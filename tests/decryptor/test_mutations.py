"""Artifacts and zips mutated at random: each is refused in one line, or unambiguous.

`make test` tries a few hundred; `make fuzz` (this module as a program) as many as requested.
"""

from __future__ import annotations

import argparse
import base64
import collections
import io
import os
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import decryptor
from decryptor.archive import Limits
from decryptor.errors import DecryptorError, KeyReleaseError
from decryptor.token import Artifact
from decryptor.tree import open_artifact
from tests.decryptor import make_vectors
from tests.support.mutations import Guided

SEED = os.environ.get("FUZZ_SEED", "1")
COUNT = 400
ROOMS = Path(decryptor.__file__).parent
LIMITS = Limits(total_bytes=1 << 20, members=1000)
SEVERAL = make_vectors.zipped(
    make_vectors.Entry(name=b"d/", data=b"", mode=0),
    make_vectors.Entry(name=b"d/long", data=bytes(range(256)) * 8),
    make_vectors.Entry(name=b"d/e/start.sh", mode=make_vectors.FILE | 0o111),
    make_vectors.Entry(name=b"packed", method=8, packed=make_vectors.deflated(b"hello")),
    make_vectors.Entry(name=b"empty", data=b""),
)


def standard() -> bytes:
    """Return a zip by zipfile: real deflate, and a data descriptor after each member."""

    class Stream(io.RawIOBase):
        content = b""

        def writable(self) -> bool:
            return True

        def write(self, data: object, /) -> int:
            self.content += bytes(data)  # type: ignore[call-overload]
            return len(data)  # type: ignore[arg-type]

    stream = Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"hello " * 100)
        archive.writestr("d/b", os.urandom(0))
    return stream.content


ZIPS = [make_vectors.GOOD_ZIP, SEVERAL, standard()]
ARTIFACTS = [make_vectors.encoded(make_vectors.GOOD)]


def unwrap(encrypted_key: bytes) -> bytes:
    """Return the data key as KMS would, which recognizes its own ciphertexts."""
    if encrypted_key != make_vectors.ENCRYPTED_KEY:
        raise KeyReleaseError("not a ciphertext of KMS")
    return make_vectors.DATA_KEY


def decrypted(artifact: bytes) -> tuple[str, dict[str, bytes]]:
    """Decrypt *artifact*; return the error's class or "", and the tree's files.

    Raises:
        AssertionError: there is something else than the tree, or an error is not one line.
    """
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", 7) else None) as name:  # noqa: S108
        work = Path(name) / "work"
        work.mkdir()
        stream = Artifact(io.BytesIO(artifact), len(artifact))
        error, message, files = "", "", {}
        try:
            tree = open_artifact(stream, work, unwrap, LIMITS)
        except DecryptorError as refusal:
            error, message = type(refusal).__name__, str(refusal)
        else:
            paths = [path for path in tree.rglob("*") if not path.is_dir()]
            assert all(path.is_file() and not path.is_symlink() for path in paths)
            files = {str(path.relative_to(tree)): path.read_bytes() for path in paths}
        assert message.isprintable(), message
        assert os.listdir(name) == ["work"]  # noqa: PTH208
        assert set(os.listdir(work)) <= {"tree"}  # noqa: PTH208
        return error, files


def judge_zip(content: bytes) -> str:
    """Decrypt *content* in an authentic artifact; if accepted, zipfile must read it alike."""
    token = make_vectors.raw_token(make_vectors.padded(content))
    error, files = decrypted(make_vectors.encoded(token))
    if error:
        return error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive = zipfile.ZipFile(io.BytesIO(content))
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if all(name.isascii() for name in names):  # zipfile takes other names for code page 437
            theirs = {os.path.normpath(name): archive.read(name) for name in names}
            assert theirs == files
    return "opens"


def judge_artifact(content: bytes) -> str:
    """Decrypt *content* as it is; only the unchanged artifact may decrypt."""
    error, files = decrypted(content)
    assert error or content == ARTIFACTS[0], files
    return error or "opens"


def fuzz(seed: str, count: int) -> tuple[collections.Counter[str], int]:
    """Judge *count* mutants, 90 % of them authentic; return outcomes, and lines reached."""
    outcomes: collections.Counter[str] = collections.Counter()
    reached = 0
    for judge, corpus, share in (
        (judge_zip, ZIPS, count - count // 10),
        (judge_artifact, ARTIFACTS, count // 10),
    ):
        guided = Guided(corpus, ROOMS, f"{judge.__name__} {seed}")
        for number, content in enumerate(guided.inputs(share)):
            try:
                outcomes[guided.run(judge, content)] += 1
            except Exception as error:
                what = f"{judge.__name__}, seed {seed}, {number}"
                raise AssertionError(f"{what}: {base64.b64encode(content).decode()}") from error
        reached += guided.reached
    return outcomes, reached


def test_mutant_is_refused_or_unambiguous() -> None:
    outcomes, _ = fuzz(SEED, COUNT)
    assert outcomes["opens"]
    assert outcomes["ArchiveError"]
    assert outcomes["FormatError"]
    assert sum(outcomes.values()) == COUNT


def test_every_valid_input_is_decrypted() -> None:
    assert [judge_zip(content) for content in ZIPS] == ["opens"] * len(ZIPS)
    assert judge_artifact(ARTIFACTS[0]) == "opens"


def main() -> int:
    """Judge as many mutants as the command line says; show the first that is mishandled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", default=str(time.time_ns()))
    options = parser.parse_args()
    began = time.monotonic()
    print(f"artifacts, seed {options.seed}", flush=True)  # noqa: T201
    outcomes, reached = fuzz(options.seed, options.count)
    found = f"{dict(outcomes)}, {reached} lines, {time.monotonic() - began:.0f} s"
    print(f"{options.count} artifacts, 0 mishandled: {found}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
