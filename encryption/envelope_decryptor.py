#!/usr/bin/env python3
"""Open an envelope-encrypted application inside the enclave that may, and run it.

    envelope_decryptor.py decrypt -f FILE -d DIR --key-id ARN
    envelope_decryptor.py run -f FILE --key-id ARN -- SCRIPT [ARG...]

One file that runs alone with `cryptography`; `isal` and `pybase64` make it fast where present.

    artifact ─► header ─► kmstool_enclave_cli ─► data key
        └─► base64 ─► private copy of the token ─► HMAC        pass 1: nothing is parsed before
                                                               the HMAC over all of it matches
    private copy ─► any block decrypted in place ─► zip members ─► files                pass 2

Decoding and writing are shared out among a process for each core, since base64 without `pybase64`
and small files hold the interpreter's lock; the HMAC, and decrypting a long member, have a thread.

CBC decrypts a block from its predecessor, so the zip is read where it lies, encrypted, and never
written out. Pass 2 reads the copy alone: the parent can rewrite its file at any moment. What has
been read is given back, so that copy and tree together need little more room than the larger.

Format: 4 bytes big-endian length, encrypted data key, Fernet token
(https://github.com/fernet/spec). AWS's tool: https://github.com/aws/aws-nitro-enclaves-sdk-c.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import errno
import importlib
import itertools
import os
import re
import select
import shutil
import signal
import stat
import struct
import sys
import time
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, NoReturn, Self

if TYPE_CHECKING:
    import subprocess
    import threading
    import zipfile
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from queue import SimpleQueue
    from types import FrameType, ModuleType

    from cryptography.hazmat.primitives.ciphers import CipherContext

Buffer = bytes | memoryview

LENGTH_FIELD = 4  # bytes, big-endian, in front of the encrypted data key
ENCRYPTED_KEY_MAX = 6144  # bytes: CiphertextBlob of the KMS API
TOKEN_VERSION = 0x80
TOKEN_HEAD = 25  # bytes before the ciphertext: version, 8 of time, 16 of IV
BLOCK = 16  # of AES
TAG = 32  # of HMAC-SHA256
CHUNK = 1 << 19  # characters or bytes in one step; a multiple of 4 and of BLOCK
DECODED_CHUNK = CHUNK // 4 * 3
STEP = 8 * CHUNK  # bytes written between two reports of progress
WAITING = 2  # pieces between two threads
PROCESSES = 4  # at most, that decode or write
MESSAGE = struct.Struct("<q")  # a number from a process
FAILED = -1  # in front of its error
NUMBERS = struct.Struct("<H4QIH")  # of a Member

SECONDS_SHOWN = 0.1  # between two progress lines
TRIES = 3  # of kmstool: it now and then crashes after a good answer, or hangs
CRASHED = range(129, 255)  # 128 + signal, as a shell says it; 255 is an ordinary refusal
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
KEY_ARN = re.compile(r"arn:aws[a-z-]*:kms:([a-z0-9-]+):[0-9]{12}:key/[A-Za-z0-9-]+")

LOCAL_HEADER = struct.Struct("<4s4xH16xHH")  # signature, method, lengths of name and extra field
CIPHERED_OR_PATCHED = 0x2061  # zip flag bits 0, 5, 6, 13
UTF8_NAME = 0x0800
STORED, DEFLATED = 0, 8  # zip methods
NAME_MAX = 4096  # characters: no path of Linux has more
BATCH, BATCH_BYTES = 256, 8 << 20  # members, or packed bytes, written at once
DIRECTORY_ENTRY = 1024  # bytes of zip directory allowed per allowed member
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
PUNCH_HOLE_KEEP_SIZE = 0x03  # fallocate(2)
PAGE = 4096  # bytes, of which files have whole ones


class DecryptorError(Exception):
    """Why an artifact was not opened; the message is for a person."""


class FormatError(DecryptorError):
    """The file is not exactly of the artifact's format."""


class AuthenticationError(DecryptorError):
    """The token is not what was sealed under this data key."""


class ArchiveError(DecryptorError):
    """The authentic content is no zip that may be unpacked."""


class LimitError(DecryptorError):
    """The tree has more bytes or members than allowed, or than there is room for."""


class KeyReleaseError(DecryptorError):
    """The data key was not to be had from KMS."""


class TargetError(DecryptorError):
    """The tree cannot appear, or the script not run, where it should."""


def _first_of(*modules: str) -> ModuleType:
    """Import the first of *modules* that is installed; they offer the same functions."""
    for name in modules[:-1]:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    return importlib.import_module(modules[-1])


def _path(name: str | bytes) -> Path:
    from pathlib import Path  # the import takes a tenth of what --help may take

    return Path(os.fsdecode(name))


_base64 = _first_of("pybase64", "base64")
_zlib = _first_of("isal.isal_zlib", "zlib")


# --- The data key -----------------------------------------------------------------------------


