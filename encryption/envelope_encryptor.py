#!/usr/bin/env python3
"""Seal a directory so that only one KMS key opens it.

    python3 envelope_encryptor.py encrypt -d application -k alias/enclavekey

The artifact: the length of the encrypted data key (4 bytes, big-endian), that key, a Fernet token
(https://github.com/fernet/spec) around a zip (PKWARE's APPNOTE.TXT) of what the directory holds.

Names are threads, boxes processes: small files hold the interpreter's lock.

    [ask KMS for a data key] ------------------,
    [read, deflate small files] -,             v
    [read, deflate small files] -+-> zip -> AES-CBC -> HMAC -> base64, file
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import gc
import hmac
import itertools
import os
import signal
import stat
import sys
import time
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from queue import SimpleQueue
from struct import Struct, pack
from threading import Thread
from typing import Any, BinaryIO, NamedTuple

with suppress(ImportError):  # faster
    from isal import isal_zlib as zlib  # type: ignore[no-redef]
with suppress(ImportError):
    from pybase64 import urlsafe_b64encode

Progress = Callable[[int, int, int], None]
Stream = Iterator[bytes]

LENGTH = Struct(">I")  # before an encrypted data key or an item
HALF_KEY = AES_BLOCK = 16  # bytes; the key's first half signs, the other encrypts
PIECE = 1 << 19  # bytes at a time; longer files are large
DEPTH = 3  # items between threads
LANES = min(4, os.cpu_count() or 1)  # processes
FILE_COST = 4096  # of opening it, in bytes
SAMPLES, SAMPLE = 4, 1 << 14  # places in a file, bytes at each
WORTHWHILE = 0.9  # store what does not shrink so far
STORED, DEFLATED = 0, 8
HEADER = Struct("<4s3H4I2H")
ZIP_VERSION = 45  # first with zip64
MADE_BY = bytes([ZIP_VERSION, 3])  # on Unix
UTF8_NAME, SIZES_FOLLOW = 1 << 11, 1 << 3
MAX16, MAX32 = 0xFFFF, 0xFFFFFFFF
EARLIEST, LATEST = 315532800, 4354819198  # 1980 to 2107
STOPS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
LISTENING = [os.getpid()]  # until signals are too late
START = time.monotonic()
ERASE = "\r\33[K" if os.isatty(2) else ""
HINTS = {  # by errno, class or KMS code
    errno.EACCES: "give this user access",
    errno.ENOSPC: "free room, or choose another -o",
    "AccessDeniedException": "allow kms:GenerateDataKey",
    "ModuleNotFoundError": "pip install boto3 cryptography",
    "NoCredentialsError": "sign in, or run with a role",
}


class SealError(Exception):
    """What failed, why, and what to do."""


def reason(error: Exception, place: str = "") -> str:
    """Say what failed, why, and what to do."""
    if isinstance(error, OSError):
        return f"{error.filename or place}: {error.strerror}: {HINTS.get(error.errno, 'mend it')}"
    kind = type(error).__name__
    defect = "" if isinstance(error, SealError) else f": {HINTS.get(kind, f'a defect ({kind})')}"
    return f"{error}{defect}"


@contextmanager
def ahead(source: Stream) -> Iterator[Stream]:
    """Run *source* in a thread, DEPTH items ahead of its reader, who gets errors."""
    items, room = SimpleQueue[Any](), SimpleQueue[int]()
    for _ in range(DEPTH):
        room.put(1)

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # for the main thread
        try:
            while room.get():
                items.put(next(source))
        except BaseException as error:  # the reader raises it
            items.put(error)

    def take() -> bytes:
        item = items.get()
        room.put(1)
        if isinstance(item, BaseException):
            raise item
        return bytes(item)

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        yield iter(take, None)
    finally:
        room.put(0)
        thread.join(0.2)  # a read may hang


@contextmanager
def apart(source: Stream) -> Iterator[Stream]:
    """Run *source* in a process, before any thread starts; its reader gets errors, no end."""
    reader, writer = os.pipe()
    with suppress(AttributeError, OSError):  # not Linux, or too many
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIECE)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    pid, pipe = os.fork(), os.fdopen(reader, "rb")

    def take() -> bytes:
        size = int.from_bytes(pipe.read(LENGTH.size), "big")
        item = pipe.read(size or -1)
        if size and len(item) == size:
            return item
        killed = "a process was killed: free memory, try again"
        raise SealError(killed if size else os.fsdecode(item) or killed)

    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if pid:
            os.close(writer)
            yield iter(take, None)
        else:
            pipe.close()  # so it ends with its reader
            with open(writer, "wb") as sink:
                sink.writelines(framed(source))
    finally:
        LISTENING.clear()
        os.kill(pid or os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        pipe.close()  # not while a thread reads


def framed(source: Stream) -> Stream:
    """Yield each item after its length, an error after 0."""
    try:
        for item in source:
            yield LENGTH.pack(len(item)) + item
    except Exception as error:  # the reader raises it
        yield LENGTH.pack(0) + os.fsencode(reason(error))


class Entry(NamedTuple):
    """A file, or a directory (its path ends with a slash), as first seen."""

    path: str  # below root
    root: str  # ends with a slash
    mode: int
    size: int  # bytes; a directory has none
    mtime_ns: int
    inode: int


def seen(path: str, root: str, status: os.stat_result) -> Entry:
    """Return a status as an Entry."""
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return Entry(path, root, status.st_mode, size, status.st_mtime_ns, status.st_ino)


def walk(root: str) -> Iterator[Entry]:
    """Yield what is under *root* in the order of bytes."""
    waiting = sorted(children(root, ""), reverse=True)
    while waiting:
        yield (entry := waiting.pop())
        if entry.path.endswith("/"):
            waiting += sorted(children(root, entry.path), reverse=True)


def children(root: str, directory: str) -> Iterator[Entry]:
    """Yield a directory's entries; links become what they name."""
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
    """Refuse a link out of *root*, or to a directory it is in."""
    target = os.path.realpath(link)
    if not f"{target}/".startswith(root):
        raise SealError(f"{link}: links to {target}, outside: copy that")
    above = (link[:end] for end, c in enumerate(link, 1) if c == "/")
    if target in map(os.path.realpath, above):
        raise SealError(f"{link}: links to {target}, which it is in: remove it")


