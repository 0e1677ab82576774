"""Measures an enclave image file (EIF): the registers that an enclave started from it attests.

An EIF is a header of 548 bytes and up to 32 sections, each with a header of its own; every number
is big-endian. nitro-cli reads the sections one after the other, the hypervisor uses the offsets and
sizes in the header. A file for which the two differ is refused: its measurements would depend on
the reader.

Source: https://github.com/aws/aws-nitro-enclaves-image-format (README, "EIF Measurements").
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO

from generator.errors import GeneratorError
from generator.images import signature

MAGIC = b".eif"
VERSIONS = (2, 3, 4)
METADATA_SINCE = 4
"""The first version whose images must have a section of metadata."""

HEADER = struct.Struct(">4sHHQQHH32Q32QII")
SECTION = struct.Struct(">HHQ")
CRC_BYTES = 4
SECTIONS_MIN, SECTIONS_MAX = 2, 32
SIGNATURE_MAX = 32_768
"""Bytes of a signature section that the hypervisor accepts (SIGNATURE_MAX_SIZE)."""
METADATA_MAX = 16 * 1024 * 1024
CHUNK = 1024 * 1024


class Kind(IntEnum):
    """What a section holds."""

    KERNEL = 1
    COMMAND_LINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5


@dataclass(frozen=True)
class Measurements:
    """An image's measurements: SHA-384, as 96 lower-case hexadecimal digits each.

    ``pcr8`` is the signing certificate's register, None for an image that is not signed; then
    ``signature_holds`` is None, too. The metadata (name, build time) is not measured.
    """

    version: int
    pcr0: str
    pcr1: str
    pcr2: str
    pcr8: str | None = None
    signature_holds: bool | None = None

    def registers(self) -> dict[str, str]:
        """Return the registers by the names that nitro-cli prints."""
        found = {"PCR0": self.pcr0, "PCR1": self.pcr1, "PCR2": self.pcr2}
        return found if self.pcr8 is None else {**found, "PCR8": self.pcr8}

    def as_described(self) -> dict[str, object]:
        """Return the measurements as ``nitro-cli describe-eif`` prints them for the same image.

        A damaged image is refused before, so CheckCRC is always true.
        """
        described: dict[str, object] = {
            "EifVersion": self.version,
            "Measurements": {"HashAlgorithm": "Sha384 { ... }", **self.registers()},
            "IsSigned": self.pcr8 is not None,
            "CheckCRC": True,
        }
        if self.signature_holds is not None:
            described["SignatureCheck"] = self.signature_holds
        return described


class ImageError(GeneratorError):
    """The file is not an enclave image, or one that no enclave would start from."""


def measure(path: Path) -> Measurements:
    """Measure the enclave image file *path*.

    Raises:
        ImageError: it is not one, it is damaged, or readers of the format would not agree on it.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return measure_opened(str(path), file)


def measure_opened(name: str, file: BinaryIO) -> Measurements:
    """Measure an enclave image, read once from *file*; *name* is for messages.

    Raises:
        ImageError: as for `measure`.
    """
    try:
        return _measured(file)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


def _measured(file: BinaryIO) -> Measurements:
    head = file.read(HEADER.size)
    if head[: len(MAGIC)] != MAGIC:
        raise ImageError("is not an enclave image file (EIF): pass an .eif file")
    if len(head) < HEADER.size:
        raise ImageError(f"has only {len(head)} of the header's {HEADER.size} bytes: copy it again")
    reader = _Reader(file, head)
    kinds = [reader.section(offset, size) for offset, size in reader.table]
    if file.read(1):
        raise ImageError("has data after its last section: build the image again")
    _check_sections(kinds, reader.version)
    if reader.crc != reader.stated_crc:
        raise ImageError(
            f"its CRC-32 is {reader.crc:08x}, its header says {reader.stated_crc:08x}: "
            "the file is damaged, copy it again or build the image again"
        )
    return reader.measurements()


