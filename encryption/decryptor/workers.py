"""Work in other processes and threads.

Python's interpreter lock allows only one thread at a time to decode base64 without `pybase64` and
to write small files, so these are distributed to one process per core. The HMAC and AES release
the lock, so a thread is enough for them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
from typing import TYPE_CHECKING, Any, NoReturn, Self

from . import signals
from .errors import DecryptorError, reason
from .system import end_with_parent, keep_freed_blocks

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from queue import SimpleQueue

Buffer = bytes | memoryview

PROCESSES = 4  # at most, for decoding or writing
PREFETCHED = 2  # chunks between two threads
MESSAGE = struct.Struct("<q")  # a number from a process
FAILED = -1  # precedes a process's error


def process_count(tasks: int) -> int:
    """Return the number of processes for *tasks*."""
    return max(1, min(PROCESSES, len(os.sched_getaffinity(0)), tasks))


@contextlib.contextmanager
def in_processes(work: Callable[[int], Iterator[int]], parts: range) -> Iterator[list[Process]]:
    """Run *work*(part) for each of *parts* in its own process, which ends with the context."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Process(work(part))) for part in parts]


class Process:
    """An iterator over the numbers that a generator yields in its own process.

    The process does not wait for its reader: the numbers are buffered in a pipe.
    """

    def __init__(self, numbers: Iterator[int]) -> None:
        """Start the process."""
        self._pid = 0
        self._reader, writer = os.pipe()
        # A signal would unwind the child as if it were this process; it is killed instead.
        try:
            with signals.held():
                parent = os.getpid()
                self._pid = os.fork()
                if self._pid == 0:
                    os.close(self._reader)  # so that a write fails once the parent has ended
                    _send(numbers, writer, parent)
        except BaseException:  # a signal that was held
            self.__exit__()
            raise
        finally:
            os.close(writer)

    def __enter__(self) -> Self:
        """Begin; the process is already running."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the process if it has not ended."""
        os.close(self._reader)
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def __iter__(self) -> Self:
        """Iterate over the numbers."""
        return self

    def __next__(self) -> int:
        """Return the next number, or raise the process's error."""
        message = os.read(self._reader, MESSAGE.size)
        if not message:
            self._wait()
            raise StopIteration
        (number,) = MESSAGE.unpack(message)
        if number != FAILED:
            return int(number)
        with open(self._reader, "rb", closefd=False) as rest:
            kind, _, text = rest.read().decode().partition(":")
        kinds = {kind.__name__: kind for kind in DecryptorError.__subclasses__()}
        raise kinds.get(kind, DecryptorError)(text)

    def ready(self) -> bool:
        """Return whether `next` would return without waiting."""
        return bool(select.select([self._reader], [], [], 0)[0])

    def _wait(self) -> None:
        if self._pid:
            pid, self._pid = self._pid, 0
            if os.waitpid(pid, 0)[1]:
                raise DecryptorError("a process was killed: give the enclave more memory")


def _send(numbers: Iterator[int], writer: int, parent: int) -> NoReturn:
    """Run as the process: write the numbers, or the error."""
    status = 1
    try:
        end_with_parent(parent)
        keep_freed_blocks()
        for number in numbers:
            os.write(writer, MESSAGE.pack(number))
        status = 0
    except Exception as error:  # noqa: BLE001 - the parent raises it
        text = f"{type(error).__name__}:{reason(error)}"
        os.write(writer, MESSAGE.pack(FAILED) + text.encode(errors="backslashreplace"))
    finally:
        os._exit(status)


def prefetch(chunks: Iterator[Buffer]) -> Iterator[Buffer]:
    """Run *chunks* in a thread, PREFETCHED chunks in advance; the reader gets its error."""
    items, room = _queues()

    def run() -> None:
        try:
            for chunk in chunks:
                room.get()
                items.put(chunk)
        except Exception as error:  # noqa: BLE001 - the reader raises it
            items.put(error)
        else:
            items.put(b"")

    _start(run)  # if the reader stops early, the daemon thread keeps waiting, which does no harm
    while item := items.get():
        room.put(None)
        if isinstance(item, Exception):
            raise item
        yield item


@contextlib.contextmanager
def in_thread(work: Callable[[Buffer], None]) -> Iterator[Callable[[Buffer], None]]:
    """Yield a function that passes items to *work* in a thread; all are done when this ends.

    *work* must not raise.
    """
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
    """Return a queue of items and one of free places for them.

    Take a place before putting an item, and give it back when the item has been taken.
    """
    from queue import SimpleQueue

    items: SimpleQueue[Any] = SimpleQueue()
    room: SimpleQueue[None] = SimpleQueue()
    for _ in range(PREFETCHED):
        room.put(None)
    return items, room


def _start(run: Callable[[], None]) -> threading.Thread:
    """Run *run* in a daemon thread that leaves signals to the main thread."""
    import threading

    def quiet() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signals.HELD)
        run()

    thread = threading.Thread(target=quiet, daemon=True)
    thread.start()
    return thread
