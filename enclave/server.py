#!/usr/bin/env python3
"""Serve run requests inside an enclave: one script from one artifact at a time.

    server.py --listen vsock:6000 --key-id ARN

The parent instance sends an artifact, a script's name and its own credentials, and receives what
the script writes. The key that decrypts artifacts is set on this command line, which PCR0 measures:
a request cannot choose it, nor the region, the proxy's port or the program that asks KMS.

This file is the command and the loop that accepts connections. Each request is served by a process
of its own (`serving.py`), so that nothing of it is left here and the server can run for months.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
import select
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from enclave.protocol import Address
    from enclave.serving import Settings

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BACKLOG: Final = 16
SCRIPT_USERS: Final = range(10_001, 60_001)  # ids: if the server is root, its scripts run as one
GRACE: Final = 200  # milliseconds for a run whose client has gone
KEPT_FREE: Final = 96 << 20  # bytes of memory for the server and the decryptor, see docs/enclave.md
MS_NOSUID, MS_NODEV, MNT_DETACH = 2, 4, 2  # mount(2), umount2(2)
ANY_CID: Final = 0xFFFF_FFFF  # VMADDR_CID_ANY


class Run:
    """A request that is being served: its process, its connection and its folder."""

    def __init__(self, peer: socket.socket, settings: Settings, folder: Path) -> None:
        """Fork a process that serves *peer* in *folder*.

        Raises:
            OSError: there is no room for another process.
        """
        self.peer = peer
        self.folder = folder
        self._user = settings.user
        # The other end is closed when the process has ended, even if it left programs running:
        # they do not inherit it.
        self.ended, running = os.pipe()
        parent = os.getpid()
        try:
            self._pid = os.fork()
        except OSError:
            os.close(self.ended)
            os.close(running)
            raise
        if self._pid == 0:
            os.close(self.ended)
            _serve(peer, settings, folder, parent)
        os.close(running)

    def end(self) -> bool:
        """Kill what is left of the run and remove what it wrote; return whether all is gone.

        What cannot be removed is logged.
        """
        from decryptor import leftovers
        from decryptor.errors import TimeLimitError
        from enclave import folders

        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        failures = []
        try:
            leftovers.end_children(self._user)
        except TimeLimitError as error:
            failures.append(str(error))
        os.close(self.ended)
        self.peer.close()
        try:
            folders.remove(self.folder)
        except OSError as error:
            failures.append(f"{error.filename}: {error.strerror}: files of a run cannot be removed")
        if self._user and not leftovers.remove_all_of(self._user):
            failures.append("files of a run outside of its folder cannot be removed")
        for failure in failures:
            _log(f"error: {failure}")
        return not failures


def _serve(peer: socket.socket, settings: Settings, folder: Path, parent: int) -> NoReturn:
    """Run as the process of a run, which ends with *parent*."""
    import tempfile

    from decryptor.system import end_with_parent

    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in ENDING:
            # The server ends this process, so a terminal's Ctrl-C, which also reaches it, must not.
            # An ignored signal would stay ignored in the script.
            signal.signal(number, lambda *_: None)
        end_with_parent(parent)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)

        from enclave.serving import serve

        _log(f"run {serve(peer, settings, folder)}")
        status = 0
    except BaseException as error:  # noqa: BLE001 - nothing may reach the server's own stack
        _log(f"error: run: unexpected {type(error).__name__}, please report it: {error}")
    finally:
        os._exit(status)


def _log(line: str) -> None:
    """Write one line to the console; it must not contain secrets."""
    from decryptor.errors import printable

    with contextlib.suppress(OSError):
        # Names that the client or the script has chosen may be in it.
        os.write(2, f"{printable(line)}\n".encode(errors="backslashreplace"))


class Server:
    """Accepts connections; while it serves one, it answers all others that it is busy."""

    def __init__(self, listener: socket.socket, settings: Settings, base: str) -> None:
        """Serve clients that connect to *listener*; runs have their folders in *base*."""
        self._listener = listener
        self._settings = settings
        self._base = base
        self._run: Run | None = None
        self.all_gone = True  # of the runs that have ended

    def serve(self, ending: int) -> None:
        """Serve until the descriptor *ending* becomes readable, then remove everything."""
        self._listener.settimeout(0)
        try:
            while ending not in (happened := self._wait(ending)):
                if self._run and self._run.ended in happened:
                    self._finish()
                elif self._run and self._run.peer.fileno() in happened:
                    # A client that disconnects ends its run, whatever the run is waiting for. A
                    # client that has its answer disconnects, too: then the run ends by itself soon.
                    self._wait(ending, self._run.ended, milliseconds=GRACE)
                    self._finish()
                if self._listener.fileno() in happened:
                    self._accept()
        finally:
            self._finish()

    def _wait(self, *descriptors: int, milliseconds: int | None = None) -> set[int]:
        """Return which of *descriptors*, and without a time limit of the server's, are ready."""
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        if milliseconds is None:
            poll.register(self._listener, select.POLLIN)
            if self._run:
                poll.register(self._run.ended, select.POLLIN)
                poll.register(self._run.peer, select.POLLRDHUP)
        return {descriptor for descriptor, _ in poll.poll(milliseconds)}

    def _accept(self) -> None:
        import tempfile

        from enclave import protocol

        try:
            peer, _ = self._listener.accept()
        except OSError:
            return  # it has already disconnected
        if self._run:
            _answer(peer, protocol.BUSY, b"")
            return
        try:
            folder = Path(tempfile.mkdtemp(prefix="enclave-run-", dir=self._base))
        except OSError as error:
            reason = f"the enclave has no room for this run: {error.strerror}"
            _answer(peer, protocol.FAILED, reason.encode())
            return
        try:
            self._run = Run(peer, self._settings, folder)
        except OSError as error:
            folder.rmdir()
            reason = f"the enclave cannot start a process for this run: {error.strerror}"
            _answer(peer, protocol.FAILED, reason.encode())

    def _finish(self) -> None:
        if self._run:
            run, self._run = self._run, None
            self.all_gone &= run.end()