class _Reader:
    """Reads the sections in the file's order and measures them."""

    def __init__(self, file: BinaryIO, head: bytes) -> None:
        fields = HEADER.unpack(head)
        self.version: int = fields[1]
        count = fields[6]
        self.stated_crc: int = fields[-1]
        if self.version not in VERSIONS:
            raise ImageError(
                f"has version {self.version} of the format, not 2 to 4: build it with another "
                "nitro-cli"
            )
        if not SECTIONS_MIN <= count <= SECTIONS_MAX:
            raise ImageError(
                f"its header declares {count} sections, not {SECTIONS_MIN} to 32: build it again"
            )
        first_offset = len(fields) - 2 - 2 * SECTIONS_MAX
        offsets = fields[first_offset:][:count]
        sizes = fields[first_offset + SECTIONS_MAX :][:count]
        self.table: list[tuple[int, int]] = list(zip(offsets, sizes, strict=True))
        self.crc = zlib.crc32(head[:-CRC_BYTES])
        self._file = file
        self._position = HEADER.size
        self._image, self._bootstrap, self._application = (hashlib.sha384() for _ in range(3))
        self._ramdisks = 0
        self._signature: bytes | None = None

    def section(self, offset: int, size: int) -> Kind:
        """Read the section that the header's table puts at *offset*, *size* bytes of data."""
        if offset != self._position:
            raise ImageError(
                f"its header places a section at {offset}, but the one before ends at "
                f"{self._position}: build the image again"
            )
        code, _, stated = SECTION.unpack(self._exactly(SECTION.size))
        try:
            kind = Kind(code)
        except ValueError as error:
            raise ImageError(
                f"has a section of the unknown type {code}: build it with another nitro-cli"
            ) from error
        if stated != size:
            raise ImageError(
                f"has a section of {stated} bytes, but the file's header says {size}: "
                "build the image again"
            )
        limit = {Kind.SIGNATURE: SIGNATURE_MAX, Kind.METADATA: METADATA_MAX}.get(kind, size)
        if size > limit:
            raise ImageError(
                f"its {kind.name.lower()} has {size} bytes, more than {limit}: build it again"
            )
        self._measure(kind, size)
        return kind

    def _measure(self, kind: Kind, size: int) -> None:
        digests = []
        if kind in (Kind.KERNEL, Kind.COMMAND_LINE):
            digests = [self._image, self._bootstrap]
        elif kind is Kind.RAMDISK:
            # The first ramdisk is AWS's init; what follows is the application.
            digests = [self._image, self._application if self._ramdisks else self._bootstrap]
            self._ramdisks += 1
        if kind is Kind.SIGNATURE:
            self._signature = self._exactly(size)
            return
        left = size
        while left:
            chunk = self._exactly(min(left, CHUNK))
            left -= len(chunk)
            for digest in digests:
                digest.update(chunk)

    def _exactly(self, size: int) -> bytes:
        found = self._file.read(size)
        if len(found) < size:
            raise ImageError("ends in the middle of a section: copy it again")
        self.crc = zlib.crc32(found, self.crc)
        self._position += size
        return found

    def measurements(self) -> Measurements:
        """Return the registers, after every section has been read."""
        pcr0 = _extended(self._image.digest())
        pcr8, holds = None, None
        if self._signature is not None:
            try:
                signed = signature.read(self._signature)
            except ValueError as error:
                raise ImageError(f"its signature section {error}: sign the image again") from error
            pcr8 = _extended(hashlib.sha384(signed.certificate).digest()).hex()
            holds = signed.holds_for(pcr0)
        return Measurements(
            self.version,
            pcr0.hex(),
            _extended(self._bootstrap.digest()).hex(),
            _extended(self._application.digest()).hex(),
            pcr8,
            holds,
        )


def _extended(content: bytes) -> bytes:
    """Return a register of zeros after it was extended once with the digest *content*."""
    return hashlib.sha384(bytes(len(content)) + content).digest()


def _check_sections(kinds: list[Kind], version: int) -> None:
    """Refuse what the hypervisor refuses, and what could be read in two ways."""
    for kind in (Kind.KERNEL, Kind.COMMAND_LINE):
        if kinds.count(kind) != 1:
            name = kind.name.lower().replace("_", " ")
            raise ImageError(
                f"has {kinds.count(kind)} sections with a {name}, not one: build the image again"
            )
    for kind in (Kind.SIGNATURE, Kind.METADATA):
        if kinds.count(kind) > 1:
            raise ImageError(
                f"has {kinds.count(kind)} sections with {kind.name.lower()}, not one: build the "
                "image again"
            )
    if version >= METADATA_SINCE and Kind.METADATA not in kinds:
        raise ImageError(f"has no metadata, which version {version} requires: build it again")
    if Kind.RAMDISK in kinds[: kinds.index(Kind.KERNEL)]:
        raise ImageError("has a ramdisk before its kernel: build the image again")
