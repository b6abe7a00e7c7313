"""A bundle as the verbs are given it: loaded already, or where it lies."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.loading import load
from reinforge.bundle.network import Factory
from reinforge.errors import PathError
from reinforge.messages import _
from reinforge.recipe.user_code import load_user_code


def opened(
    bundle: Bundle | str | Path, use: Iterable[str | Path] = (), modules: Mapping[str, Factory] | None = None
) -> Bundle:
    """The bundle, verified; a run's folder stands for the bundle in it. `use`: files whose components it may need."""
    if isinstance(bundle, Bundle):
        return bundle
    load_user_code(use)
    return load(bundle_folder(bundle), modules=modules)


def bundle_folder(given: str | Path) -> Path:
    """The bundle's folder: the given one, or that of a run. Raises PathError where there is none."""
    path = Path(given)
    if (path / "manifest.json").exists():
        return path
    if (path / "bundle" / "manifest.json").exists():
        return path / "bundle"
    if not path.is_dir():
        raise PathError(_("there is no such folder"), where=str(path), remedy=_("Check the path."))
    if (path / "recipe.yaml").is_file():
        raise PathError(
            _("the run has no bundle yet: it was not finished"), where=str(path),
            remedy=_("Go on with it: {command}").format(command=f"reinforge train --resume {shlex.quote(str(path))}"),
        )  # fmt: skip
    raise PathError(
        _("this is no bundle: it has no manifest.json"), where=str(path),
        remedy=_("Give the folder of a finished run, or the folder `bundle` in it."),
    )  # fmt: skip
