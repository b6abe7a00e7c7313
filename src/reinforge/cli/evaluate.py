"""`reinforge evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from reinforge.cli.arguments import BundleFolder, Use
from reinforge.cli.output import Result
from reinforge.cli.progress import progress
from reinforge.errors import ReinforgeError
from reinforge.messages import _, mark


def evaluate(
    bundle: BundleFolder,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="FILE", help=mark("Labelled data; by default the test split.")),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option("--episodes", metavar="N", help=mark("Fresh episodes in the environment."))
    ] = None,
    stochastic: Annotated[
        bool, typer.Option("--stochastic", help=mark("Draw actions from the policy instead of taking the best one."))
    ] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help=mark("Seed of the episodes; by default the recipe's."))
    ] = None,
    use: Use = None,
) -> Result:
    """Measure a bundle on data or in its environment."""
    if data is not None and episodes is not None:
        raise ReinforgeError(_("--data and --episodes exclude each other"))
    if episodes is not None and episodes < 1:
        raise ReinforgeError(_("--episodes must be at least 1, not {n}").format(n=episodes))
    from reinforge.workflow.evaluate import evaluate as run

    with progress() as shown:
        found = run(
            bundle, data=data, episodes=episodes, seed=seed, stochastic=stochastic, use=use or (), progress=shown
        )
        return Result.of(found)