class Kmstool(NamedTuple):
    """How to call AWS's kmstool_enclave_cli.

    Attributes:
        path: a program, looked up on PATH if it has no slash.
        region: of the KMS key.
        proxy_port: vsock port of the parent's proxy.
        timeout: seconds a try may take.
        key_id: ARN of the only key that may open the artifact; None pins none.
    """

    path: str
    region: str
    proxy_port: int
    timeout: float
    key_id: str | None

    def unwrap(self, encrypted_key: bytes) -> bytes:
        """Return the 32 plaintext bytes of *encrypted_key*.

        Up to 0.3.0 the tool knows no subcommand and answers the word `decrypt` with its usage,
        before it connects; newer ones insist on it. So KMS is asked once, whichever it is.

        Raises:
            KeyReleaseError: with what the reason can be; the tool never says, and its log, which
                holds credentials, is not passed on.
        """
        program = shutil.which(self.path)
        if program is None:
            raise KeyReleaseError(f"{self.path} is no program here: say by --kmstool where it is")
        options = self._options(encrypted_key)
        for subcommand in (["decrypt"], []):
            answer = self._answer([program, *subcommand, *options])
            if answer.returncode == 0:
                return _data_key(answer.stdout)
            if not _is_usage(answer):
                raise KeyReleaseError(self._refusal(answer.returncode))
        if self.key_id:
            raise KeyReleaseError(
                f"{self.path} knows no --key-id, so it cannot pin the key: "
                "use aws-nitro-enclaves-sdk-c 0.3.0 or newer, or --any-key"
            )
        raise KeyReleaseError(f"{self.path} knows none of kmstool_enclave_cli's two command lines")

    def _options(self, encrypted_key: bytes) -> list[str]:
        missing = [name for name in CREDENTIALS if not os.environ.get(name)]
        if missing:
            raise KeyReleaseError(
                f"kmstool needs credentials, and {', '.join(missing)} is not in the environment: "
                "hand the parent role's three values to the enclave"
            )
        access_key, secret_key, session_token = (os.environ[name] for name in CREDENTIALS)
        options = {
            "--region": self.region,
            "--proxy-port": str(self.proxy_port),
            "--aws-access-key-id": access_key,
            "--aws-secret-access-key": secret_key,
            "--aws-session-token": session_token,
            "--ciphertext": base64.b64encode(encrypted_key).decode(),
        }
        if self.key_id:
            options |= {"--key-id": self.key_id, "--encryption-algorithm": "SYMMETRIC_DEFAULT"}
        return [word for option in options.items() for word in option]

    def _answer(self, command: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        """Call the tool until it neither crashes nor hangs."""
        import subprocess

        trouble = ""
        for _ in range(TRIES):
            try:
                answer = _run_with_deadline(command, self.timeout)
            except subprocess.TimeoutExpired:
                trouble = f"gave no answer in {self.timeout:g} s"
                continue
            except OSError as error:
                raise KeyReleaseError(f"{command[0]} does not start: {error.strerror}") from error
            status = _shell_status(answer.returncode)
            if status not in CRASHED:
                return answer
            trouble = f"crashed (status {status})"
        raise KeyReleaseError(
            f"kmstool {trouble}, {TRIES} times: is vsock-proxy listening on the parent's port "
            f"{self.proxy_port}, does it lead to KMS in {self.region}, and does the enclave trust "
            "that certificate?"
        )

    def _refusal(self, status: int) -> str:
        pinned = f"the artifact was sealed under another key than {self.key_id}; "
        return (
            f"KMS released no data key (kmstool: status {status}, it never says why). It can be: "
            "the key's policy does not name this image's PCR0, or the enclave runs in debug mode; "
            f"the parent's role lacks kms:Decrypt; {pinned if self.key_id else ''}"
            f"the key is not in {self.region}; the credentials have expired"
        )


def _run_with_deadline(
    command: Sequence[str], timeout: float
) -> subprocess.CompletedProcess[bytes]:
    """Run *command* in a session of its own; past *timeout* seconds all of it is killed."""
    import subprocess

    process = None
    try:
        with _signals_held():  # one that came between start and `process` would leave it running
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        output, log = process.communicate(timeout=timeout)
    except BaseException:
        if process:
            with process, contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, log)


def _shell_status(returncode: int) -> int:
    """Return an exit status as a shell says it: 128 + the number of a signal that killed."""
    return returncode if returncode >= 0 else 128 - returncode


def _is_usage(answer: subprocess.CompletedProcess[bytes]) -> bool:
    complaint = b"Unknown option" in answer.stderr or b"usage:" in answer.stderr
    return answer.returncode == 1 and complaint


def _data_key(output: bytes) -> bytes:
    """Read the key from the tool's answer: `PLAINTEXT: <base64>`, up to 0.3.0 the base64 alone."""
    try:
        key = binascii.a2b_base64(output.strip().removeprefix(b"PLAINTEXT: "), strict_mode=True)
    except binascii.Error:
        key = b""
    if len(key) != 2 * BLOCK:
        # The answer itself may be a secret: it is not shown.
        raise KeyReleaseError("kmstool's answer is no 32-byte data key in base64")
    return key


# --- Processes --------------------------------------------------------------------------------


def _parts(tasks: int) -> int:
    """Return among how many processes to share out *tasks*."""
    return max(1, min(PROCESSES, len(os.sched_getaffinity(0)), tasks))


@contextlib.contextmanager
def _processes(work: Callable[[int], Iterator[int]], parts: range) -> Iterator[list[_Process]]:
    """Run *work*(part) of each of *parts* in a process of its own, which ends with the context."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_Process(work(part))) for part in parts]


class _Process:
    """An iterator over the numbers that a generator yields in a process of its own, ahead of us."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self._reader, writer = os.pipe()
        # A signal would unwind the child as if it were this process; it is killed instead.
        try:
            with _signals_held():
                self._pid = os.fork()
                if self._pid == 0:
                    os.close(self._reader)  # so that a write fails once the parent has gone
                    _send(numbers, writer)
        finally:
            os.close(writer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._reader)
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> int:
        message = os.read(self._reader, MESSAGE.size)
        if not message:
            self._end()
            raise StopIteration
        (number,) = MESSAGE.unpack(message)
        if number != FAILED:
            return int(number)
        with open(self._reader, "rb", closefd=False) as rest:
            kind, _, text = rest.read().decode().partition(":")
        kinds = {kind.__name__: kind for kind in DecryptorError.__subclasses__()}
        raise kinds.get(kind, DecryptorError)(text)

    def ready(self) -> bool:
        """Tell whether `next` would not wait."""
        return bool(select.select([self._reader], [], [], 0)[0])

    def _end(self) -> None:
        if self._pid:
            pid, self._pid = self._pid, 0
            if os.waitpid(pid, 0)[1]:
                raise DecryptorError("a process was killed: give the enclave more memory")


