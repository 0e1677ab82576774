#!/usr/bin/env python3
"""Seal a directory so that only one KMS key opens it.

    python3 envelope_encryptor.py encrypt -d application -k alias/enclavekey

The artifact: the length of the encrypted data key (4 bytes, big-endian), that key, a Fernet token
(https://github.com/fernet/spec) around a zip (PKWARE's APPNOTE.TXT) of what the directory holds.

Names are threads, arrows bounded queues: no core waits, and memory does not grow with size.
boto3 loads and asks for the key while the directory is listed and the first files read.

    read, deflate -.                   KMS
    read, deflate -+-> zip in order -> AES-CBC -> HMAC, base64 -> file
"""

from __future__ import annotations

import argparse
import errno
import gc
import itertools
import os
import signal
import stat
import struct
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import BinaryIO, NamedTuple, NoReturn, TypeVar

# Faster where installed, with the same functions and format.
try:
    from isal import isal_zlib as zlib
except ImportError:
    import zlib  # type: ignore[no-redef]
try:
    from pybase64 import urlsafe_b64encode
except ImportError:
    from base64 import urlsafe_b64encode  # type: ignore[assignment]

Item = TypeVar("Item")
Progress = Callable[[int, int, int], None]

KEY_LENGTH = struct.Struct(">I")  # in front of the encrypted data key
TOKEN_HEAD = struct.Struct(">BQ16s")  # version, Unix time, IV
TOKEN_VERSION = 0x80
HALF_KEY = 16  # bytes of the data key that sign; the others encrypt
AES_BLOCK = 16  # bytes

PIECE = 1 << 20  # bytes at a time; a longer file is large
DEPTH = 2  # items a thread may be ahead of its reader
LANES = max(2, min(4, os.cpu_count() or 1))  # threads for small files
FILE_COST = 4096  # what opening a file costs, in bytes
SAMPLES, SAMPLE = 4, 1 << 14  # places to look at in a file, bytes at each
WORTHWHILE = 0.9  # store what does not shrink so far

STORED, DEFLATED = 0, 8
FIELDS = struct.Struct("<3H4I2H")  # in a header and in the zip's directory
LISTED = struct.Struct("<3H2I")  # in the directory alone
LISTED64 = struct.Struct("<2H3Q")
SIZES_ARE_WIDE = struct.pack("<2H2Q", 1, 16, 0, 0)  # those in the descriptor
DESCRIPTOR64 = struct.Struct("<4sI2Q")
END64 = struct.Struct("<4sQ2sH2I4Q4sIQI")  # the record, then its locator
END = struct.Struct("<4s4H2IH")
ZIP_VERSION = 45  # the first with zip64
MADE_BY = bytes([ZIP_VERSION, 3])  # on Unix
UTF8_NAME, SIZES_FOLLOW = 1 << 11, 1 << 3
MAX16, MAX32 = 0xFFFF, 0xFFFFFFFF
EARLIEST, LATEST = 315532800, 4354819198  # Unix times: 1980 to 2107

START = time.monotonic()
ERASE = "\r\33[K" if sys.stderr.isatty() else ""
HINTS = {  # by errno, botocore's class or KMS's code
    errno.EACCES: "give this user access",
    errno.ENOSPC: "free some room, or choose another -o",
    "AccessDeniedException": "allow kms:GenerateDataKey",
    "ModuleNotFoundError": "pip install boto3 cryptography",
    "NoCredentialsError": "sign in, or run with a role",
    "NoRegionError": "pass --region, or the key's ARN",
}


class SealError(Exception):
    """What failed, why, and what to do."""


class Ahead(Iterator[Item]):
    """Runs a generator in a thread, DEPTH items ahead of its reader, who gets its errors."""

    def __init__(self, source: Generator[Item]) -> None:
        """Start at once."""
        self._items: SimpleQueue[Item | BaseException] = SimpleQueue()
        self._room = Semaphore(DEPTH)
        self._closed = False
        self._thread = Thread(target=self._run, args=(source,), daemon=True)
        self._thread.start()

    def _run(self, source: Generator[Item]) -> None:
        end: BaseException = StopIteration()
        try:
            with closing(source):
                for item in source:
                    self._room.acquire()
                    if self._closed:
                        return
                    self._items.put(item)
        except BaseException as error:  # noqa: BLE001 - the reader raises it
            end = error
        self._items.put(end)

    def __next__(self) -> Item:
        """Wait for an item."""
        item = self._items.get()
        self._room.release()
        if isinstance(item, BaseException):
            self._items.put(item)
            raise item
        return item

    def close(self) -> None:
        """Stop, and wait for the thread to end."""
        self._closed = True
        self._room.release()
        self._thread.join()


