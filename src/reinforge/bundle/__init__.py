"""The artifact: everything needed to predict, verify, fine-tune and deploy, and no code."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reinforge.bundle.archive import pack as pack
    from reinforge.bundle.archive import unpack as unpack
    from reinforge.bundle.bundle import Bundle as Bundle
    from reinforge.bundle.loading import load as load
    from reinforge.bundle.writing import write_bundle as write_bundle

_PLACES = {"Bundle": "bundle", "load": "loading", "write_bundle": "writing", "pack": "archive", "unpack": "archive"}
__all__ = ["Bundle", "load", "pack", "unpack", "write_bundle"]


def __getattr__(name: str) -> Any:
    """The room's public names, imported when first used: this module stays free of torch."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
