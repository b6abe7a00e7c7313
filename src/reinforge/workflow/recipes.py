"""`recipes`: those that come with the package."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from reinforge.errors import RecipeError
from reinforge.messages import _
from reinforge.recipe import Recipe, load, shipped


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe of the package: its first comment line, its file and, by their names, what it puts together."""

    name: str
    summary: str
    path: Path
    data: str
    model: str
    objective: str

    @property
    def text(self) -> str:
        """The file, comments and all."""
        return self.path.read_text("utf-8")

    @property
    def recipe(self) -> Recipe:
        """The recipe, with every option resolved."""
        return load(self.path)


@overload
def recipes(name: None = None) -> list[ShippedRecipe]: ...
@overload
def recipes(name: str) -> ShippedRecipe: ...
def recipes(name: str | None = None) -> list[ShippedRecipe] | ShippedRecipe:
    """The shipped recipes by name, or the one of that name. Raises RecipeError with the nearest names."""
    found = {}
    for known in shipped():
        whole = load(known.path)
        kinds = {
            section: str(getattr(getattr(whole, section), "kind", "")) for section in ("data", "model", "objective")
        }
        found[known.name] = ShippedRecipe(known.name, known.summary, known.path, **kinds)
    if name is None:
        return list(found.values())
    if name not in found:
        near = difflib.get_close_matches(name, found, 1)
        names = _("Known: {names}.").format(names=", ".join(found) or _("none"))
        remedy = _("Did you mean {name!r}?").format(name=near[0]) if near else names
        raise RecipeError(_("there is no recipe called {name!r}").format(name=name), remedy=remedy)
    return found[name]
