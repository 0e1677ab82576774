"""Seal a directory the classic way: the whole zip and the whole token in memory.

    python benchmarks/whole_file.py DIRECTORY KEY OUTPUT

Written plainly from the artifact's specification; what the encryptor is compared with.
"""

from __future__ import annotations

import base64
import io
import struct
import sys
import zipfile
from pathlib import Path

import boto3
from cryptography.fernet import Fernet


def main(directory: Path, key_id: str, output: Path) -> None:
    """Zip, ask KMS for a data key, encrypt, write."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(directory.rglob("*")):
            archive.write(path, path.relative_to(directory))
    data_key = boto3.client("kms").generate_data_key(KeyId=key_id, KeySpec="AES_256")
    token_key = base64.urlsafe_b64encode(data_key["Plaintext"])
    token = Fernet(token_key).encrypt(content.getvalue())
    encrypted_key = data_key["CiphertextBlob"]
    output.write_bytes(struct.pack(">I", len(encrypted_key)) + encrypted_key + token)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
