"""Hostile artifacts, one fault each: vectors.json has the expected outcome, and why."""

from __future__ import annotations

import base64
import contextlib
import json
import zlib
from pathlib import Path

import pytest

from decryptor import archive, errors, token, tree
from decryptor.kmstool import Kmstool
from tests.decryptor import make_vectors
from tests.support.enclave import CREDENTIALS, KEY_ARN, Enclave

VECTORS: list[make_vectors.Vector] = json.loads(
    Path(__file__).with_name("vectors.json").read_text()
)
LIMITS = archive.Limits(total_bytes=1 << 20, members=1000)


@pytest.fixture(params=["accelerated", "plain"])
def _libraries(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        monkeypatch.setattr(token, "_base64", base64)
        for room in (archive, tree):
            monkeypatch.setattr(room, "zlib", zlib)


@pytest.mark.usefixtures("_libraries")
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_each_vector_has_its_expected_outcome(
    vector: make_vectors.Vector, enclave: Enclave
) -> None:
    key = base64.b64encode(make_vectors.DATA_KEY).decode()
    enclave.tool.write_text(f"#!/bin/sh\necho PLAINTEXT: {key}\n")
    tool = Kmstool(str(enclave.tool), "eu-central-1", 8000, 60, KEY_ARN, CREDENTIALS)
    artifact = enclave.home / "application_code.zip.encrypted"
    artifact.write_bytes(base64.b64decode(vector["artifact"]))

    def decrypt() -> None:
        with token.Artifact.opened(artifact, 60) as opened:
            tree.decrypt(opened, enclave.home / "tree", tool.unwrap, LIMITS)

    if vector["expect"] == "opens":
        decrypt()
        assert enclave.left_behind() == {"tree"}
        return
    error = getattr(errors, vector["expect"])
    with pytest.raises(error) as raised:
        decrypt()
    assert type(raised.value) is error
    assert enclave.left_behind() == set()


def test_vectors_file_matches_its_generator() -> None:
    assert make_vectors.vectors() == VECTORS


def test_vectors_cover_what_the_standard_decoder_ignores() -> None:
    """The standard decoder reads each of these as the same token: ours must refuse them."""
    token = make_vectors.TOKEN
    forgiven = set()
    for name, _, _, content in make_vectors.base64_faults():
        text = content[4 + len(make_vectors.ENCRYPTED_KEY) :]
        with contextlib.suppress(ValueError):
            if base64.urlsafe_b64decode(text) == base64.urlsafe_b64decode(token):
                forgiven.add(name)
    assert forgiven == {
        "newline-inside",
        "newline-at-the-end",
        "four-foreign-characters",
        "plus-for-minus",
        "slash-for-underscore",
        "padding-twice",
        "token-after-the-padding",
        "unused-bits-set",
    }
