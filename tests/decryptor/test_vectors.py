"""Hostile artifacts, one fault each: vectors.json has the expected outcome, and why."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.decryptor import make_vectors
from tests.support.paths import PROJECT

VECTORS: list[make_vectors.Vector] = json.loads(
    Path(__file__).with_name("vectors.json").read_text()
)
Outcome = tuple[str, list[str]]


@pytest.fixture(scope="module", params=["accelerated", "plain"])
def outcomes(request: pytest.FixtureRequest) -> dict[str, Outcome]:
    """Return by name how each vector ended, and what it left; with libraries or without."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.decryptor.vector_driver", request.param],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": "encryption"},
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(result.stdout)
    names = (vector["name"] for vector in VECTORS)
    return {name: (ended, left) for name, (ended, left) in zip(names, found, strict=True)}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_each_vector_has_its_expected_outcome(
    vector: make_vectors.Vector, outcomes: dict[str, Outcome]
) -> None:
    left = ["artifact", "tree"] if vector["expect"] == "opens" else ["artifact"]
    assert outcomes[vector["name"]] == (vector["expect"], left)


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
