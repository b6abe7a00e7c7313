"""Reading and writing files so that a crash, a full disk or a strange file never surprises."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from reinforge.errors import IntegrityError, PathError, StorageError
from reinforge.messages import _, mark

CHUNK = 1 << 20
# Not every platform has them; where one is missing, the check after opening still holds.
_SAFE_OPEN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)

_SPACE = mark("Free some space, or choose another folder. Nothing saved before is lost.")
_PERMISSION = (mark("there is no permission"), mark("Change the folder's permissions, or choose another one."))
_PATH = mark("Check the path.")
# What the machine lacks, and what another path would mend.
_MACHINE = {
    errno.ENOSPC: (mark("the disk is full"), _SPACE),
    errno.EDQUOT: (mark("the disk quota is used up"), _SPACE),
    errno.EFBIG: (
        mark("the file is larger than this system allows"),
        mark("Raise the limit (ulimit -f), or choose another folder."),
    ),
}
_PATHS = {
    errno.EROFS: (mark("the file system is read-only"), mark("Choose a folder that can be written.")),
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.ENOENT: (mark("there is no such file or folder"), _PATH),
    errno.ENOTDIR: (mark("a part of the path is no folder"), _PATH),
    errno.EISDIR: (mark("it is a folder, not a file"), _PATH),
    errno.ELOOP: (mark("it is a symbolic link"), mark("Replace the link by the file itself.")),
}


@contextlib.contextmanager
def storage_errors(where: str | Path) -> Iterator[None]:
    """Turn the operating system's errors inside into a StorageError that names `where` and a remedy.

    It is a PathError where another path would do.
    """
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        if number in _PATHS:
            problem, remedy = _PATHS[number]
            raise PathError(_(problem), where=str(where), remedy=_(remedy)) from error
        if number in _MACHINE:
            problem, remedy = _MACHINE[number]
            raise StorageError(_(problem), where=str(where), remedy=_(remedy)) from error
        raise StorageError(error.strerror or str(error), where=str(where)) from error


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable."""
    if os.name == "nt":  # a folder can't be opened for syncing there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, chunks: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Write a file that must not exist yet, synced; its size in bytes and SHA-256, taken from what was handed over."""
    digest, size = hashlib.sha256(), 0
    with open(path, "xb", buffering=0) as file:
        for chunk in chunks:
            digest.update(chunk)
            view = memoryview(chunk).cast("B") if len(chunk) else memoryview(b"")
            size += len(view)
            while view:
                view = view[file.write(view) :]
        os.fsync(file.fileno())
    return size, digest.hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends without error, whole or not at all.

    Raises StorageError; the old content then stays.
    """
    with storage_errors(path.parent):
        descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    try:
        with storage_errors(path):
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if os.name != "nt":
                mask = os.umask(0)
                os.umask(mask)
                os.chmod(name, 0o666 & ~mask)
            os.replace(name, path)
            sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def write_atomic(path: Path, text: str) -> None:
    """Replace a text file whole or not at all (UTF-8). Raises StorageError; the old content then stays."""
    with replacing(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[tuple[int, int]]:
    """Open for reading: (descriptor, size in bytes). Links, devices, pipes and folders raise IntegrityError."""
    with storage_errors(path):
        if path.is_symlink():
            problem, remedy = _PATHS[errno.ELOOP]
            raise IntegrityError(_(problem), where=str(path), remedy=_(remedy))
        descriptor = os.open(path, _SAFE_OPEN)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError("it is no regular file", where=str(path))
        yield descriptor, status.st_size
    finally:
        os.close(descriptor)


def read_into(descriptor: int, buffer: memoryview, where: str | Path) -> None:
    """Fill `buffer` from the descriptor's position. Raises IntegrityError where the file ends before."""
    with storage_errors(where):
        while buffer:
            count = os.readv(descriptor, [buffer[: 64 * CHUNK]]) if hasattr(os, "readv") else _read(descriptor, buffer)
            if count == 0:
                raise IntegrityError("the file is shorter than stated", where=str(where))
            buffer = buffer[count:]


def _read(descriptor: int, buffer: memoryview) -> int:
    chunk = os.read(descriptor, min(len(buffer), CHUNK))
    buffer[: len(chunk)] = chunk
    return len(chunk)


def read_limited(path: Path, limit: int) -> bytes:
    """The whole file. Raises IntegrityError where it is larger than `limit` bytes, StorageError where unreadable."""
    with open_regular(path) as (descriptor, size):
        if size > limit:
            raise IntegrityError(f"the file has {size:,} bytes, and {limit:,} are allowed", where=str(path))
        content = bytearray(size)
        read_into(descriptor, memoryview(content), path)
    return bytes(content)


def file_digest(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a regular file, read in pieces."""
    digest, total = hashlib.sha256(), 0
    with open_regular(path) as (descriptor, _size), storage_errors(path):
        while chunk := os.read(descriptor, CHUNK):
            digest.update(chunk)
            total += len(chunk)
    return total, digest.hexdigest()


def require_space(folder: Path, needed: int) -> None:
    """Raise StorageError where the file system of `folder` (or its nearest parent) has under `needed` bytes free."""
    where = folder
    while not where.exists() and where != where.parent:
        where = where.parent
    with storage_errors(folder):
        free = shutil.disk_usage(where).free
    if free < needed:
        text = _("the disk has {free:,.0f} MB free, and {needed:,.0f} MB are needed")
        raise StorageError(text.format(free=free / 1e6, needed=needed / 1e6), where=str(folder), remedy=_(_SPACE))
