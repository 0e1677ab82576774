"""PCR0s by whatever holds them: digits, an enclave image file, what nitro-cli prints of one."""

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
TEXT_MAX = 1024 * 1024
"""Bytes of a file that is not an image: nitro-cli's output has a few hundred."""
STANDARD_INPUT = "-"


class GoldenValueError(GeneratorError):
    """What should name enclave images names none."""


def pcr0s(source: str) -> list[str]:
    """Return the PCR0 of each enclave image that *source* names, in its order, each once.

    Args:
        source: 96 hexadecimal digits; or the name of a file, or ``-`` for standard input, which
            holds an enclave image (EIF), what nitro-cli prints of one or several (whatever lines
            stand around the JSON), or 96 digits a line.

    Returns:
        At least one, in lower case; never zeros.

    Raises:
        GoldenValueError: it names no image, or zeros, which every enclave in debug mode attests.
        ImageError: an enclave image file that is damaged.
    """
    found = [source] if DIGITS.fullmatch(source) else _in_file(source)
    values = list(dict.fromkeys(each.lower() for each in found))
    if any(not value.strip("0") for value in values):
        where = "" if DIGITS.fullmatch(source) else f"{source}: "
        raise GoldenValueError(
            f"{where}PCR0 of zeros is what every enclave in debug mode attests, and anybody can "
            "start one: take the value that nitro-cli build-enclave prints"
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
            f"{name}: is neither 96 hexadecimal digits nor a readable file ({reason})"
        ) from error


def _in_stream(name: str, file: BinaryIO) -> list[str]:
    opening = file.read(len(eif.MAGIC))
    if opening == eif.MAGIC:
        return [eif.measure_opened(name, _Rejoined(opening, file)).pcr0]
    data = opening + file.read(TEXT_MAX + 1 - len(opening))
    if len(data) > TEXT_MAX:
        raise GoldenValueError(f"{name}: is neither an enclave image file nor nitro-cli's output")
    text = data.decode("utf-8", errors="replace")
    documents = list(_json_objects(text))
    if documents:
        found = [value for document in documents for value in _registers(document)]
    else:
        found = [line for line in text.split() if DIGITS.fullmatch(line)]
    if not found:
        raise GoldenValueError(
            f"{name}: holds no PCR0: name an .eif, a file with what nitro-cli build-enclave or "
            "describe-eif printed, or one with 96 hexadecimal digits a line"
        )
    for value in found:
        if not DIGITS.fullmatch(value):
            raise GoldenValueError(f"{name}: its PCR0 is not 96 hexadecimal digits")
    return found


class _Rejoined(BytesIO):
    """Reads what was read already, and then the rest: standard input cannot be rewound."""

    def __init__(self, opening: bytes, rest: BinaryIO) -> None:
        super().__init__(opening)
        self._rest = rest

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        if size is None or size < 0:
            return found + self._rest.read()
        return found + self._rest.read(size - len(found))


def _json_objects(text: str) -> Iterator[object]:
    """Yield each JSON object in *text*; other lines may stand before, between and behind them."""
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            found, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            yield found
        start = text.find("{", end)


def _registers(node: object) -> Iterator[str]:
    """Yield each PCR0 in *node*: nitro-cli's, beside others that somebody put into one file."""
    pending = [node]
    while pending:
        found = pending.pop()
        if isinstance(found, Mapping):
            if isinstance(found.get("PCR0"), str):
                yield str(found["PCR0"])
            pending += reversed(list(found.values()))
        elif isinstance(found, list):
            pending += reversed(found)
