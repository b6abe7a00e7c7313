"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reinforge.messages import mark

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help=mark("A recipe's file, or a shipped name."))]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help=mark("Options on top of the recipe, as learn.lr=3e-4."))
]
BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help=mark("A bundle's folder, or that of its run."))]
Use = Annotated[
    list[Path] | None, typer.Option("--use", metavar="FILE", help=mark("Python file with your own components."))
]
