"""A bundle as one file: a plain zip, written from a verified folder and unpacked without trusting it."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

from reinforge.bundle.folders import FORMAT
from reinforge.errors import BundleError, IntegrityError, StorageError
from reinforge.storage import manifest as manifests
from reinforge.storage import strict_json
from reinforge.storage.files import CHUNK, require_space, storage_errors, write_new
from reinforge.storage.folder import Folder, commit
from reinforge.storage.manifest import parse_manifest

MAX_FILES = 1_000
MAX_BYTES = 256 << 30
# Deflate itself can't exceed about 1,030; anything near it is no bundle.
MAX_RATIO = 200
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(folder: Path | str, target: Path | str) -> Path:
    """Write a bundle's folder into one zip file, uncompressed; the same bundle always gives the same bytes.

    Raises BundleError where the folder is no sound bundle, StorageError where the file exists or can't be written.
    """
    source, path = _open(Path(folder)), Path(target)
    source.verify()
    with storage_errors(path):
        try:
            with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
                beside = [manifests.SIGNATURES] if (source.path / manifests.SIGNATURES).is_file() else []
                for name in (manifests.NAME, *beside, *sorted(source.manifest.files)):
                    entry = zipfile.ZipInfo(name, _EPOCH)
                    entry.external_attr = 0o644 << 16
                    with archive.open(entry, "w", force_zip64=True) as out, open(source.path / name, "rb") as file:
                        while chunk := file.read(CHUNK):
                            out.write(chunk)
        except FileExistsError:
            raise StorageError("it exists already", where=str(path), remedy="Choose another name.") from None
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return path


def unpack(archive: Path | str, target: Path | str, limit: int = MAX_BYTES) -> Path:
    """Unpack a bundle into a new folder, whole or not at all; `limit` bounds its bytes.

    Refused with BundleError, and nothing written outside `target`: names that are not plain, links, doubled names,
    files that the manifest does not list, wrong sizes or digests, encrypted or strangely compressed entries.
    """
    path, where = Path(target), str(archive)
    try:
        with storage_errors(where), zipfile.ZipFile(archive) as opened:
            entries = _checked(opened.infolist(), where, limit)
            if manifests.NAME not in entries or entries[manifests.NAME].file_size > manifests.MAX_BYTES:
                raise BundleError("it has no proper manifest", where=where)
            content = b"".join(_chunks(opened, entries.pop(manifests.NAME), where))
            manifest = parse_manifest(strict_json.parse(content, where), where, FORMAT)
            signatures = entries.pop(manifests.SIGNATURES, None)
            if manifest.files.keys() != entries.keys():
                raise BundleError("its files are not those of its manifest", where=where)
            require_space(path.parent, sum(entry.file_size for entry in entries.values()))
            with commit(path, FORMAT, manifest.version) as staging:
                staging.about.update(manifest.about)
                for name, entry in entries.items():
                    if staging.write(name, _chunks(opened, entry, where)) != manifest.files[name]:
                        raise BundleError(f"the digest of {name!r} does not match", where=where)
                if signatures is not None:
                    write_new(staging.path / manifests.SIGNATURES, _chunks(opened, signatures, where))
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise BundleError(f"it is no proper zip file: {error}", where=where) from None
    except BundleError:
        raise
    except IntegrityError as error:
        raise BundleError(error.problem, where=error.where or where, remedy=error.remedy) from error
    return path


def _open(folder: Path) -> Folder:
    try:
        return Folder.open(folder, FORMAT)
    except IntegrityError as error:
        raise BundleError(error.problem, where=error.where, remedy=error.remedy) from error


def _checked(infos: list[zipfile.ZipInfo], where: str, limit: int) -> dict[str, zipfile.ZipInfo]:
    if len(infos) > MAX_FILES:
        raise BundleError(f"it has {len(infos):,} entries, and {MAX_FILES:,} are allowed", where=where)
    names = [info.filename for info in infos]
    if len(set(names)) != len(names):
        raise BundleError("a name stands in it twice", where=where)
    manifests.check_names((name for name in names if name not in (manifests.NAME, manifests.SIGNATURES)), where)
    for info in infos:
        mode = info.external_attr >> 16
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise BundleError(f"{info.filename!r} is a link or no regular file", where=where)
        if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BundleError(f"{info.filename!r} is encrypted or strangely compressed", where=where)
        if info.file_size > MAX_RATIO * max(info.compress_size, 1):
            raise BundleError(f"{info.filename!r} grows more than {MAX_RATIO} times when unpacked", where=where)
    total = sum(info.file_size for info in infos)
    if total > limit:
        raise BundleError(f"it would unpack to {total:,} bytes, and {limit:,} are allowed", where=where)
    return {info.filename: info for info in infos}


def _chunks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, where: str) -> Iterator[bytes]:
    """The bytes of an entry, never more than it states."""
    left = entry.file_size
    with archive.open(entry) as file:
        while chunk := file.read(CHUNK):
            left -= len(chunk)
            if left < 0:
                raise BundleError(f"{entry.filename!r} holds more than it states", where=where)
            yield chunk
