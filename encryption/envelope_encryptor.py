#!/usr/bin/env python3
"""Encrypt a directory under an AWS KMS key.

    python3 envelope_encryptor.py encrypt -d application -k alias/enclavekey

The result, called the artifact, has three parts:

    4 bytes   n, the length of the encrypted data key: unsigned, big-endian
    n bytes   the encrypted data key, as KMS returned it (CiphertextBlob)
    the rest  a Fernet token around a zip of the directory

Data passes through these stages, which stand in this order in the file. A stage is a generator
that takes chunks of bytes from the stage before it; prefetch() runs the first half in a thread.

    list_entries > Archive.chunks > encrypt_cbc > authenticate > encode > the output file

Formats: https://github.com/fernet/spec (token), PKWARE's APPNOTE.TXT 6.3.10 (zip), RFC 1951
(deflate), RFC 5652 section 6.3 (padding).
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import gc
import hmac
import os
import signal
import stat
import sys
import time
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from struct import Struct, pack
from threading import Event, Semaphore, Thread
from typing import Any, BinaryIO, NamedTuple

# Both are optional, and make encryption two to three times as fast: isal deflates five times as
# fast as zlib, pybase64 encodes twenty times as fast as base64.
with suppress(ImportError):
    from pybase64 import urlsafe_b64encode
fast_zlib: Any = zlib
with suppress(ImportError):
    from isal import isal_zlib as fast_zlib

RELEASE = "0.2.0"  # as in pyproject.toml; a test compares

# --- format constants ----------------------------------------------------------------------------

KEY_LENGTH = Struct(">I")
TOKEN_HEADER = Struct(">BQ16s")  # version, Unix time in seconds, initialization vector
TOKEN_VERSION = 0x80
HALF_KEYS = Struct("16s16s")  # of a data key: the first half signs, the second half encrypts
AES_BLOCK = 16  # bytes

LOCAL_FILE_HEADER = b"PK\x03\x04"
DATA_DESCRIPTOR = b"PK\x07\x08"
CENTRAL_DIRECTORY_HEADER = b"PK\x01\x02"
ZIP64_END_OF_CENTRAL_DIRECTORY = b"PK\x06\x06"
ZIP64_LOCATOR = b"PK\x06\x07"
END_OF_CENTRAL_DIRECTORY = b"PK\x05\x06"
# The fields that a member's local and central header share: version needed to extract, flags,
# method, time and date, CRC-32, compressed size, size, length of the name.
SHARED_FIELDS = Struct("<3H4IH")
STORED, DEFLATED = 0, 8
HAS_DATA_DESCRIPTOR, NAME_IS_UTF8 = 1 << 3, 1 << 11
VERSION = 45  # 4.5, the first with zip64
MADE_BY = bytes([VERSION, 3])  # on Unix
HEADERS_MAX = 150  # bytes of a member's headers without its name
ZIP64_FIELD = 1  # the extra field's tag
MAX16, MAX32 = 0xFFFF, 0xFFFFFFFF
# Files larger than this use zip64 fields. The margin exceeds deflate's growth: isal's is 0.05 %.
ZIP64_FROM = MAX32 - (1 << 22)
EARLIEST, LATEST = 315532800, 4354819198  # Unix times: a zip knows the years 1980 to 2107

RAW = -15  # deflate without zlib's header, in a window of 32 KiB

CHUNK = 8 * MAX16  # bytes at a time; a longer file is large, and never whole in memory
MEMBERS_MAX = 1_000_000  # the decryptor's default limit
LINKS_MAX = 20_000  # nested links to directories can multiply paths exponentially
SAMPLES, SAMPLE_SIZE = 4, 1 << 14  # how many samples of a file, bytes of each
MEMBER_COST = 4096  # overhead per small file, in bytes: bounds the files in a batch
COMPRESSIBLE = 0.9  # samples shrink to less than this part
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
PREFETCHED = 3  # chunks between two threads
START = time.monotonic()
ERASE_LINE = "\r\033[K" if sys.stderr and sys.stderr.isatty() else ""
ARTIFACT_NAME = "application_code.zip.encrypted"
ARN_FIELDS = 6
PR_SET_DUMPABLE, STANDARD_ERROR = 4, 2
NO_UNNAMED_FILES = errno.EISDIR, errno.EOPNOTSUPP
HINTS: dict[Any, str] = {  # by the kind of error
    errno.EACCES: "give this user access",
    errno.ENOSPC: "free space, or choose another output (-o)",
    "AccessDeniedException": "allow kms:GenerateDataKey on it",
    "ModuleNotFoundError": "pip install boto3 cryptography",
    "NoCredentialsError": "sign in, or run with a role",
}
drafts: list[str] = []  # unfinished files that have a name
STOP_SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT


class EncryptError(Exception):
    """What failed, why, and what to do, in one line."""


# --- the directory -------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A file or directory as it was listed."""

    path: str  # relative to the root; a directory's ends with a slash
    mode: int
    size: int  # bytes; 0 for a directory
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def from_stat(cls, path: str, status: os.stat_result) -> Entry:
        """Return the entry at *path* that has this *status*."""
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        times = status.st_mtime_ns, status.st_ctime_ns
        return cls(path, status.st_mode, size, *times, status.st_ino)