class Entry(NamedTuple):
    """A file, or a directory (its path ends with a slash), as first seen."""

    path: str  # after the root's
    root: str  # ends with a slash
    mode: int
    size: int  # bytes; a directory has none
    mtime_ns: int
    inode: int


def seen(path: str, root: str, status: os.stat_result) -> Entry:
    """Return what the system says as an Entry."""
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return Entry(path, root, status.st_mode, size, status.st_mtime_ns, status.st_ino)


def walk(root: str) -> Iterator[Entry]:
    """Yield what is under *root* by the bytes of its path."""
    # UTF-8 sorts as its code points do; directories' paths end with a slash.
    waiting = sorted(children(root, ""), reverse=True)
    while waiting:
        yield (entry := waiting.pop())
        if entry.path.endswith("/"):
            waiting += sorted(children(root, entry.path), reverse=True)


def children(root: str, directory: str) -> Iterator[Entry]:
    """Yield a directory's own entries; links become what they name."""
    with os.scandir(root + directory) as items:
        for item in items:
            path = directory + item.name
            if path.encode(errors="ignore") != os.fsencode(path):
                raise SealError(f"{path}: the name is not UTF-8: rename it")
            if item.is_symlink():
                check_link(root, item.path)
            status = item.stat()
            if stat.S_ISDIR(status.st_mode):
                path += "/"
            elif not stat.S_ISREG(status.st_mode):
                raise SealError(f"{path}: is no file, no directory: remove it")
            yield seen(path, root, status)


def check_link(root: str, link: str) -> None:
    """Refuse a link that leads out of *root*, or back to a directory it is in."""
    target = os.path.realpath(link)
    if not f"{target}/".startswith(root):
        raise SealError(f"{link}: links to {target}, outside: copy that")
    if any(os.path.realpath(above) == target for above in Path(link).parents):
        raise SealError(f"{link}: links to {target}, which it is in: remove it")


