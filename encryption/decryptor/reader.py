"""Pass 2, lowest layer: the zip inside a verified token, decrypted where it is read.

In CBC, a block can be decrypted from the block before it alone. So the zip is read in place and is
never written out. What has been read is released to the file system, so that copy and tree together
need little more room than the larger of the two.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .errors import FormatError
from .format import BLOCK, TAG, TOKEN_HEAD
from .system import PAGE, punch_hole

if TYPE_CHECKING:
    from typing import BinaryIO

    from cryptography.hazmat.primitives.ciphers import CipherContext

    from .workers import Buffer

CHUNK = 1 << 19  # bytes decrypted at once; a multiple of BLOCK
RELEASED = 8 * CHUNK  # bytes read between two releases


class DecryptingReader:
    """The zip inside a verified token, decrypted where it is read; *size* is in bytes."""

    def __init__(self, copy: BinaryIO, data_key: bytes) -> None:
        """Read from *copy*, a verified token, decoded.

        Args:
            copy: the caller closes it.
            data_key: 32 raw bytes.

        Raises:
            FormatError: it has no PKCS7 padding.
        """
        self._copy = copy.fileno()
        self._key = data_key[BLOCK:]
        self.size = os.fstat(self._copy).st_size - TOKEN_HEAD - TAG
        last = self.read_at(self.size - BLOCK, BLOCK)
        padding = last[-1]
        if not 1 <= padding <= BLOCK or not last.endswith(bytes([padding]) * padding):
            raise FormatError(
                "the token's plaintext does not end in PKCS7 padding: was it made by this "
                "project's encryptor?"
            )
        self.size -= padding

    def read_at(self, offset: int, size: int) -> bytes:
        """Return the *size* bytes of plaintext at *offset*, fewer at the end; in any process."""
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        first, end = offset // BLOCK, -(-(offset + size) // BLOCK)
        # The IV precedes the first block as every block precedes the next.
        start = TOKEN_HEAD + (first - 1) * BLOCK
        blocks = memoryview(os.pread(self._copy, (end - first + 1) * BLOCK, start))
        plaintext = _cbc_decryptor(self._key, blocks[:BLOCK]).update(blocks[BLOCK:])
        skipped = offset - first * BLOCK
        return plaintext[skipped : skipped + size]

    def page_after(self, offset: int) -> int:
        """Return the first page of the copy after the block that contains *offset*."""
        return -(-(TOKEN_HEAD + offset // BLOCK * BLOCK + BLOCK) // PAGE) * PAGE

    def release(self, page: int, end: int) -> int:
        """Free the pages of the copy from *page* up to what is needed to read from *end* on.

        Returns:
            The first page kept: the block at *end* is decrypted with the block before it.
        """
        kept = (TOKEN_HEAD + end - 2 * BLOCK) // PAGE * PAGE
        return kept if page < kept and punch_hole(self._copy, page, kept) else page

    def releases(self) -> bool:
        """Return whether `release` frees anything on this file system."""
        end = TOKEN_HEAD + self.size + BLOCK + TAG
        return punch_hole(self._copy, end, end + PAGE)


def _cbc_decryptor(key: bytes, iv: Buffer) -> CipherContext:
    # The import takes longer than pass 1 of a small artifact.
    from cryptography.hazmat.primitives.ciphers import (
        Cipher,
        algorithms,
        modes,
    )

    return Cipher(algorithms.AES128(key), modes.CBC(bytes(iv))).decryptor()


class Window:
    """Small sequential reads from a DecryptingReader, decrypting CHUNK bytes at a time.

    After every RELEASED bytes, what was read before is released.
    """

    def __init__(self, zipped: DecryptingReader, start: int) -> None:
        """Read from *zipped*, from *start* on."""
        self._zipped = zipped
        self._start = self._released = start
        self._page = zipped.page_after(start)
        self._data = memoryview(b"")

    def read(self, offset: int, size: int) -> memoryview:
        """Return the *size* bytes at *offset*, fewer at the zip's end."""
        if offset < self._start or offset + size > self._start + len(self._data):
            if offset >= self._released + RELEASED:
                self.release(offset)
            self._start = offset
            self._data = memoryview(self._zipped.read_at(offset, max(size, CHUNK)))
        return self._data[offset - self._start :][:size]

    def release(self, end: int) -> None:
        """Free everything between the last release and *end*."""
        self._page, self._released = self._zipped.release(self._page, end), end