def list_entries(root: str) -> list[Entry]:
    """Return all that is below *root*, sorted by path, whatever the order on the disk.

    A symbolic link is listed as what it refers to. *root* is resolved and ends with a slash.
    """
    entries: list[Entry] = []
    checked: set[object] = set()  # links, by their directory and inode
    followed = 0
    top = identity(os.stat(root))
    directories = [("", top, frozenset({top}))]
    while directories:
        directory, this_directory, parents = directories.pop()
        with os.scandir(root + directory) as items:
            for item in items:
                path, link = directory + item.name, (this_directory, item.inode())
                if item.is_symlink() and link not in checked:
                    check_link(root, item.path)
                    checked.add(link)
                entry = checked_entry(path, item.stat())
                entries.append(entry)
                if entry.path.endswith("/"):
                    child = identity(item.stat())
                    if child in parents:
                        raise EncryptError(f"{path}: contains itself: remove the link")
                    directories.append((entry.path, child, parents | {child}))
                    followed += item.is_symlink()
                if followed > LINKS_MAX or len(entries) > MEMBERS_MAX:
                    raise EncryptError(f"{root}: too many files or links to folders: remove some")
    return sorted(entries)


def identity(status: os.stat_result) -> tuple[int, int]:
    """Return what tells a directory from every other, whatever path leads to it."""
    return status.st_dev, status.st_ino


def check_link(root: str, link: str) -> None:
    """Refuse a link that leads out of *root*."""
    target = os.path.realpath(link)
    if not f"{target}/".startswith(root):
        raise EncryptError(f"{link}: links to {target}, outside {root}: replace it with a copy")


def checked_entry(path: str, status: os.stat_result) -> Entry:
    """Return the entry at *path*, unless it cannot become a member of a zip."""
    if path.encode(errors="ignore") != os.fsencode(path) or "\\" in path:  # some unzips split there
        raise EncryptError(f"{path}: has a backslash or is not UTF-8: rename it")
    entry = Entry.from_stat(path, status)
    if stat.S_ISDIR(entry.mode):
        return entry._replace(path=f"{path}/")
    if not stat.S_ISREG(entry.mode):
        raise EncryptError(f"{path}: not a regular file or directory: remove it")
    return entry