@contextmanager
def opened(entry: Entry) -> Iterator[int]:
    """Open a file that is read whole; refuse one that is not what was first seen."""
    # A pipe in the file's place must not block.
    fd = os.open(entry.root + entry.path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield fd
        unchanged = seen(entry.path, entry.root, os.fstat(fd)) == entry
        if not unchanged or os.lseek(fd, 0, os.SEEK_CUR) != entry.size:
            raise SealError(f"{entry.path}: changed while it was read: seal it at rest")
    except OSError as error:
        raise OSError(error.errno, error.strerror, entry.path) from error
    finally:
        os.close(fd)


def worthwhile(fd: int, size: int) -> bool:
    """Tell by samples whether a file is worth deflating."""
    if size <= SAMPLES * SAMPLE:
        return True
    places = range(size // SAMPLES // 2, size, size // SAMPLES)
    sample = b"".join(os.pread(fd, SAMPLE, place) for place in places)
    return len(zlib.compress(sample, 1, -15)) < WORTHWHILE * len(sample)


def read(entry: Entry) -> tuple[bytes, bytes]:
    """Return a small file's contents as they are and as the zip has them."""
    with opened(entry) as fd:
        data = os.read(fd, entry.size + 1)
        body = zlib.compress(data, 1, -15) if worthwhile(fd, entry.size) else data
    return data, body if len(body) < len(data) else data


class Member(NamedTuple):
    """An entry as the zip tells it."""

    entry: Entry
    method: int
    crc: int = 0
    packed: int = 0  # bytes

    def told(self, offset: int = -1) -> bytes:
        """Return the member's header, or, by its offset, what the zip's directory says.

        A large file is read once: checksum and sizes follow it, as when zipfile writes to a pipe.
        The directory has them, too.
        """
        entry, method, crc, packed = self
        name, size, large = entry.path.encode(), entry.size, entry.size > PIECE
        signature, extra, listed = b"PK\3\4", b"", b""
        if offset >= 0:
            if max(size, packed, offset) >= MAX32:
                extra = LISTED64.pack(1, 24, size, packed, offset)
                size = packed = offset = MAX32
            runs = entry.mode & (stat.S_IFDIR | 0o111)
            mode = stat.S_IFMT(entry.mode) | (0o755 if runs else 0o644)
            signature = b"PK\1\2" + MADE_BY
            listed = LISTED.pack(0, 0, 0, mode << 16, offset)
        elif large:
            size, packed, extra = MAX32, MAX32, SIZES_ARE_WIDE
        t = time.gmtime(max(EARLIEST, min(LATEST, entry.mtime_ns // 10**9)))
        date = (t.tm_year - 1980) << 9 | t.tm_mon << 5 | t.tm_mday
        when = date << 16 | t.tm_hour << 11 | t.tm_min << 5 | t.tm_sec // 2
        flags = UTF8_NAME | (SIZES_FOLLOW if large else 0)
        numbers = ZIP_VERSION, flags, method, when, crc, packed, size, len(name), len(extra)
        return signature + FIELDS.pack(*numbers) + listed + name + extra


Batch = tuple[list[tuple[int, Member]], bytes]  # members with their starts in the bytes


def packed(batches: list[list[Entry]]) -> Generator[Batch]:
    """Make a part of the zip of each batch of small files."""
    for batch in batches:
        members, part = [], bytearray()
        for entry in batch:
            data, body = read(entry) if stat.S_ISREG(entry.mode) else (b"", b"")
            method = STORED if len(body) == len(data) else DEFLATED
            member = Member(entry, method, zlib.crc32(data), len(body))
            members.append((len(part), member))
            part += member.told() + body
        yield members, bytes(part)


class Archive:
    """The zip of a directory, made while the directory is read."""

    def __init__(self, root: str) -> None:
        """List what *root*, a resolved path, holds."""
        self._entries = list(walk(root))
        if not self._entries:
            raise SealError(f"{root}: is empty: choose another -d")
        self.size = sum(entry.size for entry in self._entries)
        self.done = 0  # bytes of contents, of *size*
        self._offset = 0  # in the zip
        self._listing = bytearray()

    def chunks(self) -> Generator[bytes]:
        """Yield the zip's bytes."""
        for large, run in itertools.groupby(self._entries, lambda entry: entry.size > PIECE):
            for chunk in self._large(run) if large else self._small(list(run)):
                yield chunk
                self._offset += len(chunk)
        yield bytes(self._listing)
        size, count, end = len(self._listing), len(self._entries), self._offset
        if count >= MAX16 or end + size >= MAX32:
            record = b"PK\6\6", 44, MADE_BY, ZIP_VERSION, 0, 0, count, count, size, end
            yield END64.pack(*record, b"PK\6\7", 0, end + size, 1)
        count, size, end = min(count, MAX16), min(size, MAX32), min(end, MAX32)
        yield END.pack(b"PK\5\6", 0, 0, count, count, size, end, 0)

    def _large(self, run: Iterable[Entry]) -> Iterator[bytes]:
        for entry in run:
            start, crc, length = self._offset, 0, 0
            with opened(entry) as fd:
                method = DEFLATED if worthwhile(fd, entry.size) else STORED
                yield Member(entry, method).told()
                stream = zlib.compressobj(1, DEFLATED, -15)
                for _ in range(0, entry.size, PIECE):
                    data = os.read(fd, PIECE)
                    crc = zlib.crc32(data, crc)
                    chunk = stream.compress(data) if method == DEFLATED else data
                    length += len(chunk)
                    self.done += len(data)
                    yield chunk
            last = stream.flush() if method == DEFLATED else b""
            length += len(last)
            yield last + DESCRIPTOR64.pack(b"PK\7\10", crc, length, entry.size)
            self._listing += Member(entry, method, crc, length).told(start)

    def _small(self, run: list[Entry]) -> Iterator[bytes]:
        # A batch costs about as much as a PIECE; lanes take turns.
        costs = itertools.accumulate(entry.size + FILE_COST for entry in run)
        batches = [list(b) for _, b in itertools.groupby(run, lambda _: next(costs) // PIECE)]
        lanes = [Ahead(packed(batches[lane::LANES])) for lane in range(LANES)]
        try:
            for lane, _ in zip(itertools.cycle(lanes), batches, strict=False):
                members, chunk = next(lane)
                for start, member in members:
                    self._listing += member.told(self._offset + start)
                    self.done += member.entry.size
                yield chunk
        finally:
            for lane in lanes:
                lane.close()


class DataKey:
    """A new data key at work; its plaintext is in no attribute."""

    def __init__(self, key_id: str, region: str | None) -> None:
        """Ask KMS."""
        try:
            # These take longer to load than --help may.
            import hmac

            import boto3
            from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

            if region is None and key_id.startswith("arn:"):
                region = key_id.split(":")[3]
            kms = boto3.client("kms", region_name=region)
            answer = kms.generate_data_key(KeyId=key_id, KeySpec="AES_256")
        except Exception as error:  # botocore's errors have no base of their own
            code = getattr(error, "response", {}).get("Error", {}).get("Code")
            hint = HINTS.get(code or type(error).__name__, "check the key, the region, the network")
            raise SealError(f"data key under {key_id}: {error}: {hint}") from error
        self.arn, self.encrypted = answer["KeyId"], answer["CiphertextBlob"]
        self._iv = os.urandom(AES_BLOCK)
        plain = answer["Plaintext"]
        self._hmac = hmac.new(plain[:HALF_KEY], digestmod="sha256")
        cipher = Cipher(algorithms.AES(plain[HALF_KEY:]), modes.CBC(self._iv))
        self._encryptor = cipher.encryptor()

    def ciphertext(self, chunks: Iterable[bytes]) -> Generator[bytes]:
        """Encrypt *chunks*, padded as PKCS7 says."""
        length = 0
        for chunk in chunks:
            length += len(chunk)
            yield self._encryptor.update(chunk)
        padding = AES_BLOCK - length % AES_BLOCK
        yield self._encryptor.update(bytes([padding]) * padding)

    def token(self, blocks: Iterable[bytes]) -> Generator[bytes]:
        """Yield the text of the token around *blocks* of ciphertext."""
        rest = TOKEN_HEAD.pack(TOKEN_VERSION, int(time.time()), self._iv)
        self._hmac.update(rest)
        for block in blocks:
            self._hmac.update(block)
            data = rest + block
            whole = len(data) // 3 * 3  # base64 pads only at the end
            yield urlsafe_b64encode(memoryview(data)[:whole])
            rest = data[whole:]
        yield urlsafe_b64encode(rest + self._hmac.digest())


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """Give a file that becomes *target* in the end, or vanishes."""
    unfinished = target.with_name(f".{target.name}.{os.urandom(4).hex()}")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
        folder = os.open(target.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    finally:
        unfinished.unlink(missing_ok=True)


def seal(directory: str, key_id: str, output: str, region: str | None, progress: Progress) -> str:
    """Seal what *directory* holds into the file *output*, which appears whole or not at all.

    Returns the ARN of the KMS key. Without *region* that of *key_id* counts, if it is an ARN, else
    AWS's configuration. *progress* is told the bytes read, those to read, and those written.
    Raises SealError or OSError; then nothing was written.
    """
    root, target = Path(directory).resolve(), Path(output).resolve()
    if not root.is_dir():
        raise SealError(f"{directory}: is not a directory: choose another -d")
    if target.is_relative_to(root):
        raise SealError(f"{output}: is inside {directory}: choose another -o")
    if target.exists() and not target.is_file():
        raise SealError(f"{output}: is not a file: choose another -o")
    # Not closed, so that no failure waits for KMS.
    asked = Ahead(DataKey(key_id, region) for _ in range(1))
    archive = Archive(f"{root}/")
    with replacing(target) as file, closing(Ahead(archive.chunks())) as chunks:
        key = next(asked)
        file.write(KEY_LENGTH.pack(len(key.encrypted)) + key.encrypted)
        with (
            closing(Ahead(key.ciphertext(chunks))) as blocks,
            closing(Ahead(key.token(blocks))) as texts,
        ):
            for text in texts:
                file.write(text)
                progress(archive.done, archive.size, file.tell())
    return key.arn


def show(done: int, size: int, written: int) -> None:
    """Say on a terminal how far it is, about every 16 MiB and at the end."""
    if ERASE and (done % (16 * PIECE) < PIECE or done == size):
        seconds = time.monotonic() - START
        rate = (done + 1) / seconds
        sizes = f"{done >> 20} of {size >> 20} MiB in, {written >> 20} MiB out, {seconds:.1f} s"
        say(f"{sizes}, {rate / 2**20:.0f} MiB/s, {(size - done) / rate:.0f} s left", end="")


def say(text: str, end: str = "\n") -> None:
    """Print *text* as one line that cannot steer a terminal, over the last."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    print(ERASE + line, end=end, file=sys.stderr, flush=True)


def interrupt(number: int, _frame: object) -> NoReturn:
    """End, once: cleaning up must not be interrupted."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Seal a directory for one KMS key.")
    encrypt = parser.add_subparsers(required=True, metavar="encrypt").add_parser("encrypt")
    encrypt.add_argument("-d", metavar="DIR", required=True, help="directory to seal")
    encrypt.add_argument("-k", metavar="KEY", required=True, help="id, ARN or alias of a KMS key")
    encrypt.add_argument(
        "-o", metavar="FILE", default="application_code.zip.encrypted", help="%(default)s"
    )
    encrypt.add_argument("--region", help="the key's, unless its ARN or AWS's settings say it")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        print(seal(options.d, options.k, options.o, options.region, show), flush=True)
    except SystemExit as error:
        say("error: interrupted: nothing was written")
        return int(error.code or 0)
    except OSError as error:
        hint = HINTS.get(error.errno, "mend that")
        say(f"error: {error.filename or options.o}: {error.strerror}: {hint}")
    except Exception as error:  # noqa: BLE001 - no user shall see a traceback
        defect = "" if isinstance(error, SealError) else f" ({type(error).__name__}, a defect)"
        say(f"error: {error}{defect}")
    else:
        print(end="\n" if ERASE else "", file=sys.stderr)
        return 0
    return 1


if __name__ == "__main__":
    gc.disable()  # boto3 loads a fifth faster, and no garbage here has cycles
    bytearray(PIECE << 4)  # freed, it makes glibc keep buffers: a tenth less time
    os._exit(main())  # without waiting for a thread that waits for KMS
