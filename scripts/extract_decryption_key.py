#!/usr/bin/env python3
"""Write an artifact's encrypted data key to a file, for proving that KMS denies it.

On the parent, without attestation, this must answer AccessDeniedException:

    aws kms decrypt --ciphertext-blob fileb://data_key.encrypted --region REGION

A denial alone proves little, a missing role policy denies too: show it beside the success of the
same role from the attested image.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

LENGTH_FIELD = 4  # bytes, big-endian, in front of the encrypted data key
ENCRYPTED_KEY_MAX = 6144  # bytes: CiphertextBlob of the KMS API


class FormatError(Exception):
    """The file does not begin as an artifact does."""


def encrypted_data_key(artifact: Path) -> bytes:
    """Return the encrypted data key that *artifact* begins with.

    Raises:
        FormatError: the length is not 1 to ENCRYPTED_KEY_MAX, or the file ends inside the key.
    """
    with artifact.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_FIELD), "big")
        if not 1 <= length <= ENCRYPTED_KEY_MAX:
            raise FormatError(
                f"encrypted data key length is {length}, not 1 to {ENCRYPTED_KEY_MAX}: "
                "is this an application_code.zip.encrypted?"
            )
        key = file.read(length)
    if len(key) < length:
        raise FormatError("the file ends inside the encrypted data key: copy it again")
    return key


def replace(target: Path, content: bytes) -> None:
    """Make *content* the whole of *target*, or leave *target* as it was."""
    with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".data-key.") as work:
        written = Path(work) / "key"
        with written.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        written.replace(target)


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        description="Write an artifact's encrypted data key to a file.", allow_abbrev=False
    )
    parser.add_argument(
        "-f", dest="file", type=Path, metavar="FILE", default=Path("application_code.zip.encrypted")
    )
    parser.add_argument(
        "-o", dest="output", type=Path, metavar="FILE", default=Path("data_key.encrypted")
    )
    arguments = parser.parse_args()
    try:
        replace(arguments.output, encrypted_data_key(arguments.file))
    except FormatError as error:
        print(f"error: {arguments.file}: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
