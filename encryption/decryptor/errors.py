"""The decryptor's errors: each class is one kind of failure, each message is for the user."""

from __future__ import annotations


class DecryptorError(Exception):
    """An artifact was not decrypted, or its script was not run."""


class FormatError(DecryptorError):
    """The file does not have exactly the artifact's format."""


class AuthenticationError(DecryptorError):
    """The token is not authentic under this data key."""


class OutdatedError(DecryptorError):
    """The token is authentic, but older than the image accepts."""


class ArchiveError(DecryptorError):
    """The authenticated content is not a zip that may be unpacked."""


class LimitError(DecryptorError):
    """The tree has more bytes or members than the limits or the file system allow."""


class KeyReleaseError(DecryptorError):
    """KMS did not release the data key."""


class TargetError(DecryptorError):
    """The tree cannot be created, or the script cannot be run."""


class TimeLimitError(DecryptorError):
    """A time limit was exceeded."""


def reason(error: Exception) -> str:
    """Return the message of *error* for the user; an unexpected class is reported as a bug."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror}"
    if isinstance(error, DecryptorError):
        return str(error)
    return f"{error} (unexpected {type(error).__name__}, please report it)"


def printable(text: str) -> str:
    """Return *text* with everything escaped that could control a terminal or begin a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