def _answer(peer: socket.socket, kind: bytes, content: bytes) -> None:
    """Send the only frame of an answer; a client that does not accept it at once gets nothing."""
    from enclave import protocol

    with peer, contextlib.suppress(protocol.ProtocolError):
        protocol.send_frame(protocol.Connection(peer, stall=0.0), kind, content)


# --- the command line -----------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    from decryptor import VERSION, options

    parser = options.Parser(
        description="Serve run requests inside an enclave, one at a time.",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # an example is copied as it is
        allow_abbrev=False,
        epilog=f"example:\n  server.py --listen vsock:6000 --key-id \\\n    {options.ARN}",
    )
    add = parser.add_argument
    add(
        "--version",
        action="version",
        version=f"%(prog)s {VERSION}",
        help="print the version and exit",
    )
    add("--listen", required=True, type=_address, metavar="ADDRESS", help="vsock:6000 or unix:PATH")
    options.add_options(parser)
    add(
        "--mount-tmpfs",
        metavar="DIR",
        help="mount a tmpfs at DIR for runs, as large as the available memory less 96 MiB",
    )
    add(
        "--max-seconds",
        metavar="S",
        type=options.seconds,
        help="seconds that a script may run; default: no limit",
    )
    add(
        "--stall",
        metavar="S",
        type=options.seconds,
        default=60,
        help="abort a transfer after so many seconds without progress; default: %(default)s",
    )
    return parser


def _address(text: str) -> Address:
    from enclave.protocol import Address

    try:
        address = Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if address.cid is not None:
        raise argparse.ArgumentTypeError(
            f"{text!r} has a CID, but a server has only a port: write vsock:{address.port}"
        )
    return address


def _settings(arguments: argparse.Namespace) -> Settings:
    from decryptor import options
    from enclave.serving import Settings

    return Settings(
        source=options.key_source(arguments, credentials={}),
        limits=options.limits(arguments),
        stall=arguments.stall,
        seconds=arguments.max_seconds,
        user=_script_user() if os.geteuid() == 0 else None,
    )


def _script_user() -> tuple[int, int]:
    """Return a user and group that nobody else has, not even another server's scripts.

    At the end of a run, all processes and files of this user are removed.
    """
    import pwd

    known = {user.pw_uid for user in pwd.getpwall()}
    start = os.getpid() % len(SCRIPT_USERS)
    candidates = (*SCRIPT_USERS[start:], *SCRIPT_USERS[:start])
    user = next(user for user in candidates if user not in known)
    return user, user


