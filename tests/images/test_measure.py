"""`measure`: the registers of an enclave image file, and one line of error for other files."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import cbor2
import pytest

from generator.__main__ import main
from tests.support.image_files import (
    COMMAND_LINE,
    KERNEL,
    METADATA,
    RAMDISK,
    SECTIONS,
    SIGNATURE,
    Image,
    contents,
    register,
    signature_section,
)
from tests.support.paths import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

BOOT = (KERNEL, COMMAND_LINE)


class Run(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Measure = Callable[..., Run]


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Measure:
    """Run the command in this process: an interpreter for each case would take minutes."""

    def run(*arguments: str | Path) -> Run:
        monkeypatch.setattr(sys, "argv", ["application-encryptor", "measure", *map(str, arguments)])
        return Run(main(), *capsys.readouterr())

    return run


@pytest.fixture
def image(tmp_path: Path) -> Callable[[Image], Path]:
    def write(image: Image) -> Path:
        path = tmp_path / "image.eif"
        path.write_bytes(image.written())
        return path

    return write


KERNEL_AND_LINE = contents(list(SECTIONS), *BOOT)
INIT, APPLICATION = (data for kind, data in SECTIONS if kind == RAMDISK)
PCR0 = register(KERNEL_AND_LINE + INIT + APPLICATION)
PCRS = {
    "PCR0": PCR0,
    "PCR1": register(KERNEL_AND_LINE + INIT),
    "PCR2": register(APPLICATION),
}


def test_text_output_has_one_line_per_register(
    measure: Measure, image: Callable[[Image], Path]
) -> None:
    run = measure(image(Image()))
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == "".join(f"{name}: {digits}\n" for name, digits in PCRS.items())


def test_json_output_matches_nitro_cli(measure: Measure, image: Callable[[Image], Path]) -> None:
    run = measure(image(Image()), "--format", "json")
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout) == {
        "EifVersion": 4,
        "Measurements": {"HashAlgorithm": "Sha384 { ... }", **PCRS},
        "IsSigned": False,
        "CheckCRC": True,
    }


def test_image_is_read_from_standard_input() -> None:
    command = [sys.executable, "-m", "generator", "measure", "-"]
    printed = subprocess.check_output(command, cwd=PROJECT, input=Image().written())
    assert f"PCR0: {PCR0}\n".encode() in printed


@pytest.mark.parametrize("form", [list, bytes])
def test_a_signed_image_has_pcr8(
    measure: Measure, image: Callable[[Image], Path], form: type
) -> None:
    section, pcr8 = signature_section(PCR0, form)
    path = image(Image([*SECTIONS, section]))
    described = json.loads(measure(path, "--format", "json").stdout)
    assert described["Measurements"] == {
        "HashAlgorithm": "Sha384 { ... }",
        **PCRS,
        "PCR8": pcr8,
    }
    assert (described["IsSigned"], described["SignatureCheck"]) == (True, True)
    assert f"PCR8: {pcr8}\n" in measure(path).stdout


def test_signature_of_another_image_is_reported(
    measure: Measure, image: Callable[[Image], Path]
) -> None:
    section, _ = signature_section("ab" * 48)
    run = measure(image(Image([*SECTIONS, section])), "--format", "json")
    assert json.loads(run.stdout)["SignatureCheck"] is False
    assert "its signature does not match its PCR0" in run.stderr


OTHER_ORDER = [SECTIONS[1], SECTIONS[0], SECTIONS[3], SECTIONS[2], SECTIONS[4]]


@pytest.mark.parametrize(
    ("written", "pcr0", "pcr2"),
    [
        pytest.param(Image(OTHER_ORDER), None, register(APPLICATION), id="as-the-file-orders-them"),
        pytest.param(
            Image(list(SECTIONS[:4])), register(KERNEL_AND_LINE + INIT), register(b""), id="no-app"
        ),
        pytest.param(
            Image([*SECTIONS, (RAMDISK, b"more")]),
            register(KERNEL_AND_LINE + INIT + APPLICATION + b"more"),
            register(APPLICATION + b"more"),
            id="three-ramdisks",
        ),
        pytest.param(
            Image([each for each in SECTIONS if each[0] != METADATA], version=3),
            PCR0,
            register(APPLICATION),
            id="version-3-has-no-metadata",
        ),
        pytest.param(
            Image([*SECTIONS[:2], (METADATA, b"{}"), *SECTIONS[3:]]),
            PCR0,
            register(APPLICATION),
            id="metadata-is-not-measured",
        ),
        pytest.param(
            Image([*SECTIONS[:3], *((RAMDISK, bytes([n])) for n in range(29))]),
            register(KERNEL_AND_LINE + bytes(range(29))),
            register(bytes(range(1, 29))),
            id="most-sections-allowed",
        ),
    ],
)
def test_registers_are_computed_from_the_sections(
    measure: Measure, image: Callable[[Image], Path], written: Image, pcr0: str | None, pcr2: str
) -> None:
    found = json.loads(measure(image(written), "--format", "json").stdout)["Measurements"]
    measured = contents(written.sections, KERNEL, COMMAND_LINE, RAMDISK)
    assert found["PCR0"] == (pcr0 or register(measured)) == register(measured)
    assert found["PCR2"] == pcr2


HUGE = 1 << 62
OFFSETS = [548 + sum(12 + len(data) for _, data in SECTIONS[:n]) for n in range(len(SECTIONS))]
SIZES = [len(data) for _, data in SECTIONS]
REFUSED = {
    "empty": (b"", "is not an enclave image file (EIF)"),
    "something-else": (b"#!/bin/sh\n" * 100, "is not an enclave image file (EIF)"),
    "half-a-header": (Image().written()[:300], "has only 300 of the header's 548 bytes"),
    "cut-short": (Image().written()[:-1], "ends in the middle of a section"),
    "one-bit-flipped": (Image().written()[:-1] + b"x", "its CRC-32 is "),
    "wrong-checksum": (Image(crc=0).written(), "its header says 00000000"),
    "version-1": (Image(version=1).written(), "has version 1"),
    "version-5": (Image(version=5).written(), "has version 5"),
    "no-sections": (Image(count=0).written(), "declares 0 sections"),
    "too-many-sections": (Image(count=33).written(), "declares 33 sections"),
    "one-section-less-in-the-table": (Image(count=4).written(), "after its last section"),
    "one-more-in-the-table": (
        Image(count=6, offsets=[*OFFSETS, len(Image().written())], sizes=[*SIZES, 1]).written(),
        "ends in the middle",
    ),
    "more-behind": (Image(behind=b"more").written(), "after its last section"),
    "overlapping-sections": (Image(offsets=[548] * 5).written(), "places a section at 548"),
    "sizes-contradict": (Image(sizes=[1] * 5).written(), "but the file's header says 1:"),
    "a-size-beyond-everything": (Image(sizes=[HUGE] * 5).written(), f"header says {HUGE}:"),
    "unknown-section": (Image([*SECTIONS, (6, b"")]).written(), "unknown type 6"),
    "invalid-section": (Image([*SECTIONS, (0, b"")]).written(), "unknown type 0"),
    "two-kernels": (Image([*SECTIONS, SECTIONS[0]]).written(), "has 2 sections with a kernel"),
    "no-kernel": (Image(list(SECTIONS[1:])).written(), "has 0 sections with a kernel"),
    "no-command-line": (
        Image([SECTIONS[0], *SECTIONS[2:]]).written(),
        "has 0 sections with a command line",
    ),
    "two-metadata": (Image([*SECTIONS, SECTIONS[2]]).written(), "has 2 sections with metadata"),
    "no-metadata": (Image([*SECTIONS[:2], SECTIONS[3]]).written(), "has no metadata"),
    "ramdisk-first": (Image([SECTIONS[3], *SECTIONS[:3]]).written(), "a ramdisk before its kernel"),
    "ramdisk-before-kernel": (
        Image([SECTIONS[3], SECTIONS[1], SECTIONS[0], SECTIONS[2]]).written(),
        "a ramdisk before its kernel",
    ),
    "signature-is-no-cbor": (
        Image([*SECTIONS, (SIGNATURE, b"\xff\xff")]).written(),
        "its signature section is not readable CBOR",
    ),
    "signature-is-empty": (
        Image([*SECTIONS, (SIGNATURE, b"")]).written(),
        "its signature section is not readable CBOR",
    ),
    "signature-without-end": (
        Image([*SECTIONS, (SIGNATURE, b"\x81" * 32_000)]).written(),
        "its signature section is not readable CBOR",
    ),
    "no-signatures": (
        Image([*SECTIONS, (SIGNATURE, cbor2.dumps([]))]).written(),
        "holds no signature",
    ),
    "not-a-certificate": (
        Image(
            [*SECTIONS, (SIGNATURE, cbor2.dumps([{"signing_certificate": [1], "signature": [1]}]))]
        ).written(),
        "holds no readable certificate",
    ),
    "certificate-of-large-numbers": (
        Image(
            [
                *SECTIONS,
                (SIGNATURE, cbor2.dumps([{"signing_certificate": [999], "signature": [999]}])),
            ]
        ).written(),
        "its signature section ",
    ),
    "signature-too-large": (
        Image([*SECTIONS, (SIGNATURE, bytes(32_769))]).written(),
        "more than 32768",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_image_is_one_line_error(measure: Measure, tmp_path: Path, case: str) -> None:
    data, reason = REFUSED[case]
    path = tmp_path / "image.eif"
    path.write_bytes(data)
    run = measure(path, "--format", "json")
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    assert run.stderr.startswith(f"error: {path}: ")
    assert reason in run.stderr


def test_missing_file_or_directory_is_one_line_error(measure: Measure, tmp_path: Path) -> None:
    for path in (tmp_path / "none.eif", tmp_path):
        run = measure(path)
        assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)


def test_memory_stays_bounded_however_large_the_image(tmp_path: Path) -> None:
    path = tmp_path / "image.eif"
    size = 200 << 20
    head = Image(
        offsets=[548, 548 + 12 + size], sizes=[size, 1], count=2, sections=[], crc=0
    ).written()
    with path.open("wb") as file:  # sparse: takes no disk
        file.write(head + KERNEL.to_bytes(2) + bytes(2) + size.to_bytes(8))
        os.truncate(path, 548 + 12 + size)
    limit = 192 << 20  # of address space, interpreter and libraries included
    command = [sys.executable, "-m", "generator", "measure", str(path)]
    run = subprocess.run(
        command,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert run.stderr == f"error: {path}: ends in the middle of a section: copy it again\n"
