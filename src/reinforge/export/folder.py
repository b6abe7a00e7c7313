"""The new folder of an export: written beside its place, and moved there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from reinforge.errors import PathError
from reinforge.messages import _
from reinforge.storage.files import storage_errors


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, its files' sizes together, the family of what is in it, what was measured, and what
    is to be known."""

    folder: Path
    family: str
    bytes: int
    files: int
    notes: tuple[str, ...]
    measured: Mapping[str, float] = field(default_factory=dict)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which then becomes `folder`. Raises PathError where that is there already, and not
    empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PathError(
            _("the folder is there already, and not empty"), where=str(folder),
            remedy=_("Name another with -o, or remove it."),
        )  # fmt: skip
    staging = folder.with_name(f".{folder.name}.partial")
    with storage_errors(folder):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            yield staging
            if folder.exists():
                folder.rmdir()
            os.replace(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def exported(
    folder: Path, family: str, notes: tuple[str, ...] = (), measured: Mapping[str, float] | None = None
) -> Exported:
    """What lies in the folder now."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return Exported(folder, family, sum(f.stat().st_size for f in files), len(files), notes, measured or {})
