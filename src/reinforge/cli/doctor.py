"""`reinforge doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reinforge.cli.arguments import Overrides, Use, checked
from reinforge.cli.output import Result
from reinforge.messages import mark


def doctor(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help=mark("Estimate what this recipe needs, too."))
    ] = None,
    overrides: Overrides = None,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="BUNDLE", help=mark("Begin with this bundle's weights."))
    ] = None,
    use: Use = None,
) -> Result:
    """Look at this machine; for a recipe: parameters, memory, time, and whether it fits."""
    whole = checked(recipe, overrides, use) if recipe is not None else None
    from reinforge.workflow.doctor import doctor as run

    found = run(whole, start=start)
    return Result(found.summary(), found.text())
