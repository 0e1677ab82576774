"""The encryptor is one file, so some constants exist twice: they must be equal."""

import envelope_encryptor as encryptor
from decryptor import format as artifact


def test_encryptor_and_decryptor_agree_on_the_format() -> None:
    assert encryptor.KEY_LENGTH.size == artifact.LENGTH_FIELD
    assert encryptor.KEY_LENGTH.pack(1) == (1).to_bytes(artifact.LENGTH_FIELD, "big")
    assert encryptor.TOKEN_VERSION == artifact.TOKEN_VERSION
    assert encryptor.TOKEN_HEADER.size == artifact.TOKEN_HEAD
    assert encryptor.TOKEN_HEADER.size == 1 + artifact.TIME + encryptor.AES_BLOCK
    assert encryptor.AES_BLOCK == artifact.BLOCK
