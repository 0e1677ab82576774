"""Reading PCR0 values from images, output of nitro-cli, text and arguments."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING

import pytest

from generator.errors import GeneratorError
from generator.images.golden import pcr0s
from tests.support.image_files import (
    COMMAND_LINE,
    KERNEL,
    RAMDISK,
    SECTIONS,
    Image,
    contents,
    register,
)

if TYPE_CHECKING:
    from pathlib import Path

DIGITS, OTHER = "1a" * 48, "2b" * 48
IMAGE = register(contents(list(SECTIONS), KERNEL, COMMAND_LINE, RAMDISK))
PRINTED = {"Measurements": {"HashAlgorithm": "Sha384 { ... }", "PCR0": DIGITS, "PCR1": OTHER}}
BUILD = f"Start building the Enclave Image...\nUsing {{a}} cache\n{json.dumps(PRINTED, indent=2)}\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(Image().written(), [IMAGE], id="image"),
        pytest.param(json.dumps(PRINTED).encode(), [DIGITS], id="nitro-cli"),
        pytest.param(BUILD.encode(), [DIGITS], id="lines-around"),
        pytest.param(BUILD.encode() + b"Done.\n", [DIGITS], id="lines-behind"),
        pytest.param(b"\xef\xbb\xbf" + BUILD.encode(), [DIGITS], id="byte-order-mark"),
        pytest.param(json.dumps({"PCR0": DIGITS}).encode(), [DIGITS], id="registers-alone"),
        pytest.param(
            json.dumps([PRINTED, {"old": {"PCR0": OTHER}}]).encode(), [DIGITS, OTHER], id="several"
        ),
        pytest.param(
            f"{DIGITS}\n{OTHER.upper()}\n{DIGITS}\n".encode(), [DIGITS, OTHER], id="lines"
        ),
    ],
)
def test_pcr0s_are_read_from_a_file(tmp_path: Path, content: bytes, expected: list[str]) -> None:
    path = tmp_path / "golden"
    path.write_bytes(content)
    assert pcr0s(str(path)) == expected


def test_pcr0_is_given_as_digits() -> None:
    assert pcr0s(DIGITS.upper()) == [DIGITS]


@pytest.mark.parametrize("content", [BUILD.encode(), Image().written()])
def test_pcr0s_are_read_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert pcr0s("-") == [IMAGE if content.startswith(b".eif") else DIGITS]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "contains no PCR0", id="empty"),
        pytest.param(b"{" * 100_000, "contains no PCR0", id="braces"),
        pytest.param(b'{"a":' * 100_000, "contains no PCR0", id="nested-deep"),
        pytest.param(b"[" * 100_000, "contains no PCR0", id="brackets"),
        pytest.param(b'{"PCR0": "1a"}', "not 96 hexadecimal digits", id="short"),
        pytest.param(b'{"PCR0": 1}', "contains no PCR0", id="a-number"),
        pytest.param(json.dumps({"PCR0": "0" * 96}).encode(), "debug mode", id="debug"),
        pytest.param(DIGITS.encode() + b"\n" + b"0" * 96, "debug mode", id="debug-among-others"),
        pytest.param(bytes(2 << 20), "is neither an enclave image", id="large"),
        pytest.param(Image(crc=0).written(), "the file is damaged", id="damaged-image"),
        pytest.param(b".eif", "of the header's 548 bytes", id="image-cut-short"),
    ],
)
def test_file_without_valid_pcr0_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "golden"
    path.write_bytes(content)
    with pytest.raises(GeneratorError, match=reason) as refused:
        pcr0s(str(path))
    assert str(refused.value).startswith(str(path))


@pytest.mark.parametrize("name", ["none.eif", "1a" * 47, "", "a\0b", "0" * 96])
def test_argument_that_is_neither_file_nor_pcr0_is_refused(name: str) -> None:
    with pytest.raises(GeneratorError):
        pcr0s(name)
