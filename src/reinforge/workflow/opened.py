"""A bundle as the verbs are given it: loaded already, or where it lies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.loading import load
from reinforge.bundle.network import Factory
from reinforge.recipe.user_code import load_user_code


def opened(
    bundle: Bundle | str | Path, use: Iterable[str | Path] = (), modules: Mapping[str, Factory] | None = None
) -> Bundle:
    """The bundle, verified; a run's folder stands for the bundle in it. `use`: files whose components it may need."""
    if isinstance(bundle, Bundle):
        return bundle
    load_user_code(use)
    return load(bundle, modules=modules)
