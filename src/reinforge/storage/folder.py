"""Folders that are committed whole or not at all, and read only as their manifest states."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reinforge.errors import IntegrityError, PathError
from reinforge.messages import _
from reinforge.storage import manifest as manifests
from reinforge.storage import strict_json
from reinforge.storage.files import file_digest, read_limited, storage_errors, sync_folder, write_new
from reinforge.storage.manifest import FileRecord, Manifest, parse_manifest
from reinforge.storage.strict_json import Json

# Windows has no such locks: leftovers of dead writers then stay until removed by hand.
fcntl = importlib.import_module("fcntl") if os.name == "posix" else None

_TEMPORARY, _DISCARDED = ".tmp-", ".old-"


@dataclass
class Staging:
    """A folder being written, beside its target. Every file is synced and recorded as it is added."""

    path: Path
    records: dict[str, FileRecord] = field(default_factory=dict)
    about: dict[str, Json] = field(default_factory=dict)

    def write(self, name: str, chunks: Iterable[bytes | memoryview]) -> FileRecord:
        """Add a file. Raises StorageError."""
        path = self._place(name)
        with storage_errors(path):
            self.records[name] = FileRecord(*write_new(path, chunks))
        return self.records[name]

    def text(self, name: str, text: str) -> FileRecord:
        """Add a text file (UTF-8)."""
        return self.write(name, [text.encode()])

    def json(self, name: str, value: Json) -> FileRecord:
        """Add a JSON file."""
        return self.text(name, strict_json.pretty(value))

    def link(self, name: str, source: Path, record: FileRecord) -> FileRecord:
        """Add a file of known digest by a hard link, or by a checked copy where links fail."""
        path = self._place(name)
        try:
            os.link(source, path, follow_symlinks=False)
        except OSError:
            with storage_errors(path):
                shutil.copyfile(source, path, follow_symlinks=False)
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            if file_digest(path) != record:
                raise IntegrityError("its content has changed since it was sealed", where=str(source)) from None
        if path.stat().st_size != record.size:
            raise IntegrityError("its size has changed since it was sealed", where=str(source))
        self.records[name] = record
        return record

    def _place(self, name: str) -> Path:
        manifests.check_names([*self.records, name], str(self.path))
        path = self.path / name
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path


@contextlib.contextmanager
def commit(target: Path, format: str, version: int) -> Iterator[Staging]:
    """Write a folder atomically: it appears under `target`, complete and durable, when the block ends without error.

    `target` must not exist. Raises StorageError (full disk, no permission, ...); then nothing of it is left.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        raise PathError(_("it exists already"), where=str(target), remedy=_("Choose another folder, or remove it."))
    sweep(target.parent)
    with _temporary(target) as path:
        staging = Staging(path)
        yield staging
        with storage_errors(target):
            manifest = Manifest(format, version, staging.records, staging.about)
            write_new(path / manifests.NAME, [manifest.text().encode()])
            for folder, _folders, _files in os.walk(path, topdown=False):
                sync_folder(Path(folder))
            os.rename(path, target)
            sync_folder(target.parent)


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A new folder on the target's file system, locked as long as its writer lives."""
    while True:
        path = target.with_name(f"{_TEMPORARY}{target.name}-{secrets.token_hex(4)}")
        with storage_errors(target.parent):
            path.mkdir()
            try:
                lock = _lock(path)
            except FileNotFoundError:  # swept by another writer before the lock was taken
                continue
        if lock is None or path.exists():
            break
        os.close(lock)
    try:
        yield path
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _lock(path: Path) -> int | None:
    """An exclusive lock on a folder, released with its descriptor. Raises BlockingIOError where a writer lives."""
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder for this process as long as the block lasts; the system lets go of it for a process that dies.

    Raises PathError where another holds it. Does nothing on file systems without locks.
    """
    try:
        lock = _lock(folder)
    except BlockingIOError:
        raise PathError(
            _("another process is training in this folder"), where=str(folder),
            remedy=_("Wait for it, or end it; or choose another folder."),
        ) from None  # fmt: skip
    except OSError:
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def sweep(folder: Path) -> None:
    """Remove what writers that died left behind in `folder`. What a living one writes stays."""
    for path in (*folder.glob(f"{_TEMPORARY}*"), *folder.glob(f"{_DISCARDED}*")):
        if fcntl is None or path.is_symlink() or not path.is_dir():
            continue
        with contextlib.suppress(OSError):
            lock = _lock(path)
            try:
                shutil.rmtree(path, ignore_errors=True)
            finally:
                if lock is not None:
                    os.close(lock)


def discard(path: Path) -> None:
    """Remove a committed folder: it is gone at once, or stays whole."""
    with storage_errors(path):
        hidden = path.with_name(f"{_DISCARDED}{path.name}-{secrets.token_hex(4)}")
        os.rename(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


@dataclass
class Folder:
    """A committed folder opened for reading: its manifest is checked, its listing and sizes match it.

    Contents are checked against their digests as they are read; `verify` checks all that was not read.
    """

    path: Path
    manifest: Manifest
    _unread: set[str]

    @classmethod
    def open(cls, path: Path, format: str) -> Folder:
        """Raises IntegrityError (malformed, links, extra, missing or resized files) or StorageError (not there)."""
        where = str(path / manifests.NAME)
        if not path.is_dir():
            raise PathError(_("there is no such folder"), where=str(path), remedy=_("Check the path."))
        content = read_limited(path / manifests.NAME, manifests.MAX_BYTES)
        manifest = parse_manifest(strict_json.parse(content, where), where, format)
        _check_listing(path, manifest.files)
        return cls(path, manifest, set(manifest.files))

    def __contains__(self, name: str) -> bool:
        return name in self.manifest.files

    def record(self, name: str) -> FileRecord:
        """Size and digest of a file. Raises IntegrityError where the manifest has none of that name."""
        try:
            return self.manifest.files[name]
        except KeyError:
            raise IntegrityError(f"the file {name!r} is missing", where=str(self.path)) from None

    def bytes(self, name: str, limit: int = strict_json.MAX_BYTES) -> bytes:
        """A file's content, checked."""
        self.record(name)
        content = read_limited(self.path / name, limit)
        self.check(name, len(content), hashlib.sha256(content).hexdigest())
        return content

    def json(self, name: str, limit: int = strict_json.MAX_BYTES, depth: int = strict_json.MAX_DEPTH) -> Json:
        """A JSON file's value, checked."""
        return strict_json.parse(self.bytes(name, limit), str(self.path / name), limit=limit, depth=depth)

    def check(self, name: str, size: int, digest: str) -> None:
        """Compare what was read of a file with the manifest. Raises IntegrityError."""
        record = self.record(name)
        if (size, digest) != record:
            raise IntegrityError(
                f"the digest does not match (SHA-256 {digest[:12]}…, the manifest states {record.sha256[:12]}…)",
                where=str(self.path / name),
                remedy="The file was damaged or changed. Use another copy.",
            )
        self._unread.discard(name)

    def verify(self) -> None:
        """Check every file that was not read yet."""
        for name in sorted(self._unread):
            self.check(name, *file_digest(self.path / name))


