"""`reinforge prepare`."""

from __future__ import annotations

from reinforge.cli.arguments import Overrides, RecipeName, Use
from reinforge.cli.output import Result
from reinforge.cli.progress import progress


def prepare(recipe: RecipeName, overrides: Overrides = None, use: Use = None) -> Result:
    """Read and check the recipe's data, and fit the pipeline to it."""
    from reinforge.workflow.prepare import prepare as run

    with progress() as shown:
        return Result.of(run(recipe, overrides or (), use=use or (), progress=shown))
