"""Writes enclave image files from the format's description, sharing no code with the reader.

Source: https://github.com/aws/aws-nitro-enclaves-image-format/blob/main/README.md
"""

from __future__ import annotations

import datetime as dt
import hashlib
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from rehearsal.certificates import issue

if TYPE_CHECKING:
    from cryptography import x509

KERNEL, COMMAND_LINE, RAMDISK, SIGNATURE, METADATA = range(1, 6)

Section = tuple[int, bytes]

SECTIONS: tuple[Section, ...] = (
    (KERNEL, b"kernel" * 300_000),
    (COMMAND_LINE, b"reboot=k panic=30"),
    (METADATA, b'{"ImageName": "example", "BuildMetadata": {"BuildTime": "now"}}'),
    (RAMDISK, b"init" * 1000),
    (RAMDISK, b"application" * 200_000),
)


@dataclass
class Image:
    """An image, any field of which a test may falsify before it is written."""

    sections: list[Section] = field(default_factory=lambda: list(SECTIONS))
    magic: bytes = b".eif"
    version: int = 4
    count: int | None = None
    offsets: list[int] | None = None
    sizes: list[int] | None = None
    crc: int | None = None
    behind: bytes = b""

    def written(self) -> bytes:
        """Return the file, with a correct checksum unless ``crc`` overrides it."""
        body, offsets = b"", []
        for kind, data in self.sections:
            offsets.append(548 + len(body))
            body += kind.to_bytes(2) + bytes(2) + len(data).to_bytes(8) + data
        sizes = [len(data) for _, data in self.sections]
        head = self.magic + self.version.to_bytes(2) + bytes(2)
        head += (1 << 30).to_bytes(8) + (2).to_bytes(8) + bytes(2)
        head += (len(sizes) if self.count is None else self.count).to_bytes(2)
        for table in (self.offsets or offsets, self.sizes or sizes):
            head += b"".join(each.to_bytes(8) for each in table).ljust(32 * 8, b"\0")
        head += bytes(4)
        crc = zlib.crc32(head + body + self.behind) if self.crc is None else self.crc
        return head + crc.to_bytes(4) + body + self.behind


def register(content: bytes) -> str:
    """Return a register's value after *content* was measured into it."""
    return hashlib.sha384(bytes(48) + hashlib.sha384(content).digest()).hexdigest()


def contents(sections: list[Section], *kinds: int) -> bytes:
    """Return the data of all sections of *kinds*, in the file's order."""
    return b"".join(data for kind, data in sections if kind in kinds)


def signer() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return a self-signed certificate, and its key, on P-384."""
    begins = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    made = issue("example", begins, dt.timedelta(days=3650), ca=False)
    return made.certificate, made.key


def signature_section(pcr0: str, form: type = list) -> tuple[Section, str]:
    """Return the section that signs *pcr0*, and the resulting PCR8."""
    certificate, key = signer()
    value = {"register_index": 0, "register_value": list(bytes.fromhex(pcr0))}
    protected, payload = cbor2.dumps({1: -35}), cbor2.dumps(value)
    covered = cbor2.dumps(["Signature1", protected, b"", payload])
    r, s = decode_dss_signature(key.sign(covered, ec.ECDSA(SHA384())))
    signed = cbor2.dumps([protected, {}, payload, r.to_bytes(48) + s.to_bytes(48)])
    pem = certificate.public_bytes(Encoding.PEM)
    entry = {"signing_certificate": form(pem), "signature": form(signed)}
    return (SIGNATURE, cbor2.dumps([entry])), register(certificate.public_bytes(Encoding.DER))