def _room_for_runs() -> int:
    """Return the bytes of memory that runs may fill: what our own programs do not need.

    If runs could fill all of it, the kernel would end the server.
    """
    available = re.search(r"MemAvailable: +([0-9]+) kB", Path("/proc/meminfo").read_text())
    free = int(available[1]) * 1024 if available else 0
    return max(free - KEPT_FREE, free // 2)


@contextlib.contextmanager
def _own_memory(place: str) -> Iterator[None]:
    """Mount a memory file system for runs at *place*, and unmount it at the end.

    What an enclave's init mounts (/run, /tmp, /dev/shm) is noexec and limited to half the memory.

    Raises:
        OSError: *place* does not exist, or the server is not root.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    what, options = b"tmpfs", f"size={_room_for_runs()},nr_inodes=0,mode=0711".encode()
    if libc.mount(what, os.fsencode(place), what, MS_NOSUID | MS_NODEV, options):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), place)
    try:
        yield
    finally:
        libc.umount2(os.fsencode(place), MNT_DETACH)


@contextlib.contextmanager
def _listening(address: Address) -> Iterator[socket.socket]:
    """Listen at *address*, on a Unix socket that only this user may connect to.

    Raises:
        OSError: the address is in use, or not valid.
    """
    from enclave import protocol

    listener = protocol.open_socket(address)
    with listener, contextlib.ExitStack() as stack:
        if address.path:
            mask = os.umask(0o177)
            try:
                listener.bind(address.path)
            finally:
                os.umask(mask)
            stack.callback(Path(address.path).unlink, missing_ok=True)
        else:
            listener.bind((ANY_CID, address.port))
        listener.listen(BACKLOG)
        yield listener


def _ending() -> tuple[int, list[int]]:
    """Return a descriptor that becomes readable when an ending signal arrives, and the signals."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # A handler would run too late if a signal arrives just before the server waits.
    signal.set_wakeup_fd(writer)
    numbers: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        numbers.append(number)

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, end)
    return reader, numbers


def _reaches(user: tuple[int, int], path: str) -> bool:
    """Return whether *user* may pass all directories above *path*, and enter or run it."""
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(user[1])
        os.setuid(user[0])
        os._exit(not os.access(path, os.X_OK))
    return os.waitpid(pid, 0)[1] == 0


def _base(user: tuple[int, int] | None, place: str | None) -> str:
    """Return where to put the folders of runs: *place*, or else where *user* can reach them.

    Raises:
        OSError: *user* cannot run any Python.
    """
    from shutil import which

    from decryptor.script import memory_directory

    base = place or memory_directory()
    if user is None:
        return base
    if not place and not _reaches(user, base) and os.environ.pop("TMPDIR", ""):
        base = memory_directory()
    pythons = (sys.executable, os.path.realpath(sys.executable), which("python3", path=os.defpath))
    for python in filter(None, pythons):
        if _reaches(user, python):
            sys.executable = python  # runs scripts that end in .py
            return base
    unreached = f"user {user[0]}, who runs scripts, cannot run this program"
    raise PermissionError(errno.EACCES, unreached, sys.executable)


def main(argv: Sequence[str]) -> int:
    """Run the command line *argv* and return its exit status."""
    from decryptor import options, system
    from decryptor.errors import KeyReleaseError

    parser = _parser()
    arguments = parser.parse_args(argv)
    options.settle_region(parser, arguments)
    try:
        settings = _settings(arguments)
    except KeyReleaseError as error:
        return options.complain(str(error))
    system.open_standard_streams()
    system.write_no_core()
    ending, numbers = _ending()
    # Processes that a run leaves become our children when the run's own process has ended.
    system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
    try:
        with contextlib.ExitStack() as stack:
            if arguments.mount_tmpfs:
                stack.enter_context(_own_memory(arguments.mount_tmpfs))
            base = _base(settings.user, arguments.mount_tmpfs)
            listener = stack.enter_context(_listening(arguments.listen))
            _log(f"listening on {arguments.listen}")
            server = Server(listener, settings, base)
            server.serve(ending)
    except OSError as error:
        place = error.filename or arguments.listen
        again = ": is another server listening there?" if error.errno == errno.EADDRINUSE else ""
        _log(f"error: {place}: {error.strerror}{again}")
        return 1
    left = "nothing is left" if server.all_gone else "the lines above name what is left"
    _log(f"error: terminated by {signal.Signals(numbers[0]).name}, {left} behind")
    return 128 + numbers[0]


if __name__ == "__main__":
    _ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
    sys.path[:0] = [_ROOT, os.path.join(_ROOT, "encryption")]  # noqa: PTH118
    sys.exit(main(sys.argv[1:]))
