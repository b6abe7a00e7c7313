"""`verify`: is a bundle what it says it is?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reinforge.workflow.opened import opened

if TYPE_CHECKING:
    from reinforge.bundle.network import Factory


@dataclass(frozen=True)
class Verified:
    """What was checked: every file's digest, and golden rows replayed."""

    digest: str
    files: int
    bytes: int
    golden: int
    parents: tuple[str, ...]


def verify(
    bundle: str | Path, *, use: Sequence[str | Path] = (), modules: Mapping[str, Factory] | None = None
) -> Verified:
    """Check every file of a bundle (a run's folder stands for its own) against its manifest; replay its golden rows.

    Raises BundleError that says what differs, StorageError where it can't be read, ComponentError for what is missing.
    """
    from reinforge.bundle import golden

    loaded = opened(bundle, use, modules)
    assert loaded.folder is not None
    records = golden.read(loaded.folder.bytes(golden.NAME, golden.MAX_BYTES))
    files = loaded.folder.manifest.files
    return Verified(loaded.digest, len(files), sum(f.size for f in files.values()), len(records), loaded.parents)
