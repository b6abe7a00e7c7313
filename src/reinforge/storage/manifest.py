"""The list of a folder's files, with sizes and digests, and a digest of the list itself."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from reinforge.errors import IntegrityError
from reinforge.storage.strict_json import Json, canonical, pretty

NAME = "manifest.json"
# Lies beside it and is about it, so that it can't be listed in it.
SIGNATURES = "signatures.json"
MAX_BYTES = 8 << 20
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?<!\.)", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}
_MAX_LENGTH, _MAX_SEGMENTS = 200, 4


class FileRecord(NamedTuple):
    """Size in bytes and SHA-256 (hexadecimal) of one file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a committed folder holds. `about` is anything its kind wants to state (parents, updates, ...)."""

    format: str
    version: int
    files: Mapping[str, FileRecord]
    about: Mapping[str, Json]

    def content(self) -> dict[str, Json]:
        """As JSON, without its own digest."""
        files = {name: {"size": f.size, "sha256": f.sha256} for name, f in sorted(self.files.items())}
        return {"format": self.format, "version": self.version, "about": dict(self.about), "files": files}

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical content: it identifies the whole folder."""
        return hashlib.sha256(canonical(self.content())).hexdigest()

    def text(self) -> str:
        """The content of manifest.json."""
        return pretty({**self.content(), "digest": self.digest})


def check_name(name: str, where: str) -> None:
    """Raise IntegrityError unless `name` is a relative path of plain ASCII names, the same on every system."""
    parts = name.split("/")
    plain = all(_SEGMENT.fullmatch(part) and part.split(".")[0].lower() not in _RESERVED for part in parts)
    if not plain or len(name) > _MAX_LENGTH or len(parts) > _MAX_SEGMENTS:
        raise IntegrityError(f"{name[:80]!r} is no acceptable file name", where=where)


def check_names(names: Iterable[str], where: str) -> None:
    """Raise IntegrityError where a name is not plain, two differ by case alone, or one is another's folder."""
    seen: dict[str, str] = {}
    folders: set[str] = set()
    for name in names:
        check_name(name, where)
        folded = name.lower()
        if folded in seen:
            raise IntegrityError(f"{name!r} and {seen[folded]!r} are the same name on some systems", where=where)
        seen[folded] = name
        parts = folded.split("/")
        folders.update("/".join(parts[:i]) for i in range(1, len(parts)))
    for clash in folders & seen.keys():
        raise IntegrityError(f"{clash!r} is both a file and a folder", where=where)
    for own in (NAME, SIGNATURES):
        if own in seen:
            raise IntegrityError(f"a manifest can't list {own}", where=where)


def parse_manifest(value: Json, where: str, format: str) -> Manifest:
    """Check and read the content of manifest.json. Raises IntegrityError."""
    if not isinstance(value, dict) or set(value) != {"format", "version", "about", "files", "digest"}:
        raise IntegrityError("the manifest's keys are not those of a manifest", where=where)
    if value["format"] != format:
        raise IntegrityError(f"this is {str(value['format'])[:40]!r}, expected {format!r}", where=where)
    version, about, listed = value["version"], value["about"], value["files"]
    if type(version) is not int or version < 1 or not isinstance(about, dict) or not isinstance(listed, dict):
        raise IntegrityError("the manifest is malformed", where=where)
    check_names(listed, where)
    files: dict[str, FileRecord] = {}
    for name, entry in listed.items():
        if not isinstance(entry, dict) or set(entry) != {"size", "sha256"}:
            raise IntegrityError(f"the manifest's entry for {name!r} is malformed", where=where)
        size, digest = entry["size"], entry["sha256"]
        right = type(size) is int and 0 <= size < 1 << 62 and isinstance(digest, str) and _DIGEST.fullmatch(digest)
        if not right:
            raise IntegrityError(f"the manifest's entry for {name!r} is malformed", where=where)
        files[name] = FileRecord(size, digest)
    manifest = Manifest(format, version, files, about)
    if manifest.digest != value["digest"]:
        raise IntegrityError("the manifest's own digest does not match", where=where)
    return manifest
