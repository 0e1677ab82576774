"""The classic script: the whole zip and the whole token in memory.

    python -m benchmarks.whole_file encrypt DIRECTORY KEY OUTPUT
    python -m benchmarks.whole_file decrypt ARTIFACT DIRECTORY TOKEN_KEY

Written plainly from the artifact's specification; encryptor and decryptor are compared with it.
"""

import base64
import io
import struct
import sys
import zipfile
from pathlib import Path

from cryptography.fernet import Fernet


def encrypt(directory: str, key_id: str, output: str) -> None:
    """Zip, ask KMS for a data key, encrypt, write."""
    import boto3

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(Path(directory).rglob("*")):
            archive.write(path, path.relative_to(directory))
    data_key = boto3.client("kms").generate_data_key(KeyId=key_id, KeySpec="AES_256")
    token_key = base64.urlsafe_b64encode(data_key["Plaintext"])
    token = Fernet(token_key).encrypt(content.getvalue())
    encrypted_key = data_key["CiphertextBlob"]
    Path(output).write_bytes(struct.pack(">I", len(encrypted_key)) + encrypted_key + token)


def decrypt(artifact: str, directory: str, token_key: str) -> None:
    """Read, decrypt, unzip."""
    content = Path(artifact).read_bytes()
    (length,) = struct.unpack(">I", content[:4])
    zipped = Fernet(token_key).decrypt(content[4 + length :])
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        archive.extractall(directory)


if __name__ == "__main__":
    {"encrypt": encrypt, "decrypt": decrypt}[sys.argv[1]](*sys.argv[2:])
