"""Where bundles lie, and what they call themselves, free of torch."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from reinforge.errors import IntegrityError, PathError
from reinforge.messages import _
from reinforge.recipe.loading import shipped
from reinforge.storage import strict_json
from reinforge.storage.strict_json import Json

# What a bundle's manifest says that it is.
FORMAT = "reinforge-bundle"


def bundle_folder(given: str | Path) -> Path:
    """The bundle's folder: the given one, or that of a run. Raises PathError where there is none."""
    path = Path(given)
    if (path / "manifest.json").exists():
        return path
    if (path / "bundle" / "manifest.json").exists():
        return path / "bundle"
    if path.is_file():
        raise PathError(
            _("it is no folder"), where=str(path),
            remedy=_("Give the folder of a finished run, or the folder `bundle` in it."),
        )  # fmt: skip
    if not path.is_dir():
        known = any(recipe.name == str(given) for recipe in shipped())
        command = f"reinforge train {given} -o runs/{given}"
        remedy = _("That is a recipe; first train it: {command}") if known else _("Check the path.")
        raise PathError(_("there is no such folder"), where=str(path), remedy=remedy.format(command=command))
    if (path / "export.json").is_file():
        remedy = _("Give the bundle that it was made of, or ask an ONNX export itself: reinforge-edge {folder}")
        remedy = remedy.format(folder=shlex.quote(str(path)))
        raise PathError(_("this is an export, not a bundle"), where=str(path), remedy=remedy)
    several = sorted(path.glob("stages/*/bundle/manifest.json"))
    if several and _finished(path / "run.json"):
        raise PathError(
            _("the run has several bundles, and none of its own"), where=str(path),
            remedy=_("Name one of them: {path}").format(path=shlex.quote(str(several[0].parent))),
        )  # fmt: skip
    if (path / "recipe.yaml").is_file():
        raise PathError(
            _("the run has no bundle yet: it was not finished"), where=str(path),
            remedy=_("Go on with it: {command}").format(command=f"reinforge train --resume {shlex.quote(str(path))}"),
        )  # fmt: skip
    raise PathError(
        _("this is no bundle: it has no manifest.json"), where=str(path),
        remedy=_("Give the folder of a finished run, or the folder `bundle` in it."),
    )  # fmt: skip


def _finished(status: Path) -> bool:
    told = strict_json.read(status) if status.is_file() else None
    return isinstance(told, dict) and told.get("state") == "finished"


def name_of(folder: Path, provenance: Json) -> str:
    """A name for URLs: what the recipe calls itself, else the folder's."""
    stated = provenance.get("name") if isinstance(provenance, dict) else None
    text = stated if isinstance(stated, str) else folder.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "model"


def stated_name(folder: Path) -> str:
    """`name_of` a folder that nothing of was loaded yet; what is wrong with it shows when it is."""
    try:
        return name_of(folder, strict_json.read(folder / "provenance.json"))
    except (IntegrityError, OSError):
        return name_of(folder, None)