@contextmanager
def open_unchanged(root: str, entry: Entry) -> Iterator[int]:
    """Open a file to be read to its end; refuse it if its size, times or inode have changed."""
    fd = os.open(root + entry.path, os.O_RDONLY | os.O_NONBLOCK)  # a named pipe would block
    try:
        yield fd
        now = Entry.from_stat(entry.path, os.fstat(fd))
        if now != entry or os.lseek(fd, 0, os.SEEK_CUR) != entry.size:
            raise EncryptError(f"{entry.path}: changed while it was read: stop what writes to it")
    except OSError as error:
        error.filename = entry.path
        raise
    finally:
        os.close(fd)


# --- the zip -------------------------------------------------------------------------------------


def shared_fields(entry: Entry, flags: int, method: int, crc: int, *sizes: int) -> bytes:
    """Return the fields that a member's two headers share; *sizes*: compressed, then not."""
    seconds = max(EARLIEST, min(LATEST, entry.mtime_ns // 10**9))
    year, month, day, hour, minute, second, *_ = time.gmtime(seconds)
    date = (year - 1980) << 9 | month << 5 | day
    date_time = date << 16 | hour << 11 | minute << 5 | second // 2
    flags |= NAME_IS_UTF8
    name_length = len(entry.path.encode())
    return SHARED_FIELDS.pack(VERSION, flags, method, date_time, crc, *sizes, name_length)


def local_file_header(entry: Entry, fields: bytes, extra: bytes = b"") -> bytes:
    """Return what precedes a member's data."""
    return LOCAL_FILE_HEADER + fields + pack("<H", len(extra)) + entry.path.encode() + extra


def central_directory_header(entry: Entry, fields: bytes, offset: int, zip64: bytes = b"") -> bytes:
    """Return a member's header in the central directory; its local one is at *offset*.

    *zip64* holds the sizes that do not fit into *fields*.
    """
    if offset > ZIP64_FROM:
        zip64, offset = zip64 + pack("<Q", offset), MAX32
    extra = pack("<2H", ZIP64_FIELD, len(zip64)) + zip64 if zip64 else b""
    # Of the mode, only the kind of entry and the executable bits are kept.
    executable = entry.mode & (stat.S_IFDIR | 0o111)
    mode = stat.S_IFMT(entry.mode) | (0o755 if executable else 0o644)
    rest = pack("<4H2I", len(extra), 0, 0, 0, mode << 16, offset)  # no comment, disk 0
    return CENTRAL_DIRECTORY_HEADER + MADE_BY + fields + rest + entry.path.encode() + extra


def end_of_central_directory(count: int, size: int, offset: int) -> bytes:
    """Return the end of the zip: how many members, and where the central directory is."""
    end = b""
    if count >= MAX16 or offset + size > ZIP64_FROM:
        end += ZIP64_END_OF_CENTRAL_DIRECTORY + pack("<Q", 44) + MADE_BY + pack("<H", VERSION)
        end += pack("<2I4Q", 0, 0, count, count, size, offset)
        end += ZIP64_LOCATOR + pack("<IQI", 0, offset + size, 1)
    count, size, offset = min(count, MAX16), min(size, MAX32), min(offset, MAX32)
    return end + END_OF_CENTRAL_DIRECTORY + pack("<4H2IH", 0, 0, count, count, size, offset, 0)


class StoredBlocks:
    """A compressor that only stores. zlib's own, level 0, takes a tenth more of the whole time."""

    def compress(self, data: bytes) -> bytes:
        """Return *data* in blocks, each after its length and the complement of that."""
        view = memoryview(data)
        blocks = [view[at : at + MAX16] for at in range(0, len(data), MAX16)]
        return b"".join(p for b in blocks for p in (pack("<BHH", 0, len(b), len(b) ^ MAX16), b))

    def flush(self) -> bytes:
        """Return the last block, which is empty."""
        return pack("<BHH", 1, 0, MAX16)


def deflate(data: bytes) -> bytes:
    """Compress *data* quickly, without zlib's header."""
    compressor = fast_zlib.compressobj(1, DEFLATED, RAW)
    return bytes(compressor.compress(data) + compressor.flush())


def is_compressible(fd: int, size: int) -> bool:
    """Tell from samples whether a file is worth compressing; a short one is always tried."""
    if size <= 2 * SAMPLES * SAMPLE_SIZE:
        return True
    offsets = range(size // SAMPLES // 2, size, size // SAMPLES)
    sample = b"".join(os.pread(fd, SAMPLE_SIZE, offset) for offset in offsets)
    return len(deflate(sample)) < COMPRESSIBLE * len(sample)


def compress_file(root: str, entry: Entry) -> tuple[bytes, bytes]:
    """Return the shared fields of a small file, or a directory, and its data."""
    data = smaller = b""
    if not entry.path.endswith("/"):
        with open_unchanged(root, entry) as fd:
            data = smaller = os.read(fd, entry.size + 1)
            if is_compressible(fd, entry.size):
                smaller = min(data, deflate(data), key=len)
    if data.startswith(LFS_POINTER):
        hint = "run git lfs pull, or store the file itself"
        raise EncryptError(f"{entry.path}: a Git LFS pointer, not the file: {hint}")
    method = STORED if len(smaller) == len(data) else DEFLATED
    crc = fast_zlib.crc32(data)
    return shared_fields(entry, 0, method, crc, len(smaller), len(data)), smaller


def batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Group small files into about a chunk each; a large file stands alone."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        if batch and size + entry.size > CHUNK:
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += entry.size + MEMBER_COST
    yield batch


class Archive:
    """The zip of a directory, made while the directory is read."""

    def __init__(self, root: str) -> None:
        """List what is below *root*."""
        self.root = root
        self.entries = list_entries(root)
        self.size = sum(entry.size for entry in self.entries)
        self.read = 0  # bytes, of size
        self._offset = 0  # in the zip
        self._central_directory = bytearray()

    def chunks(self) -> Iterator[bytes]:
        """Yield the zip."""
        for batch in batches(self.entries):
            is_large = batch[0].size > CHUNK  # then it is alone
            for chunk in self._large(batch[0]) if is_large else self._small(batch):
                yield chunk
                self._offset += len(chunk)
        directory = bytes(self._central_directory)
        yield directory
        yield end_of_central_directory(len(self.entries), len(directory), self._offset)

    def _small(self, batch: list[Entry]) -> Iterator[bytes]:
        """Yield small files and directories, whose sizes are known before they are written."""
        members = bytearray()
        for entry in batch:
            fields, data = compress_file(self.root, entry)
            offset = self._offset + len(members)
            self._central_directory += central_directory_header(entry, fields, offset)
            members += local_file_header(entry, fields) + data
            self.read += entry.size
        yield bytes(members)

    def _large(self, entry: Entry) -> Iterator[bytes]:
        """Yield a large file, whose checksum and compressed size follow it in a descriptor.

        What does not compress is in stored blocks of deflate: readers of streams refuse a member
        that is STORED and has a descriptor.
        """
        offset, crc, compressed_size = self._offset, 0, 0
        zip64 = pack("<2H2Q", ZIP64_FIELD, 16, 0, 0) if entry.size > ZIP64_FROM else b""
        placeholder = MAX32 if zip64 else 0
        fields = shared_fields(entry, HAS_DATA_DESCRIPTOR, DEFLATED, 0, placeholder, placeholder)
        yield local_file_header(entry, fields, zip64)
        with open_unchanged(self.root, entry) as fd:
            compressor = StoredBlocks()
            if is_compressible(fd, entry.size):
                compressor = fast_zlib.compressobj(1, DEFLATED, RAW)
            for _ in range(0, entry.size, CHUNK):
                data = os.read(fd, CHUNK)
                crc = fast_zlib.crc32(data, crc)
                compressed = compressor.compress(data)
                compressed_size += len(compressed)
                self.read += len(data)
                yield compressed
        last = compressor.flush()
        sizes = compressed_size + len(last), entry.size
        yield last + pack("<4sI2Q" if zip64 else "<4s3I", DATA_DESCRIPTOR, crc, *sizes)
        in_zip64 = pack("<2Q", *reversed(sizes)) if zip64 else b""
        sizes = (MAX32, MAX32) if zip64 else sizes
        fields = shared_fields(entry, HAS_DATA_DESCRIPTOR, DEFLATED, crc, *sizes)
        self._central_directory += central_directory_header(entry, fields, offset, in_zip64)


# --- the token -----------------------------------------------------------------------------------


def encrypt_cbc(chunks: Iterable[bytes], key: bytes, iv: bytes) -> Iterator[bytes]:
    """Encrypt with AES-128-CBC, padded as PKCS #7 says."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    length = 0
    for chunk in chunks:
        length += len(chunk)
        yield encryptor.update(chunk)
    padding = AES_BLOCK - length % AES_BLOCK
    yield encryptor.update(bytes([padding]) * padding)


def authenticate(ciphertext: Iterable[bytes], key: bytes, iv: bytes) -> Iterator[bytes]:
    """Yield the token: its header, the ciphertext, and the HMAC-SHA256 of both."""
    mac = hmac.new(key, digestmod="sha256")
    header = TOKEN_HEADER.pack(TOKEN_VERSION, int(time.time()), iv)
    mac.update(header)
    yield header
    for chunk in ciphertext:
        mac.update(chunk)
        yield chunk
    yield mac.digest()


def encode(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Encode in URL-safe base64; only the end of the text has padding."""
    rest = b""
    for chunk in filter(None, chunks):  # what is not empty has more than two bytes
        # The rest is completed on its own: copying every chunk took 5 % of the time for weights.
        start = -len(rest) % 3
        end = len(chunk) - (len(chunk) - start) % 3
        yield urlsafe_b64encode(rest + chunk[:start])
        yield urlsafe_b64encode(memoryview(chunk)[start:end])
        rest = chunk[end:]
    yield urlsafe_b64encode(rest)


@contextmanager
def prefetch(chunks: Iterable[bytes]) -> Iterator[Iterator[bytes]]:
    """Run a stage, and those before it, in a thread; the reader gets its chunks and errors."""
    ready, room, stop = SimpleQueue[Any](), Semaphore(PREFETCHED), Event()

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # the main thread handles them
        try:
            for chunk in chunks:
                ready.put(chunk)
                room.acquire()
                if stop.is_set():
                    return
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    def received() -> Iterator[bytes]:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            room.release()
            yield item

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        yield received()
    finally:
        stop.set()
        room.release()
        thread.join(1)  # it still runs only if a read hangs


# --- the data key --------------------------------------------------------------------------------


def generate_data_key(key_id: str, region: str | None) -> tuple[bytes, bytes, str]:
    """Have KMS generate a data key; return it, its encrypted form, and the KMS key's ARN."""
    try:
        import botocore.session  # loads faster than boto3

        fields = key_id.split(":")
        region_in_arn = fields[3] if fields[0] == "arn" and len(fields) == ARN_FIELDS else None
        # botocore itself knows AWS_DEFAULT_REGION and the profile's region, not AWS_REGION.
        region = region or region_in_arn or os.environ.get("AWS_REGION")
        kms: Any = botocore.session.get_session().create_client("kms", region_name=region)
        response = kms.generate_data_key(KeyId=key_id, KeySpec="AES_256")
        return response["Plaintext"], response["CiphertextBlob"], response["KeyId"]
    except Exception as error:  # botocore's have no common base class
        response = getattr(error, "response", None) or {}
        kind = response.get("Error", {}).get("Code") or type(error).__name__
        hint = HINTS.get(kind, "check the key, --region and the network")
        raise EncryptError(f"data key under {key_id}: {error}: {hint}") from error


# --- the artifact --------------------------------------------------------------------------------


Progress = Callable[[int, int], None]  # bytes read, of how many


def encrypt(
    directory: str, key_id: str, file: BinaryIO, region: str | None, progress: Progress
) -> tuple[Archive, str]:
    """Write the artifact of *directory* to *file*, which holds an unusable fragment on failure.

    If *region* is not given, it is the ARN's, then AWS_REGION, then the AWS configuration's.

    Returns:
        What was encrypted, and the ARN of the KMS key.

    Raises:
        Exception: message() says what, why, and what to do.
    """
    archive = Archive(os.path.join(os.path.realpath(directory), ""))
    if not archive.entries:
        raise EncryptError(f"{directory}: empty: choose another directory (-d)")
    check_space(archive, file)
    key, encrypted_key, key_arn = generate_data_key(key_id, region)
    signing_key, encryption_key = HALF_KEYS.unpack(key)
    iv = os.urandom(AES_BLOCK)
    file.write(KEY_LENGTH.pack(len(encrypted_key)) + encrypted_key)
    # Two threads, since the build has two processors; a third gained nothing.
    with prefetch(encrypt_cbc(archive.chunks(), encryption_key, iv)) as ciphertext:
        for text in encode(authenticate(ciphertext, signing_key, iv)):
            file.write(text)
            progress(archive.read, archive.size)
    return archive, key_arn


def check_space(archive: Archive, file: BinaryIO) -> None:
    """Refuse to begin what may not fit: incompressible data becomes a third larger."""
    names = sum(2 * len(entry.path.encode()) + HEADERS_MAX for entry in archive.entries)
    needed = int((archive.size * 1.001 + names) * 4 / 3)
    disk = os.fstatvfs(file.fileno())
    free = disk.f_bavail * disk.f_frsize
    if disk.f_blocks and needed > free:  # ramfs reports nothing
        hint = HINTS[errno.ENOSPC]
        raise EncryptError(f"output: up to {needed:,} bytes needed, {free:,} free: {hint}")


def check_output(directory: str, output: str) -> None:
    """Refuse a source that is not a directory, and an output that is not a file outside it."""
    root, target = os.path.join(os.path.realpath(directory), ""), os.path.realpath(output)
    if not directory or not os.path.isdir(root):
        raise EncryptError(f"{directory}: not a directory: choose another directory (-d)")
    if target.startswith(root):
        raise EncryptError(f"{output}: inside {directory}: choose another output (-o)")
    if os.path.exists(target) and not os.path.isfile(target):
        raise EncryptError(f"{output}: not a regular file: choose another output (-o)")


@contextmanager
def replacing(output: str) -> Iterator[BinaryIO]:
    """Give a file that becomes *output* in the end, replacing an earlier one, or never appears.

    It has no name while it is written: whatever ends the program, even SIGKILL, leaves nothing.
    Only where the file system cannot do that (NFS, for one) it has one from the start.
    """
    target = os.path.realpath(output)
    directory = os.path.dirname(target)
    draft = os.path.join(directory, f".{os.urandom(8).hex()}")
    try:
        try:
            fd = os.open(directory, getattr(os, "O_TMPFILE", 0) | os.O_WRONLY, 0o666)
        except OSError as error:
            if error.errno not in NO_UNNAMED_FILES:
                raise
            drafts.append(draft)
            fd = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        with open(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(fd)
            if not os.path.exists(draft):
                os.link(f"/proc/self/fd/{fd}", draft, src_dir_fd=fd, follow_symlinks=True)
        os.replace(draft, target)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft)


# --- the command line ----------------------------------------------------------------------------


def say(text: str, end: str = "\n") -> None:
    """Print *text* to standard error in the place of the progress, if it is open.

    A name from the directory can neither break the line nor control a terminal.
    """
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    with suppress(OSError, AttributeError):  # closed, before the start or since
        sys.stderr.write(f"{ERASE_LINE}{line}{end}")
        sys.stderr.flush()


def show_progress(read: int, size: int) -> None:
    """Show on a terminal how far it is, in a line that does not wrap."""
    if ERASE_LINE and (read % (32 * CHUNK) < CHUNK or read == size):  # not every time
        rate = max(read, 1) / (time.monotonic() - START)
        text = f"{read >> 20} of {size >> 20} MiB, {rate / 2**20:.0f} MiB/s, "
        text += f"{(size - read) / rate:.0f} s left"
        say(text[: os.get_terminal_size(STANDARD_ERROR).columns - 1], end="")


def message(error: Exception, output: str) -> str:
    """Return what failed, why, and what to do."""
    if isinstance(error, EncryptError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        hint = HINTS.get(error.errno, "check the path")
        return f"{error.filename or output}: {error.strerror}: {hint}"
    kind = type(error).__name__
    return f"{error}: {HINTS.get(kind, f'unexpected {kind}, please report it')}"


def protect_process() -> None:
    """Leave no core file, which would hold the data key; keep the standard streams' numbers."""
    with suppress(AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)
    # A stream that the caller closed would be the next file that is opened: the output, perhaps.
    while (fd := os.open(os.devnull, os.O_RDWR)) <= STANDARD_ERROR:
        pass
    os.close(fd)


def ignore_stop_signals() -> None:
    """Do not end before the rest is done."""
    for number in STOP_SIGNALS:  # with SIG_IGN, Python would complain of one that is pending
        signal.signal(number, lambda *_: None)


def stop(number: int, _frame: object) -> None:
    """End the program at once: in a callback of an import, an exception would be lost."""
    for draft in drafts:
        with suppress(OSError):
            os.unlink(draft)
    text = f"{ERASE_LINE}error: interrupted: nothing was written, start it again\n"
    with suppress(OSError):
        os.write(STANDARD_ERROR, text.encode())
    os._exit(128 + number)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description="Encrypt a directory under an AWS KMS key.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {RELEASE}")
    verb = parser.add_subparsers(required=True, metavar="encrypt").add_parser(
        "encrypt", epilog="example: %(prog)s -d application -k alias/enclavekey"
    )
    verb.add_argument("-d", metavar="DIR", required=True, help="the directory to encrypt")
    verb.add_argument("-k", metavar="KEY", required=True, help="KMS key: id, ARN, alias, alias ARN")
    verb.add_argument("-o", metavar="FILE", default=ARTIFACT_NAME, help="default: %(default)s")
    verb.add_argument("--region", help="the key's region; default: the ARN's, then AWS's settings")
    verb.add_argument("-v", "--verbose", action="store_true", help="say what was encrypted")
    return parser.parse_args()


def main() -> int:
    """Run the command line and return its exit status."""
    options = parse_arguments()
    protect_process()
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup sets it
            signal.signal(number, stop)
    try:
        check_output(options.d, options.o)
        with replacing(options.o) as file:
            archive, key_arn = encrypt(options.d, options.k, file, options.region, show_progress)
            ignore_stop_signals()
        say("", end="")
        if options.verbose:
            say(f"encrypted: {archive.size:,} bytes, {len(archive.entries):,} files and folders")
        # To standard output. What print() cannot write, Python tries again when it ends.
        try:
            os.write(1, f"{key_arn}\n".encode())
        except OSError as error:
            raise EncryptError(f"standard output: {error}: {options.o} is complete") from error
    except Exception as error:
        say(f"error: {message(error, options.o)}")
        return 1
    return 0


if __name__ == "__main__":
    # Freeing one large block makes glibc keep freed memory, which saves 12 to 38 % of the time.
    bytes(32 * CHUNK)
    # Neither cycles of objects nor the interpreter are cleaned up: together a tenth of the time.
    gc.disable()
    os._exit(main())