@contextmanager
def opened(entry: Entry) -> Iterator[int]:
    """Open a file to be read whole, and as first seen."""
    fd = os.open(entry.root + entry.path, os.O_NONBLOCK)  # or a pipe
    try:
        yield fd
        same = seen(entry.path, entry.root, os.fstat(fd)) == entry
        if not same or os.lseek(fd, 0, os.SEEK_CUR) != entry.size:
            raise SealError(f"{entry.path}: changed while it was read: seal it at rest")
    except OSError as error:
        error.filename = entry.path
        raise
    finally:
        os.close(fd)


def worthwhile(fd: int, size: int) -> bool:
    """Tell by samples whether a file is worth deflating."""
    if size <= 2 * SAMPLES * SAMPLE:
        return True
    places = range(size // SAMPLES // 2, size, size // SAMPLES)
    sample = b"".join(os.pread(fd, SAMPLE, place) for place in places)
    return sum(map(len, deflated(iter([sample])))) < WORTHWHILE * len(sample)


def deflated(pieces: Stream) -> Stream:
    """Deflate *pieces*; store their first byte, as isal is random where nothing came before."""
    piece = next(pieces)
    stream = zlib.compressobj(1, DEFLATED, -15, zdict=piece[:1])
    yield b"\0\1\0\xfe\xff" + piece[:1]
    yield from map(stream.compress, itertools.chain([piece[1:]], pieces))
    yield stream.flush()


def header(entry: Entry, method: int, crc: int = 0, packed: int = 0) -> bytes:
    """Return a member's header; a large one's checksum and sizes follow."""
    name, size, flags, extra = entry.path.encode(), entry.size, UTF8_NAME, b""
    if size > PIECE:
        flags, extra = flags | SIZES_FOLLOW, pack("<2H2Q", 1, 16, 0, 0)
        size = packed = MAX32
    clamped = max(EARLIEST, min(LATEST, entry.mtime_ns // 10**9))
    year, month, day, h, m, s, *_ = time.gmtime(clamped)
    when = (year - 1980) << 25 | month << 21 | day << 16 | h << 11 | m << 5 | s // 2
    told = ZIP_VERSION, flags, method, when, crc, packed, size, len(name), len(extra)
    return HEADER.pack(b"PK\3\4", *told) + name + extra


def listed(entry: Entry, told: bytes, crc: int, packed: int, offset: int) -> bytes:
    """Return a member's entry in the zip's directory."""
    name, size, extra = entry.path.encode(), entry.size, b""
    if max(size, packed, offset) >= MAX32:
        extra = pack("<2H3Q", 1, 24, size, packed, offset)
        size = packed = offset = MAX32
    runs = entry.mode & (stat.S_IFDIR | 0o111)
    mode = stat.S_IFMT(entry.mode) | (0o755 if runs else 0o644)
    rest = crc, packed, size, len(name), len(extra), 0, 0, 0, mode << 16, offset
    return b"PK\1\2" + MADE_BY + told[4:14] + pack("<3I5H2I", *rest) + name + extra


def packed(batch: list[Entry]) -> bytes:
    """Return small files as the zip has them."""
    part = bytearray()
    for entry in batch:
        data = body = b""
        if stat.S_ISREG(entry.mode):
            with opened(entry) as fd:
                data = body = os.read(fd, entry.size + 1)
                if worthwhile(fd, entry.size):
                    body = min(data, b"".join(deflated(iter([data]))), key=len)
        method = STORED if len(body) == len(data) else DEFLATED
        part += header(entry, method, zlib.crc32(data), len(body)) + body
    return bytes(part)


class Archive:
    """The zip of a directory, made while the directory is read."""

    def __init__(self, root: str) -> None:
        """List what *root*, resolved, holds."""
        entries = list(walk(root))
        if not entries:
            raise SealError(f"{root}: is empty: choose another -d")
        self.size = sum(entry.size for entry in entries)
        self.large = sum(entry.size for entry in entries if entry.size > PIECE)
        self.done = 0  # bytes, of *size*
        # A batch costs about a PIECE; a large file is one.
        costs = itertools.accumulate(entry.size + FILE_COST for entry in entries)
        runs = itertools.groupby(entries, lambda e: (e.size > PIECE, next(costs) // PIECE))
        self._batches = [list(run) for _, run in runs]
        small = [batch for batch in self._batches if batch[0].size <= PIECE]
        self.lanes = [map(packed, small[i::LANES]) for i in range(min(LANES, len(small)))]
        self._offset = 0  # in the zip
        self._listing = bytearray()

    def chunks(self, lanes: Iterator[Stream]) -> Stream:
        """Yield the zip's bytes, with what *lanes* pack in turn."""
        for batch in self._batches:
            large = batch[0].size > PIECE
            for chunk in self._large(*batch) if large else self._small(next(next(lanes)), batch):
                yield chunk
                self._offset += len(chunk)
        yield bytes(self._listing)
        count, size, end = sum(map(len, self._batches)), len(self._listing), self._offset
        if count >= MAX16 or end + size >= MAX32:
            record = b"PK\6\6", 44, MADE_BY, ZIP_VERSION, 0, 0, count, count, size, end
            yield pack("<4sQ2sH2I4Q4sIQI", *record, b"PK\6\7", 0, end + size, 1)
        count, size, end = min(count, MAX16), min(size, MAX32), min(end, MAX32)
        yield pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, size, end, 0)

    def _large(self, entry: Entry) -> Stream:
        start, crc, length = self._offset, 0, 0

        def pieces() -> Stream:
            nonlocal crc
            for _ in range(0, entry.size, PIECE):
                yield (piece := os.read(fd, PIECE))
                crc = zlib.crc32(piece, crc)
                self.done += len(piece)

        with opened(entry) as fd:
            method = DEFLATED if worthwhile(fd, entry.size) else STORED
            yield (told := header(entry, method))
            for chunk in deflated(pieces()) if method else pieces():
                length += len(chunk)
                yield chunk
        yield pack("<4sI2Q", b"PK\7\10", crc, length, entry.size)
        self._listing += listed(entry, told, crc, length, start)

    def _small(self, part: bytes, batch: list[Entry]) -> Stream:
        start = 0
        for entry in batch:
            *_, crc, length, _, name, _ = HEADER.unpack_from(part, start)
            told = part[start : start + 14]
            self._listing += listed(entry, told, crc, length, self._offset + start)
            self.done += entry.size
            start += HEADER.size + name + length
        yield part


def data_key(key_id: str, region: str | None) -> Stream:
    """Yield a new data key, the same encrypted, and the KMS key's ARN."""
    try:
        import botocore.session  # boto3 loads slower

        region = region or (key_id.split(":")[3] if key_id.startswith("arn:") else None)
        kms: Any = botocore.session.get_session().create_client("kms", region_name=region)
        answer = kms.generate_data_key(KeyId=key_id, KeySpec="AES_256")
        yield from (answer["Plaintext"], answer["CiphertextBlob"], answer["KeyId"].encode())
    except Exception as error:  # botocore's have no base
        code = (getattr(error, "response", None) or {}).get("Error", {}).get("Code")
        hint = HINTS.get(code or type(error).__name__, "check the key, --region, the network")
        raise SealError(f"data key under {key_id}: {error}: {hint}") from error


def ciphertext(chunks: Stream, encrypt: Callable[[bytes], bytes]) -> Stream:
    """Encrypt *chunks*, padded as PKCS7 says."""
    length = 0
    for chunk in chunks:
        length += len(chunk)
        yield encrypt(chunk)
    padding = AES_BLOCK - length % AES_BLOCK
    yield encrypt(bytes([padding]) * padding)


def signed(blocks: Stream, mac: hmac.HMAC, iv: bytes) -> Stream:
    """Yield the token around *blocks* of ciphertext."""
    head = pack(">BQ16s", 0x80, int(time.time()), iv)  # version first
    for block in itertools.chain([head], blocks):
        mac.update(block)
        yield block
    yield mac.digest()


def encoded(blocks: Stream) -> Stream:
    """Yield *blocks* in base64, which pads only at the end."""
    rest = b""
    for block in filter(None, blocks):
        lead = -len(rest) % 3
        whole = len(block) - (len(block) - lead) % 3
        yield urlsafe_b64encode(rest + block[:lead])
        yield urlsafe_b64encode(memoryview(block)[lead:whole])
        rest = block[whole:]
    yield urlsafe_b64encode(rest)


@contextmanager
def replacing(target: str) -> Iterator[BinaryIO]:
    """Give a file that becomes *target* in the end, or vanishes."""
    draft = f"{target}.{os.urandom(4).hex()}"
    try:
        with open(draft, "xb") as file:
            yield file
            file.truncate()
            os.fsync(file.fileno())
        os.replace(draft, target)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft)


def seal(directory: str, key_id: str, output: str, region: str | None, progress: Progress) -> str:
    """Seal what *directory* holds into the file *output*, which appears whole or not at all.

    Without *region* an ARN's counts, else AWS's settings. *progress* is told the bytes read,
    of how many, and those written. Returns the ARN of the KMS key.
    Raises what reason() tells.
    """
    root, target = os.path.join(os.path.realpath(directory), ""), os.path.realpath(output)
    if not os.path.isdir(root):
        raise SealError(f"{directory}: is not a directory: choose another -d")
    if target.startswith(root):
        raise SealError(f"{output}: is inside {directory}: choose another -o")
    if os.path.exists(target) and not os.path.isfile(target):
        raise SealError(f"{output}: is not a file: choose another -o")
    with replacing(target) as file, apart(data_key(key_id, region)) as asked, ExitStack() as stack:
        archive, enter = Archive(root), stack.enter_context
        lanes = itertools.cycle([enter(apart(lane)) for lane in archive.lanes])
        chunks = enter(ahead(archive.chunks(lanes)))
        # While KMS is asked: reserve half of what is free at most, load.
        free = os.statvfs(file.fileno())
        size = min(archive.large * 4 // 3, 1 << 30, free.f_bavail * free.f_frsize // 2)
        with suppress(AttributeError, OSError):
            for at in range(0, size, PIECE):
                if time.monotonic() - START < 1:  # slow if emulated
                    os.posix_fallocate(file.fileno(), at, PIECE)
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        key, encrypted, arn = itertools.islice(asked, 3)
        file.write(LENGTH.pack(len(encrypted)) + encrypted)
        iv, mac = os.urandom(AES_BLOCK), hmac.new(key[:HALF_KEY], digestmod="sha256")
        cipher = Cipher(algorithms.AES(key[HALF_KEY:]), modes.CBC(iv)).encryptor()
        blocks = enter(ahead(ciphertext(chunks, cipher.update)))
        for text in encoded(enter(ahead(signed(blocks, mac, iv)))):
            file.write(text)
            progress(archive.done, archive.size, file.tell())
    return arn.decode()


def show(done: int, size: int, written: int) -> None:
    """Tell a terminal how far it is."""
    if ERASE and (done % (32 * PIECE) < PIECE or done == size):
        seconds = time.monotonic() - START
        rate = (done + 1) / seconds
        sizes = f"{done >> 20} of {size >> 20} MiB in, {written >> 20} MiB out, {seconds:.1f} s, "
        say(f"{sizes}{rate / 2**20:.0f} MiB/s, {(size - done) / rate:.0f} s left", "")


def say(text: str, end: str = "\n") -> None:
    """Print *text* as one line that cannot steer a terminal, over the last."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    print(ERASE + line, end=end, file=sys.stderr, flush=True)


def interrupt(number: int, _frame: object) -> None:
    """End, once: nothing interrupts cleaning up."""
    if os.getpid() in LISTENING:
        LISTENING.clear()
        raise SystemExit(128 + number)


def main() -> int:
    """Run the command line; return its status."""
    parser = argparse.ArgumentParser(description="Seal a directory for one KMS key.")
    add = parser.add_subparsers(required=True, metavar="encrypt").add_parser("encrypt").add_argument
    add("-d", metavar="DIR", required=True, help="directory to seal")
    add("-k", metavar="KEY", required=True, help="KMS key: id, ARN, alias")
    add("-o", metavar="FILE", default="application_code.zip.encrypted", help="%(default)s")
    add("--region", help="unless ARN or settings say it")
    args = parser.parse_args()
    for stop in STOPS:
        if signal.getsignal(stop) != signal.SIG_IGN:  # nohup
            signal.signal(stop, interrupt)
    try:
        print(seal(args.d, args.k, args.o, args.region, show), flush=True)
        print(end="\n" if ERASE else "", file=sys.stderr)
        return 0
    except SystemExit as error:
        say("error: interrupted: start it again")
        return int(error.code or 0)
    except Exception as error:  # no user sees a traceback
        say(f"error: {reason(error, args.o)}")
    return 1


if __name__ == "__main__":
    gc.disable()  # imports take a fifth less
    bytes(PIECE << 5)  # freed, it makes glibc keep buffers: a tenth less
    os._exit(main())  # at once
