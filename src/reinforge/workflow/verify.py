"""`verify`: is a bundle what it says it is?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reinforge.errors import BundleError
from reinforge.messages import _
from reinforge.workflow.opened import opened

if TYPE_CHECKING:
    from reinforge.bundle.network import Factory


@dataclass(frozen=True)
class Verified:
    """What was checked: every file's digest, golden rows replayed, and the key that signed it, where that was asked."""

    digest: str
    files: int
    bytes: int
    golden: int
    parents: tuple[str, ...]
    signed: str | None = None


def verify(
    bundle: str | Path,
    *,
    keys: Sequence[str | Path] = (),
    use: Sequence[str | Path] = (),
    modules: Mapping[str, Factory] | None = None,
) -> Verified:
    """Check every file of a bundle (a run's folder stands for its own) against its manifest; replay its golden rows.
    With `keys`, files of public keys, it must be signed by one of them.

    Raises BundleError that says what differs, StorageError where it can't be read, ComponentError for what is missing.
    """
    from reinforge.bundle import golden
    from reinforge.bundle.signing import public_keys, required

    signed = required(bundle, public_keys(keys)) if keys else None
    loaded = opened(bundle, use, modules)
    if signed is not None and loaded.digest != signed.digest:
        raise BundleError(_("the folder changed while it was read"), where=str(bundle))
    assert loaded.folder is not None
    records = golden.read(loaded.folder.bytes(golden.NAME, golden.MAX_BYTES))
    files = loaded.folder.manifest.files
    size, key = sum(f.size for f in files.values()), signed.key if signed else None
    return Verified(loaded.digest, len(files), size, len(records), loaded.parents, key)
