"""Bundles that are loaded only where somebody trusted has signed them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.loading import load
from reinforge.bundle.signing import required
from reinforge.errors import BundleError

if TYPE_CHECKING:
    from reinforge.bundle.network import Factory


def trusted(folder: str | Path, keys: Sequence[str], modules: Mapping[str, Factory] | None = None) -> Bundle:
    """The bundle; with `keys` (PEM) nothing of it is read but its manifest before its signature was checked.

    Raises BundleError.
    """
    signed = required(folder, keys) if keys else None
    bundle = load(folder, modules=modules)
    if signed is not None and bundle.digest != signed.digest:
        raise BundleError("the folder changed while it was read", where=str(folder))
    return bundle
