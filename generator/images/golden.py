"""PCR0s in any form: digits, an enclave image file, or nitro-cli's output."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from generator.errors import GeneratorError
from generator.images import eif

DIGITS = re.compile(r"[0-9A-Fa-f]{96}")
OBJECT = re.compile(r'\{\s*["}]')
TEXT_MAX = 1024 * 1024
"""Bytes of a file that is not an image; nitro-cli's output has a few hundred."""
STANDARD_INPUT = "-"


class GoldenValueError(GeneratorError):
    """A source does not name an enclave image."""


def pcr0s(source: str) -> list[str]:
    """Return the PCR0 of each enclave image that *source* names, in order, without duplicates.

    Args:
        source: 96 hexadecimal digits; or the name of a file, or ``-`` for standard input, which
            holds an enclave image (EIF), nitro-cli's output for one or several images (with any
            lines around the JSON), or lines of 96 digits.

    Returns:
        At least one, in lower case; never zeros.

    Raises:
        GoldenValueError: it names no image, or zeros, which every enclave in debug mode attests.
        ImageError: an enclave image file is damaged.
    """
    found = [source] if DIGITS.fullmatch(source) else _in_file(source)
    values = list(dict.fromkeys(each.lower() for each in found))
    if any(not value.strip("0") for value in values):
        where = "" if DIGITS.fullmatch(source) else f"{source}: "
        raise GoldenValueError(
            f"{where}a PCR0 of zeros is what every image attests in debug mode: "
            "use the value that nitro-cli build-enclave prints"
        )
    return values


def _in_file(name: str) -> list[str]:
    try:
        if name == STANDARD_INPUT:
            return _in_stream("standard input", sys.stdin.buffer)
        with Path(name).open("rb") as file:
            return _in_stream(name, file)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", None) or error
        raise GoldenValueError(
            f"{name} is neither 96 hexadecimal digits nor a readable file ({reason}): name a PCR0 "
            "or an .eif file"
        ) from error


def _in_stream(name: str, file: BinaryIO) -> list[str]:
    opening = file.read(len(eif.MAGIC))
    if opening == eif.MAGIC:
        return [eif.measure_opened(name, _Rejoined(opening, file)).pcr0]
    data = opening + file.read(TEXT_MAX + 1 - len(opening))
    if len(data) > TEXT_MAX:
        raise GoldenValueError(
            f"{name} is neither an enclave image file nor nitro-cli's output: pass an .eif file"
        )
    text = data.decode("utf-8", errors="replace")
    documents = list(_json_objects(text))
    if documents:
        found = [value for document in documents for value in _registers(document)]
    else:
        found = [line for line in text.split() if DIGITS.fullmatch(line)]
    if not found:
        raise GoldenValueError(
            f"{name}: contains no PCR0: pass an .eif file, or a file with the output of nitro-cli "
            "build-enclave or describe-eif, or with 96 hexadecimal digits per line"
        )
    for value in found:
        if not DIGITS.fullmatch(value):
            raise GoldenValueError(
                f"{name}: its PCR0 is not 96 hexadecimal digits: use nitro-cli's unchanged output"
            )
    return found


class _Rejoined(BytesIO):
    """Reads again what has been read, then the rest: standard input cannot be rewound."""

    def __init__(self, opening: bytes, rest: BinaryIO) -> None:
        super().__init__(opening)
        self._rest = rest

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        if size is None or size < 0:
            return found + self._rest.read()
        return found + self._rest.read(size - len(found))


def _json_objects(text: str) -> Iterator[object]:
    """Yield each JSON object in *text*, which may have other lines before, between and after."""
    decoder = json.JSONDecoder()
    end = 0
    while opening := OBJECT.search(text, end):
        try:
            found, end = decoder.raw_decode(text, opening.start())
        except ValueError:
            end = opening.start() + 1
        except RecursionError:  # nothing like nitro-cli's; to try each brace of it would take long
            return
        else:
            yield found


def _registers(node: object) -> Iterator[str]:
    """Yield each PCR0 in *node*, at any depth: one file may hold several outputs of nitro-cli."""
    pending = [node]
    while pending:
        found = pending.pop()
        if isinstance(found, Mapping):
            if isinstance(found.get("PCR0"), str):
                yield str(found["PCR0"])
            pending += reversed(list(found.values()))
        elif isinstance(found, list):
            pending += reversed(found)
