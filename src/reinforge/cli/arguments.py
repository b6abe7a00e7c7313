"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reinforge.messages import mark

if TYPE_CHECKING:
    from reinforge.recipe import Recipe

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help=mark("A recipe's file, or a shipped name."))]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help=mark("Options on top of the recipe, as learn.lr=3e-4."))
]
BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help=mark("A bundle's folder, or that of its run."))]
Use = Annotated[
    list[Path] | None, typer.Option("--use", metavar="FILE", help=mark("Python file with your own components."))
]


def checked(recipe: str, overrides: list[str] | None, use: list[Path] | None) -> Recipe:
    """The recipe, loaded before anything that takes long to import: a slip of the keyboard is told at once."""
    from reinforge.recipe import load

    return load(recipe, overrides or (), use=use or ())
