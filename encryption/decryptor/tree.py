"""Pass 2, top layer: an artifact becomes a directory, whole or not at all.

`open_artifact` turns an artifact into a tree; `decrypt` moves that tree to its target, `script.run`
runs a script from it. Both work in a `private_directory`, which is always removed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from . import signals
from .archive import Archive, Limits, Member, content, zlib
from .errors import ArchiveError, LimitError, TargetError
from .format import read_encrypted_key
from .private import DIRECTORY, private_directory
from .progress import Progress
from .reader import RELEASED, DecryptingReader, Window
from .system import PAGE, keep_freed_blocks
from .token import copy_verified, require_not_before, write_all
from .workers import PROCESSES, Process, in_processes, process_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from .token import Artifact

    Unwrap = Callable[[bytes], bytes]
    """Returns the 32 bytes of an encrypted data key, as `Kmstool.unwrap` does."""

BATCH, BATCH_BYTES = 256, 8 << 20  # members, or compressed bytes, written at once
REPORTED = 8 << 19  # bytes written between two reports of progress
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def decrypt(artifact: Artifact, target: Path, unwrap: Unwrap, limits: Limits) -> None:
    """Decrypt *artifact*; *target*, which must not exist, becomes the tree's root.

    The tree is built in the same directory as *target* and renamed when it is complete.

    Raises:
        DecryptorError: nothing was left, neither *target* nor a part of the tree.
    """
    _require_absent(target)
    parent = target.absolute().parent
    if not parent.is_dir():
        raise TargetError(f"{parent} is not a directory: create it first")
    with private_directory(parent) as work:
        tree = open_artifact(artifact, work, unwrap, limits)
        _require_absent(target)
        signals.check()
        signals.disregard()  # once the tree is there, the message "nothing is left" would be wrong
        tree.rename(target)


def _require_absent(target: Path) -> None:
    if os.path.lexists(target):
        raise TargetError(f"{target} exists: choose a directory that does not")


def open_artifact(
    artifact: Artifact,
    work: Path,
    unwrap: Unwrap,
    limits: Limits,
    owner: tuple[int, int] = (-1, -1),
) -> Path:
    """Open *artifact* into a new directory below *work*, which *owner* gets, and return that.

    The artifact is verified while it arrives: stored is its decoded, still encrypted copy, which
    shrinks as the tree grows. *unwrap* is called once, when the header has been read.

    Raises:
        DecryptorError: the directory may then hold a part of the tree: remove *work*.
        OSError: of reading the artifact, or of writing below *work*.
    """
    import tempfile

    with tempfile.TemporaryFile(dir=work) as copy:
        _require_room(work, artifact.copy_size(), 1)
        data_key = unwrap(read_encrypted_key(artifact.stream))
        with Progress("verifying", artifact.copy_size()) as progress:
            copy_verified(artifact, copy, data_key, progress)
        require_not_before(copy, limits.not_before)
        zipped = DecryptingReader(copy, data_key)
        return _unpack(Archive(zipped, limits), work, owner)


def _unpack(archive: Archive, work: Path, owner: tuple[int, int]) -> Path:
    """Write all members into a new directory below *work*, and return that."""
    batches = list(_batches(archive.members))
    files = len(archive.directories) + sum(not m.is_directory() for m in archive.members)
    _require_room(work, _room(archive, len(batches), os.statvfs(work).f_frsize), files)
    tree = work / "tree"
    tree.mkdir()
    root = os.open(tree, DIRECTORY)
    try:
        os.chown(root, *owner)
        _create_directories(root, archive.directories, owner)
        with Progress("unpacking", sum(member.size for member in archive.members)) as progress:
            _write_batches(archive.zipped, batches, _Place(root, *owner), progress)
    finally:
        os.close(root)
    return tree


class _Place(NamedTuple):
    """Where files are written, and their owner; -1 leaves the owner as it is."""

    root: int
    user: int
    group: int


def _create_directories(
    root: int, directories: Sequence[tuple[int, bytes]], owner: tuple[int, int]
) -> None:
    """Create the directories of an `Archive` below *root*.

    Each is created in its open parent: by path, the kernel would walk a chain of 2,000 directories
    again for each of them.
    """
    here, at = os.dup(root), 0
    try:
        for number, (parent, name) in enumerate(directories, start=1):
            if parent != at:
                child = parent == number - 1 and directories[parent - 1][0] == at
                path = directories[parent - 1][1] if child else _path(directories, parent)
                there = os.open(path, DIRECTORY, dir_fd=here if child else root)
                os.close(here)
                here, at = there, parent
            os.mkdir(name, dir_fd=here)
            if owner != (-1, -1):
                os.chown(name, *owner, dir_fd=here, follow_symlinks=False)
    finally:
        os.close(here)


def _path(directories: Sequence[tuple[int, bytes]], number: int) -> bytes:
    names = [b"."]
    while number:
        number, name = directories[number - 1]
        names.insert(1, name)
    return b"/".join(names)


def _room(archive: Archive, batches: int, block: int) -> int:
    """Return how many bytes must be free to unpack all, in files of whole *block*s."""
    sizes = [-(-member.size // block) * block for member in archive.members]
    if not archive.zipped.releases():
        return sum(sizes)
    growth = sum(max(0, size - m.packed) for size, m in zip(sizes, archive.members, strict=True))
    edges = 2 * PAGE * batches
    return min(sum(sizes), growth + edges + process_count(PROCESSES) * 2 * RELEASED)


def _require_room(directory: Path, size: int, files: int) -> None:
    room = os.statvfs(directory)
    # A file system without a size of its own (ramfs) reports zero blocks.
    if room.f_blocks and size > room.f_bavail * room.f_frsize:
        free = room.f_bavail * room.f_frsize
        raise LimitError(
            f"{size} bytes are needed in {directory.parent}, but only {free} are free: free some "
            "space, or give the enclave more memory"
        )
    if room.f_files and files > room.f_favail:
        raise LimitError(
            f"{files} files are needed in {directory.parent}, but only {room.f_favail} inodes are "
            "free: use another file system"
        )


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


def _write_batches(
    zipped: DecryptingReader, batches: list[list[Member]], place: _Place, progress: Progress
) -> None:
    """Write *batches* into *place*, in several processes including this one.

    Raises:
        ArchiveError: a member contradicts its directory entry; the tree is then incomplete.
    """
    parts = process_count(len(batches))

    def write(part: int) -> Iterator[int]:
        for batch in batches[part::parts]:
            yield from _write_batch(zipped, batch, place)

    with in_processes(write, range(1, parts)) as others:
        keep_freed_blocks()
        for size in write(0):
            progress.add(size)
            for other in filter(Process.ready, others):
                progress.add(next(other, 0))
        for other in others:
            for size in other:
                progress.add(size)


def _write_batch(zipped: DecryptingReader, batch: list[Member], place: _Place) -> Iterator[int]:
    """Write a batch of members; yield from time to time the number of bytes written."""
    window = Window(zipped, batch[0].offset)
    written = 0
    for member in batch:
        if member.is_directory():
            _check_empty(member, window)
            continue
        for size in _write_file(member, window, place):
            written += size
            if written >= REPORTED:
                yield written
                written = 0
    window.release(batch[-1].end)
    yield written


def _check_empty(member: Member, window: Window) -> None:
    """Check a directory's headers, like those of files when they are written."""
    if any(content(member, window)):
        raise _not_as_declared(member)


def _write_file(member: Member, window: Window, place: _Place) -> Iterator[int]:
    """Write a member's file, chunk by chunk; yield each chunk's length."""
    file = os.open(member.path, NEW_FILE, 0o666 | member.mode, dir_fd=place.root)
    try:
        if place.user >= 0:
            os.fchown(file, place.user, place.group)
        size = checksum = 0
        for chunk in content(member, window):
            if size + len(chunk) > member.size:
                raise _not_as_declared(member)
            checksum = zlib.crc32(chunk, checksum)
            write_all(file, chunk, size)
            size += len(chunk)
            yield len(chunk)
    except zlib.error as error:
        raise ArchiveError(f"{os.fsdecode(member.path)!r}: {error}") from error
    finally:
        os.close(file)
    if (size, checksum) != (member.size, member.checksum):
        raise _not_as_declared(member)


def _not_as_declared(member: Member) -> ArchiveError:
    return ArchiveError(
        f"{os.fsdecode(member.path)!r}: size or checksum is not that of the zip's central directory"
    )
