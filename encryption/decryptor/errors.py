"""What can go wrong: each class is one kind of failure, each message is for a person."""

from __future__ import annotations


class DecryptorError(Exception):
    """Why an artifact was not decrypted, or its script not run."""


class FormatError(DecryptorError):
    """The file is not exactly of the artifact's format."""


class AuthenticationError(DecryptorError):
    """The token is not what was encrypted under this data key."""


class OutdatedError(DecryptorError):
    """The token is authentic, but older than the image accepts."""


class ArchiveError(DecryptorError):
    """The authentic content is not a zip that may be unpacked."""


class LimitError(DecryptorError):
    """The tree has more bytes or members than allowed, or than there is room for."""


class KeyReleaseError(DecryptorError):
    """KMS did not release the data key."""


class TargetError(DecryptorError):
    """The tree cannot appear, or the script not run, where it should."""


class TimeLimitError(DecryptorError):
    """Something took longer than it may."""


def reason(error: Exception) -> str:
    """Return the message of *error* for a person; an unexpected class is named as a defect."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror}"
    defect = "" if isinstance(error, DecryptorError) else f" ({type(error).__name__}, a defect)"
    return f"{error}{defect}"


def printable(text: str) -> str:
    """Return *text* with everything escaped that could steer a terminal or begin a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