def _send(numbers: Iterator[int], writer: int) -> NoReturn:
    """Be the process: write the numbers, or what failed."""
    status = 1
    try:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        _keep_buffers()
        for number in numbers:
            os.write(writer, MESSAGE.pack(number))
        status = 0
    except Exception as error:  # noqa: BLE001 - the parent raises it
        text = f"{type(error).__name__}:{_reason(error)}"
        os.write(writer, MESSAGE.pack(FAILED) + text.encode(errors="backslashreplace"))
    finally:
        os._exit(status)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Have ending signals wait; processes made meanwhile leave them to wait for good."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# --- Threads ----------------------------------------------------------------------------------


def _ahead(pieces: Iterator[Buffer]) -> Iterator[Buffer]:
    """Run *pieces* in a thread, WAITING of them ahead of their reader, who gets its error."""
    items, room = _queues()

    def run() -> None:
        try:
            for piece in pieces:
                room.get()
                items.put(piece)
        except Exception as error:  # noqa: BLE001 - the reader raises it
            items.put(error)
        else:
            items.put(b"")

    _start(run)  # a reader that stops early leaves it waiting, which keeps no process from ending
    while item := items.get():
        room.put(None)
        if isinstance(item, Exception):
            raise item
        yield item


@contextlib.contextmanager
def _beside(work: Callable[[Buffer], None]) -> Iterator[Callable[[Buffer], None]]:
    """Give a function that has *work*, which never fails, done in a thread: all when this ends."""
    items, room = _queues()

    def run() -> None:
        while (item := items.get()) is not None:
            work(item)
            room.put(None)

    def hand_over(item: Buffer) -> None:
        room.get()
        items.put(item)

    thread = _start(run)
    try:
        yield hand_over
    finally:
        items.put(None)
        thread.join()


def _queues() -> tuple[SimpleQueue[Any], SimpleQueue[None]]:
    """Return a queue of items and one of room for them.

    Take room before an item is put, and give it back when the item is taken.
    """
    from queue import SimpleQueue

    items: SimpleQueue[Any] = SimpleQueue()
    room: SimpleQueue[None] = SimpleQueue()
    for _ in range(WAITING):
        room.put(None)
    return items, room


def _start(run: Callable[[], None]) -> threading.Thread:
    """Run *run* in a thread, which leaves signals to the main one and keeps nothing from ending."""
    import threading

    def quiet() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
        run()

    thread = threading.Thread(target=quiet, daemon=True)
    thread.start()
    return thread


# --- The system ---------------------------------------------------------------------------------


def _prctl(option: int, argument: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(option, argument)


def _give_back(file: int, start: int, end: int) -> bool:
    """Free the room of a file's bytes from *start* to *end*; tell whether its file system can."""
    import ctypes

    place = ctypes.c_int64(start), ctypes.c_int64(end - start)
    return bool(ctypes.CDLL(None).fallocate(file, PUNCH_HOLE_KEEP_SIZE, *place) == 0)


def _keep_buffers() -> None:
    """Free one large block, which teaches glibc to keep freed ones: a fifth less time."""
    bytes(16 << 20)  # mallopt(3), M_MMAP_THRESHOLD


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror}"
    defect = "" if isinstance(error, DecryptorError) else f" ({type(error).__name__}, a defect)"
    return f"{error}{defect}"


# --- Pass 1: verify ---------------------------------------------------------------------------


def read_encrypted_key(artifact: BinaryIO) -> bytes:
    """Read the header of *artifact* and leave it at the token's first character.

    Raises:
        FormatError: the length is not 1 to ENCRYPTED_KEY_MAX, or the file ends early.
    """
    field = artifact.read(LENGTH_FIELD)
    length = int.from_bytes(field, "big")
    if len(field) < LENGTH_FIELD or not 1 <= length <= ENCRYPTED_KEY_MAX:
        raise FormatError(
            f"encrypted data key length is {length}, not 1 to {ENCRYPTED_KEY_MAX}: "
            "is this an application_code.zip.encrypted?"
        )
    encrypted_key = artifact.read(length)
    if len(encrypted_key) < length:
        raise FormatError("the file ends inside the encrypted data key: copy it again")
    return encrypted_key


def copy_verified(token: BinaryIO, copy: BinaryIO, data_key: bytes, progress: Progress) -> None:
    """Decode *token* to its end into *copy* and verify its HMAC.

    *copy* is worthless if this raises.

    Raises:
        FormatError: not canonical URL-safe base64 of a version 0x80 Fernet token.
        AuthenticationError: it is, but not one sealed under *data_key*, or not unaltered.
    """
    import hmac

    mac = hmac.new(data_key[:BLOCK], digestmod="sha256")
    texts = _Texts(token)
    parts = _parts(texts.count)
    size = 0
    authenticated = 0
    with (
        _processes(lambda part: _decode(texts, copy, part, parts), range(parts)) as decoders,
        _beside(mac.update) as authenticate,
    ):
        for decoder in itertools.cycle(decoders):
            length = next(decoder, 0)
            if not length:
                break
            if size % DECODED_CHUNK:  # behind a shorter one
                raise FormatError(_NOT_CANONICAL)
            size += length
            end = max(0, size - TAG)  # the tag, wherever it will be, is held back
            authenticate(os.pread(copy.fileno(), end - authenticated, authenticated))
            authenticated = end
            progress.add(length)
    ciphertext = size - TOKEN_HEAD - TAG
    if ciphertext < BLOCK or ciphertext % BLOCK:
        raise FormatError(f"token is {size} bytes long: it was cut off or never was one")
    if not hmac.compare_digest(mac.digest(), os.pread(copy.fileno(), TAG, authenticated)):
        raise AuthenticationError(
            "the token's HMAC is not the data key's: altered on its way, or not of this key"
        )


