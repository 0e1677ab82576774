"""Artifacts in S3: their addresses, their metadata, and parts of their content."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from generator import artifact
from generator.errors import GeneratorError

if TYPE_CHECKING:
    from datetime import datetime

SCHEME: Final = "s3://"
ADDRESS: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(.+)", re.DOTALL)
DIGESTS: Final = ("sha256", "artifact-sha256", "sha-256")
"""Metadata names under which the artifact's SHA-256 may be found, in hexadecimal digits."""


@dataclass(frozen=True)
class Stored:
    """One version of an object, as S3 describes it. Its metadata are not authenticated."""

    bucket: str
    name: str
    size: int
    etag: str
    modified: datetime
    version: str | None
    metadata: dict[str, str]
    encryption: str | None
    encryption_key: str | None
    checksum: str | None
    """SHA-256 of the whole object that S3 verified, in hexadecimal digits; None if it has none."""

    @property
    def address(self) -> str:
        """The object's address, s3://BUCKET/NAME."""
        return f"{SCHEME}{self.bucket}/{self.name}"

    @property
    def where(self) -> dict[str, str]:
        """Arguments of a request for exactly this version."""
        version = {"VersionId": self.version} if self.version else {}
        return {"Bucket": self.bucket, "Key": self.name, **version}

    @property
    def sha256(self) -> str | None:
        """The expected SHA-256: the one in the metadata, else the one that S3 verified."""
        named = (self.metadata[name].strip().lower() for name in DIGESTS if name in self.metadata)
        return next(named, self.checksum)


def split(address: str) -> tuple[str, str]:
    """Return the bucket and the object's name in *address*.

    Raises:
        GeneratorError: it is not s3://BUCKET/NAME.
    """
    found = ADDRESS.fullmatch(address)
    if not found:
        raise GeneratorError(f"{address}: is not s3://BUCKET/NAME: copy the output ArtifactUri")
    return found[1], found[2]


def describe(s3: Any, address: str, version: str | None = None) -> Stored:  # noqa: ANN401 - boto3's
    """Ask *s3* for the object at *address*, in its newest or another *version*.

    Raises:
        GeneratorError: *address* is not an address.
        botocore.exceptions.ClientError: S3 refuses.
    """
    bucket, name = split(address)
    other = {"VersionId": version} if version else {}
    found = s3.head_object(Bucket=bucket, Key=name, ChecksumMode="ENABLED", **other)
    # The checksum of a multipart upload covers the parts' checksums: COMPOSITE.
    whole = found.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
    checksum = found.get("ChecksumSHA256") if whole else None
    return Stored(
        bucket=bucket,
        name=name,
        size=found["ContentLength"],
        etag=found["ETag"],
        modified=found["LastModified"],
        version=found.get("VersionId"),
        metadata=found.get("Metadata", {}),
        encryption=found.get("ServerSideEncryption"),
        encryption_key=found.get("SSEKMSKeyId"),
        checksum=base64.b64decode(checksum).hex() if checksum and "-" not in checksum else None,
    )


def ends(s3: Any, stored: Stored) -> artifact.Artifact:  # noqa: ANN401 - boto3's
    """Read only the beginning and the end of an artifact: enough to check header and token frame.

    Raises:
        GeneratorError: it is not an artifact.
        botocore.exceptions.ClientError: S3 refuses, or the object has changed in the meantime.
    """
    most = artifact.LENGTH + artifact.KEY_MAX + artifact.START
    start = part(s3, stored, 0, min(most, stored.size) - 1) if stored.size else b""
    length = artifact.data_key_length(start[: artifact.LENGTH])
    token_at = artifact.LENGTH + length
    found = artifact.Artifact(stored.size, start[artifact.LENGTH : token_at])
    found.token.add(start[token_at : token_at + artifact.START])
    if stored.size >= token_at + artifact.TOKEN_MIN:
        found.token.add(part(s3, stored, stored.size - artifact.QUANTUM, stored.size - 1))
    found.token.length = max(stored.size - token_at, 0)
    return found


def part(s3: Any, stored: Stored, first: int, last: int) -> bytes:  # noqa: ANN401 - boto3's
    """Return the bytes from *first* to *last*, provided that the object has not changed."""
    answer = s3.get_object(**stored.where, Range=f"bytes={first}-{last}", IfMatch=stored.etag)
    return bytes(answer["Body"].read())