def _check_listing(path: Path, files: Mapping[str, FileRecord]) -> None:
    """Compare what lies in the folder with the manifest, without following links or opening anything."""
    folders = {"/".join(name.split("/")[:i]) for name in files for i in range(1, name.count("/") + 1)}
    missing = set(files)
    waiting = [("", path)]
    while waiting:
        prefix, folder = waiting.pop()
        with storage_errors(folder), os.scandir(folder) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                status = entry.stat(follow_symlinks=False)
                where = str(path / name)
                if stat.S_ISDIR(status.st_mode) and name in folders:
                    waiting.append((f"{name}/", folder / entry.name))
                elif stat.S_ISREG(status.st_mode) and name in (manifests.NAME, manifests.SIGNATURES):
                    continue
                elif name not in files:
                    raise IntegrityError("the manifest does not list this", where=where, remedy="Remove it.")
                elif not stat.S_ISREG(status.st_mode):
                    raise IntegrityError("it is no regular file (a link or a device)", where=where)
                elif status.st_size != files[name].size:
                    stated = files[name].size
                    raise IntegrityError(
                        f"the file has {status.st_size:,} bytes, the manifest states {stated:,}", where=where
                    )
                else:
                    missing.discard(name)
    if missing:
        raise IntegrityError(
            "a file that the manifest lists is missing", where=str(path / min(missing)), remedy="Use another copy."
        )