class _Texts:
    """The token's text, CHUNK by CHUNK; as long as it is now, even if the parent makes it longer.

    Attributes:
        count: how many there are; 1 if the token comes through a pipe, which is read in order.
    """

    def __init__(self, token: BinaryIO) -> None:
        status = os.fstat(token.fileno())
        self._token = token
        self._places = stat.S_ISREG(status.st_mode)
        self._start = token.tell() if self._places else 0
        self._size = status.st_size - self._start
        self.count = -(-self._size // CHUNK) if self._places else 1

    def read(self, number: int) -> bytes:
        """Return a chunk; nothing when there are no more."""
        if not self._places:
            return self._token.read(CHUNK)
        offset = number * CHUNK
        size = max(0, min(CHUNK, self._size - offset))
        return os.pread(self._token.fileno(), size, self._start + offset)


def _decode(texts: _Texts, copy: BinaryIO, part: int, parts: int) -> Iterator[int]:
    """Decode every *parts*-th text into its place in *copy*; yield their lengths."""
    for number in itertools.count(part, parts):
        text = texts.read(number)
        if not text:
            return
        data = _decoded(text)
        if number == 0 and data[0] != TOKEN_VERSION:
            raise FormatError(f"token version is {data[0]:#04x}, not {TOKEN_VERSION:#04x}")
        _write_all(copy.fileno(), data, number * DECODED_CHUNK)
        yield len(data)


def _decoded(text: bytes) -> bytes:
    """Decode canonical URL-safe base64: what is not exactly what an encoder writes is refused."""
    try:
        # Decoders take the other alphabet's two characters as well.
        if len(text) % 4 or b"+" in text or b"/" in text:
            raise ValueError  # noqa: TRY301 - one message for all that is not canonical
        data: bytes = _base64.b64decode(text, b"-_", validate=True)
    except ValueError as error:
        raise FormatError(_NOT_CANONICAL) from error
    if base64.urlsafe_b64encode(data[(len(data) - 1) // 3 * 3 :]) != text[-4:]:
        raise FormatError(_NOT_CANONICAL)
    return data


_NOT_CANONICAL = "token is not canonical URL-safe base64: not an artifact, or changed on its way"


# --- Pass 2: read the zip where it lies -------------------------------------------------------


class DecryptingReader:
    """The zip inside a verified token, as a file that is decrypted where it is read."""

    def __init__(self, copy: BinaryIO, data_key: bytes, largest_read: int) -> None:
        """Read from *copy*, a verified token, decoded.

        Args:
            copy: stays the caller's to close.
            data_key: 32 raw bytes.
            largest_read: bytes that `read` may be asked for.

        Raises:
            FormatError: no PKCS7 padding.
        """
        self._copy = copy.fileno()
        self._key = data_key[BLOCK:]
        self._largest_read = largest_read
        self._position = 0
        self.size = os.fstat(self._copy).st_size - TOKEN_HEAD - TAG
        last = self.read_at(self.size - BLOCK, BLOCK)
        padding = last[-1]
        if not 1 <= padding <= BLOCK or not last.endswith(bytes([padding]) * padding):
            raise FormatError("the token's plaintext is not padded as PKCS7 demands")
        self.size -= padding

    def read_at(self, offset: int, size: int) -> bytes:
        """Return the *size* bytes of plaintext at *offset*, fewer at the end; from any process."""
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        first, end = offset // BLOCK, -(-(offset + size) // BLOCK)
        # In the token the IV stands before the first block as every block before the next.
        start = TOKEN_HEAD + (first - 1) * BLOCK
        blocks = memoryview(os.pread(self._copy, (end - first + 1) * BLOCK, start))
        plaintext = _cbc_decryptor(self._key, blocks[:BLOCK]).update(blocks[BLOCK:])
        skipped = offset - first * BLOCK
        return plaintext[skipped : skipped + size]

    def page_after(self, offset: int) -> int:
        """Return the first page of the copy with no byte of the block in which *offset* lies."""
        return -(-(TOKEN_HEAD + offset // BLOCK * BLOCK + BLOCK) // PAGE) * PAGE

    def release(self, page: int, end: int) -> int:
        """Free the pages of the copy from *page* to what is read behind *end*.

        Returns:
            The first page kept: what lies at *end* is decrypted from the block before its own.
        """
        kept = (TOKEN_HEAD + end - 2 * BLOCK) // PAGE * PAGE
        return kept if page < kept and _give_back(self._copy, page, kept) else page

    def releases(self) -> bool:
        """Tell whether `release` frees anything here."""
        end = TOKEN_HEAD + self.size + BLOCK + TAG
        return _give_back(self._copy, end, end + PAGE)

    def read(self, size: int = -1) -> bytes:
        """Return the next *size* bytes, or all that are left.

        Raises:
            LimitError: zipfile asks for a whole directory at once; this bounds what it can cost.
        """
        size = self.size - self._position if size < 0 else size
        if size > self._largest_read:
            raise LimitError(f"the zip's directory has {size} bytes: raise --max-members")
        data = self.read_at(self._position, size)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to *offset* from the start, from here or from the end, as files do."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if origin + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))  # which zipfile expects
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._position

    def seekable(self) -> bool:
        """Tell zipfile that it may seek."""
        return True


def _cbc_decryptor(key: bytes, iv: Buffer) -> CipherContext:
    # The import takes a third of what --help may take.
    from cryptography.hazmat.primitives.ciphers import (
        Cipher,
        algorithms,
        modes,
    )

    return Cipher(algorithms.AES128(key), modes.CBC(bytes(iv))).decryptor()


class _Window:
    """Small reads from a DecryptingReader, each behind the last, CHUNK bytes decrypted at a time.

    STEP by STEP, what lies before them is released.
    """

    def __init__(self, zipped: DecryptingReader, start: int) -> None:
        self._zipped = zipped
        self._start = self._released = start
        self._page = zipped.page_after(start)
        self._data = memoryview(b"")

    def read(self, offset: int, size: int) -> memoryview:
        if offset < self._start or offset + size > self._start + len(self._data):
            if offset >= self._released + STEP:
                self.release(offset)
            self._start = offset
            self._data = memoryview(self._zipped.read_at(offset, max(size, CHUNK)))
        return self._data[offset - self._start :][:size]

    def release(self, end: int) -> None:
        self._page, self._released = self._zipped.release(self._page, end), end


class Limits(NamedTuple):
    """What a tree may have at most."""

    total_bytes: int | None
    members: int


class Member(NamedTuple):
    """A member that may be unpacked; about half of what zipfile keeps of it.

    Attributes:
        path: the name normalised; a directory's ends with a slash.
        name: as the zip has it.
        method: STORED or DEFLATED.
        offset: of its header in the zip.
        end: where the next one begins.
        packed: bytes in the zip.
        size: bytes in the tree.
        checksum: CRC-32 of these.
        mode: executable bits.
    """

    path: bytes
    name: bytes
    method: int
    offset: int
    end: int
    packed: int
    size: int
    checksum: int
    mode: int

    def is_directory(self) -> bool:
        """Tell whether it stands for a directory."""
        return self.path.endswith(b"/")


class Archive:
    """A zip's members, all of them found fit to be unpacked.

    Attributes:
        members: in the order of the file.
        directories: every path that must be a directory, without the root.
    """

    def __init__(self, zipped: DecryptingReader, limits: Limits) -> None:
        """Read the directory of *zipped* and check every entry.

        Raises:
            ArchiveError: no zip, or a member that hygiene forbids.
            LimitError: more members or bytes than *limits* allow.
        """
        self._zipped = zipped
        self.members = _members(zipped, limits)
        self.directories = _checked_directories(self.members)
        self._batches = list(_batches(self.members))
        if len(self.directories) > limits.members:
            raise LimitError(
                f"{len(self.directories)} directories, --max-members is {limits.members}"
            )

    def room(self, block: int) -> int:
        """Return how many bytes must be free to unpack all, in files of whole *block*s."""
        sizes = [-(-member.size // block) * block for member in self.members]
        if not self._zipped.releases():
            return sum(sizes)
        growth = sum(max(0, size - m.packed) for size, m in zip(sizes, self.members, strict=True))
        edges = 2 * PAGE * len(self._batches)
        return min(sum(sizes), growth + edges + _parts(PROCESSES) * 2 * STEP)

    def unpack(self, tree: Path, progress: Progress) -> None:
        """Write all members below *tree*, an empty directory.

        Raises:
            ArchiveError: a member is not as its directory entry says; *tree* is then incomplete.
        """
        root = os.fsencode(tree) + b"/"
        for path in sorted(self.directories):
            _path(root + path).mkdir()
        parts = _parts(len(self._batches))

        def write(part: int) -> Iterator[int]:
            for batch in self._batches[part::parts]:
                yield from self._write(batch, root)

        with _processes(write, range(1, parts)) as others:
            _keep_buffers()
            for size in write(0):
                progress.add(size)
                for other in filter(_Process.ready, others):
                    progress.add(next(other, 0))
            for other in others:
                for size in other:
                    progress.add(size)

    def _write(self, batch: list[Member], root: bytes) -> Iterator[int]:
        """Write a batch of members; yield now and then how many bytes they were."""
        window = _Window(self._zipped, batch[0].offset)
        written = 0
        for member in batch:
            if not member.is_directory():
                for size in _write_file(member, window, root):
                    written += size
                    if written >= STEP:
                        yield written
                        written = 0
        window.release(batch[-1].end)
        yield written


def _batches(members: Sequence[Member]) -> Iterator[list[Member]]:
    """Cut *members* into runs of BATCH files or BATCH_BYTES, whichever ends first."""
    batch: list[Member] = []
    packed = 0
    for member in members:
        batch.append(member)
        packed += member.packed
        if len(batch) == BATCH or packed >= BATCH_BYTES:
            yield batch
            batch, packed = [], 0
    if batch:
        yield batch


def _write_file(member: Member, window: _Window, root: bytes) -> Iterator[int]:
    """Write a member's file, piece by piece; yield how long they are."""
    file = os.open(root + member.path, NEW_FILE, 0o666 | member.mode)
    try:
        size = checksum = 0
        for piece in _content(member, window):
            if size + len(piece) > member.size:
                raise _not_as_declared(member)
            checksum = _zlib.crc32(piece, checksum)
            _write_all(file, piece, size)
            size += len(piece)
            yield len(piece)
    except _zlib.error as error:
        raise ArchiveError(f"{os.fsdecode(member.path)!r}: {error}") from error
    finally:
        os.close(file)
    if (size, checksum) != (member.size, member.checksum):
        raise _not_as_declared(member)


def _not_as_declared(member: Member) -> ArchiveError:
    return ArchiveError(f"{os.fsdecode(member.path)!r}: size or checksum is not as declared")


def _members(zipped: DecryptingReader, limits: Limits) -> list[Member]:
    """Return what the zip's directory lists, in the order of the file."""
    listed, end = _listed(zipped)
    if len(listed) > limits.members:
        raise LimitError(f"{len(listed)} members, --max-members is {limits.members}")
    total = sum(info.file_size for info in listed)
    if limits.total_bytes is not None and total > limits.total_bytes:
        raise LimitError(f"{total} bytes unpacked, --max-bytes is {limits.total_bytes}")
    members = []
    while listed:  # what zipfile knows is freed on the way
        info = listed.pop()
        members.append(_checked(info, end))
        end = info.header_offset
    members.reverse()
    return members


def _listed(zipped: DecryptingReader) -> tuple[list[zipfile.ZipInfo], int]:
    """Return the entries of the zip's directory, as zipfile reads it, and where it begins."""
    import zipfile

    try:
        with zipfile.ZipFile(zipped) as archive:
            entries = sorted(archive.infolist(), key=lambda info: info.header_offset)
            return entries, archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
        raise ArchiveError(f"the content is no zip: {error}") from error


def _checked(info: zipfile.ZipInfo, end: int) -> Member:
    """Refuse what is no plain file or directory inside the tree."""
    raw = info.orig_filename  # zipfile cuts `filename` at a NUL
    parts = [part for part in raw.split("/") if part not in ("", ".")]
    is_directory = raw.endswith("/")
    kind = stat.S_IFMT(info.external_attr >> 16)
    stored = info.compress_type == STORED
    faults = {
        "absolute name": raw.startswith("/"),
        "climbing name": ".." in parts,
        "NUL in its name": "\0" in raw,
        "no name": not parts and not is_directory,
        "name too long": len(raw) > NAME_MAX,
        "outside the zip": info.header_offset < 0,
        "not a file or directory": kind not in (0, stat.S_IFDIR if is_directory else stat.S_IFREG),
        "directory with content": is_directory and info.file_size > 0,
        "encrypted or a patch": info.flag_bits & CIPHERED_OR_PATCHED,
        "neither stored nor deflated": not stored and info.compress_type != DEFLATED,
        "sizes contradict": stored and info.compress_size != info.file_size,
    }
    for fault, found in faults.items():
        if found:
            raise ArchiveError(f"member {raw!r} is refused: {fault}")
    name = raw.encode("utf-8" if raw.isascii() or info.flag_bits & UTF8_NAME else "cp437")
    path = ("/".join(parts) + "/" * is_directory).encode()
    numbers = NUMBERS.pack(
        info.compress_type,
        info.header_offset,
        end,
        info.compress_size,
        info.file_size,
        info.CRC,
        (info.external_attr >> 16) & 0o111,
    )
    # As new objects, so that all the memory of zipfile's is freed before processes share it.
    return Member(name if path == name else path, name, *NUMBERS.unpack(numbers))


def _checked_directories(members: Sequence[Member]) -> set[bytes]:
    """Return every directory the members need; no path may mean two things."""
    seen: set[bytes] = set()
    directories: set[bytes] = set()
    for member in members:
        path = member.path.removesuffix(b"/")
        if path in seen:
            raise ArchiveError(f"member {os.fsdecode(path)!r} is refused: its path is there twice")
        seen.add(path)
        parent = path if member.is_directory() else path.rpartition(b"/")[0]
        while parent and parent not in directories:
            directories.add(parent)
            parent = parent.rpartition(b"/")[0]
    for path in directories.intersection(member.path for member in members):
        raise ArchiveError(f"member {os.fsdecode(path)!r} is refused: others lie below this file")
    return directories


def _content(member: Member, window: _Window) -> Iterator[Buffer]:
    """Yield what *member* unpacks to, piece by piece."""
    header = window.read(member.offset, LOCAL_HEADER.size + len(member.name))
    if len(header) < LOCAL_HEADER.size:
        raise ArchiveError(f"{os.fsdecode(member.name)!r}: lies outside the zip")
    signature, method, name_length, extra_length = LOCAL_HEADER.unpack_from(header)
    same = header[LOCAL_HEADER.size :] == member.name and name_length == len(member.name)
    start = member.offset + LOCAL_HEADER.size + name_length + extra_length
    after = start + member.packed
    if signature != b"PK\3\4" or not same or method != member.method or after > member.end:
        raise ArchiveError(
            f"{os.fsdecode(member.name)!r}: local header contradicts the zip's directory"
        )
    pieces = (window.read(at, min(CHUNK, after - at)) for at in range(start, after, CHUNK))
    packed = _ahead(pieces) if member.packed > STEP else pieces
    return packed if method == STORED else _inflated(packed)


def _inflated(packed: Iterator[Buffer]) -> Iterator[bytes]:
    """Inflate one raw deflate stream, at most CHUNK bytes at a time."""
    engine = _zlib.decompressobj(-15)
    rest: Buffer = b""
    full = False
    while not engine.eof:
        if not rest and not full:  # a full piece can have left more inside the engine
            rest = next(packed, b"")
            if not rest:
                break
        piece = engine.decompress(rest, CHUNK)
        rest, full = engine.unconsumed_tail, len(piece) == CHUNK
        yield piece
    if not engine.eof or engine.unused_data or next(packed, None):
        raise ArchiveError("the deflate stream does not end where it should")


def _write_all(file: int, data: Buffer, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


# --- The tree -----------------------------------------------------------------------------------


def open_artifact(artifact: Path, work: Path, tool: Kmstool, limits: Limits) -> Path:
    """Open *artifact* into a new directory below *work*, and return that.

    Raises:
        DecryptorError: the directory may then hold a part of the tree: remove *work*.
    """
    import tempfile

    with artifact.open("rb") as sealed, tempfile.TemporaryFile(dir=work) as copy:
        size = os.fstat(sealed.fileno()).st_size
        _require_room(work, size // 4 * 3, 1)
        data_key = tool.unwrap(read_encrypted_key(sealed))
        with Progress("verifying", size // 4 * 3) as progress:
            copy_verified(sealed, copy, data_key, progress)
        archive = Archive(
            DecryptingReader(copy, data_key, limits.members * DIRECTORY_ENTRY), limits
        )
        files = len(archive.directories) + sum(not m.is_directory() for m in archive.members)
        _require_room(work, archive.room(os.statvfs(work).f_frsize), files)
        tree = work / "tree"
        tree.mkdir()
        with Progress("unpacking", sum(member.size for member in archive.members)) as progress:
            archive.unpack(tree, progress)
    return tree


def _require_room(directory: Path, size: int, files: int) -> None:
    room = os.statvfs(directory)
    # A file system without a size of its own (ramfs) reports zero blocks.
    if room.f_blocks and size > room.f_bavail * room.f_frsize:
        free = room.f_bavail * room.f_frsize
        raise LimitError(f"{size} bytes are needed in {directory.parent}, {free} are free")
    if room.f_files and files > room.f_favail:
        raise LimitError(
            f"{files} files are needed in {directory.parent}, {room.f_favail} are free"
        )


def decrypt(artifact: Path, target: Path, tool: Kmstool, limits: Limits) -> None:
    """Open *artifact* so that *target*, which must not exist, becomes the tree's root.

    The tree is built beside *target* and renamed when it is whole.
    """
    _require_absent(target)
    parent = target.absolute().parent
    if not parent.is_dir():
        raise TargetError(f"{parent} is no directory: make it first")
    with _work_directory(parent, f".{target.name}.") as work:
        tree = open_artifact(artifact, work, tool, limits)
        _require_absent(target)
        _disregard_signals()  # once there is a tree, "nothing is left" is no longer true
        tree.rename(target)


@contextlib.contextmanager
def _work_directory(parent: Path | str, prefix: str) -> Iterator[Path]:
    """Make a private directory; no signal interrupts its removal."""
    import tempfile

    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as work:
        try:
            yield _path(work)
        finally:
            _disregard_signals()


def _require_absent(target: Path) -> None:
    if os.path.lexists(target):
        raise TargetError(f"{target} exists: name a directory that does not")


# --- The guest ----------------------------------------------------------------------------------


def run(artifact: Path, guest: Sequence[str], tool: Kmstool, limits: Limits) -> int:
    """Open *artifact* privately and run *guest*, a script inside it and its arguments.

    Returns:
        The script's exit status; 128 + the number of a signal that killed it.
    """
    with _work_directory(_memory_directory(), "enclave-") as work:
        tree = open_artifact(artifact, work, tool, limits)
        command = _guest_command(tree, *guest)
        try:
            return _run_guest(command, tree)
        except OSError as error:
            raise TargetError(f"{guest[0]} does not start: {error.strerror}") from error
        finally:
            _end_descendants()


def _memory_directory() -> str:
    """Return where the guest's tree goes: TMPDIR if set, else the best memory file system.

    Best is one that may hold programs (containers mount /dev/shm noexec), then the roomiest.
    """
    import tempfile

    mounts = [line.split() for line in _path("/proc/self/mounts").read_text().splitlines()]
    points = [point for _, point, kind, *_ in mounts if kind == "tmpfs"]
    usable = [point for point in points if os.access(point, os.W_OK | os.X_OK)]
    if os.environ.get("TMPDIR") or not usable:
        return tempfile.gettempdir()

    def merit(point: str) -> tuple[bool, int]:
        room = os.statvfs(point)
        return not room.f_flag & os.ST_NOEXEC, room.f_bavail * room.f_frsize

    return max(usable, key=merit)


def _guest_command(tree: Path, script: str, *arguments: str) -> list[str]:
    """Say how to run *script*: by its shebang, by Python, or as the program that it is."""
    path = tree / script
    inside = not script.startswith("/") and ".." not in _path(script).parts
    if not inside or not path.is_file():
        raise TargetError(f"{script} is no regular file of the artifact: name it from its root")
    with path.open("rb") as file:
        first_line = file.readline(256)
    executable = os.access(path, os.X_OK)
    if first_line.startswith(b"#!") and not executable:
        return [*os.fsdecode(first_line[2:].strip()).split(None, 1), str(path), *arguments]
    if not first_line.startswith(b"#!") and path.suffix == ".py":
        return [sys.executable, str(path), *arguments]
    if not executable:
        raise TargetError(f"{script} is not executable, has no #! line and is no .py")
    return [str(path), *arguments]


def _run_guest(command: Sequence[str], tree: Path) -> int:
    """Run *command* without our credentials, and pass every ending signal on to it."""
    import subprocess

    # What the guest leaves behind becomes our child, so that it can be ended.
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    # A terminal signals its whole foreground group: the guest stays in it, and hears Ctrl-C from
    # the terminal. Elsewhere a group of its own keeps it from hearing a signal twice.
    at_terminal = os.isatty(0)
    early: list[int] = []
    _on_signals(lambda number, _: early.append(number))
    guest = subprocess.Popen(
        command, cwd=tree, env=environment, process_group=None if at_terminal else 0
    )

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if not (at_terminal and number == signal.SIGINT):
            guest.send_signal(number)

    _on_signals(pass_on)
    for number in early:
        pass_on(number, None)
    return _shell_status(guest.wait())


def _end_descendants() -> None:
    """Kill what the guest left running, daemons included."""
    while children := _children():
        for child in children:
            os.kill(child, signal.SIGKILL)
        for _ in children:
            os.waitpid(-1, 0)


def _children() -> list[int]:
    found = []
    for process in _path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found.append(int(process.name))
    return found


# --- The command --------------------------------------------------------------------------------


class Progress:
    """Bytes, rate and time left, on one line of the terminal; silent where there is none."""

    def __init__(self, verb: str, total: int) -> None:
        """Show *verb* and how much of *total* bytes has been added."""
        self._verb, self._total, self._done = verb, total, 0
        self._start = self._shown = time.monotonic()
        self._visible = sys.stderr.isatty()

    def __enter__(self) -> Self:
        """Begin; nothing is shown yet."""
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """Leave a summary, or nothing after a failure."""
        if self._visible:
            seconds = time.monotonic() - self._start
            size, rate = self._done / 1e6, self._done / 1e6 / seconds
            summary = f"{self._verb} took {seconds:.1f} s: {size:.0f} MB, {rate:.0f} MB/s\n"
            self._show("" if failure else summary)

    def add(self, size: int) -> None:
        """Count *size* more bytes."""
        if not self._visible:
            return
        self._done += size
        now = time.monotonic()
        if now - self._shown > SECONDS_SHOWN:
            self._shown = now
            rate = self._done / (now - self._start)
            left = max(0, self._total - self._done) / rate
            self._show(
                f"{self._verb} {self._done / 1e6:.0f} of {self._total / 1e6:.0f} MB, "
                f"{rate / 1e6:.0f} MB/s, {left:.0f} s left"
            )

    def _show(self, line: str) -> None:
        sys.stderr.write(f"\r\033[K{line}")
        sys.stderr.flush()


_handled: set[int] = set()
"""Signals that the command line handles; of who calls functions here, we touch none."""


def _on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in _handled:
        signal.signal(number, handler)


def _disregard_signals() -> None:
    """Let signals come too late, until the program has ended."""
    # SIG_IGN alone would do, but Python complains of one that is on its way to it.
    _on_signals(lambda *_: None)
    # Where Python ends, it restores what kills.
    signal.pthread_sigmask(signal.SIG_BLOCK, _handled)


def _end(number: int, _frame: FrameType | None) -> None:
    """Unwind to the exit, cleaning up on the way; a second signal does not disturb that."""
    _disregard_signals()
    os.write(2, f"error: ended by {signal.Signals(number).name}, nothing is left\n".encode())
    sys.exit(128 + number)


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add("-f", dest="file", type=_path, required=True, metavar="FILE", help="the artifact")
    key = shared.add_mutually_exclusive_group(required=True)
    key.add_argument("--key-id", metavar="ARN", help="the only KMS key that may open it")
    key.add_argument("--any-key", action="store_true", help="open whatever KMS decrypts for us")
    add("--kmstool", metavar="PATH", default="kmstool_enclave_cli")
    add("--region", help="of the key; default: the ARN's, else AWS_REGION, AWS_DEFAULT_REGION")
    add("--proxy-port", metavar="N", type=int, default=8000, help="of vsock (%(default)s)")
    add("--timeout", metavar="S", type=float, default=60, help="seconds a try (%(default)s)")
    add("--max-bytes", metavar="N", type=int, help="the tree may have (default: what fits)")
    add("--max-members", metavar="N", type=int, default=1_000_000, help="(%(default)s)")
    parser = argparse.ArgumentParser(description="Open an envelope-encrypted application.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser(
        "decrypt", parents=[shared], allow_abbrev=False, help="open it into a new directory"
    )
    verb.add_argument("-d", dest="directory", type=_path, required=True, metavar="DIR")
    verb = verbs.add_parser(
        "run", parents=[shared], allow_abbrev=False, help="run a script from it; leave nothing"
    )
    verb.epilog = "-- SCRIPT [ARG...]: a file inside the artifact, and what it is called with"
    return parser


def _arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, Sequence[str]]:
    """Parse the command line; what stands behind `--` is the guest's, untouched."""
    cut = argv.index("--") if "--" in argv else len(argv)
    guest = argv[cut + 1 :]
    parser = _parser()
    arguments = parser.parse_args(argv[:cut])
    if bool(guest) != (arguments.verb == "run"):
        parser.error("run, and only run, takes -- SCRIPT [ARG...]")
    pinned = KEY_ARN.fullmatch(arguments.key_id or "")
    if arguments.key_id is not None and not pinned:
        parser.error("--key-id takes a key's ARN, arn:aws:kms:REGION:ACCOUNT:key/ID, no alias")
    arguments.region = (
        arguments.region
        or (pinned and pinned[1])
        or os.environ.get("AWS_REGION")
        or os.environ.get("AWS_DEFAULT_REGION")
    )
    if not arguments.region:
        parser.error("--any-key names no region: give --region, or set AWS_REGION")
    return arguments, guest


def main(argv: Sequence[str]) -> int:
    """Run the command line *argv* and return its exit status."""
    arguments, guest = _arguments(argv)
    # What is ignored at the start stays so, as nohup wants it.
    _handled.update(n for n in ENDING_SIGNALS if signal.getsignal(n) is not signal.SIG_IGN)
    _on_signals(_end)
    tool = Kmstool(
        path=arguments.kmstool,
        region=arguments.region,
        proxy_port=arguments.proxy_port,
        timeout=arguments.timeout,
        key_id=arguments.key_id,
    )
    limits = Limits(arguments.max_bytes, arguments.max_members)
    try:
        if arguments.verb == "run":
            return run(arguments.file, guest, tool, limits)
        decrypt(arguments.file, arguments.directory, tool, limits)
    except DecryptorError as error:
        print(f"error: {arguments.file}: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename or arguments.file}: {error.strerror}", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
