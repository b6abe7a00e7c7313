"""`reinforge play`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from reinforge.cli.arguments import BundleFolder, Use
from reinforge.cli.output import Result
from reinforge.cli.progress import progress
from reinforge.errors import ReinforgeError
from reinforge.messages import _, mark


def play(
    bundle: BundleFolder,
    episodes: Annotated[int, typer.Option("--episodes", metavar="N", help=mark("Whole episodes."))] = 1,
    record: Annotated[
        Path | None, typer.Option("--record", metavar="FILE", help=mark("Write a clip: .gif, .webp or .mp4."))
    ] = None,
    window: Annotated[bool, typer.Option("--window", help=mark("Show it in the environment's own window."))] = False,
    speed: Annotated[
        float, typer.Option("--speed", metavar="X", help=mark("Times as fast as the environment says."))
    ] = 1.0,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help=mark("Seed of the episodes; by default the recipe's."))
    ] = None,
    stochastic: Annotated[
        bool, typer.Option("--stochastic", help=mark("Draw actions from the policy instead of taking the best one."))
    ] = False,
    use: Use = None,
) -> Result:
    """Watch a policy play, or record it."""
    if episodes < 1:
        raise ReinforgeError(_("--episodes must be at least 1, not {n}").format(n=episodes))
    if not 0 < speed < float("inf"):
        raise ReinforgeError(_("--speed must be more than 0, not {speed}").format(speed=f"{speed:g}"))
    from reinforge.workflow.play import play as run

    watch = partial(
        run, bundle, episodes, seed=seed, stochastic=stochastic, record=record, window=window, speed=speed,
        use=use or (),
    )  # fmt: skip
    if record is None and not window and sys.stdout.isatty():
        from reinforge.cli.screen import Screen

        screen = Screen()
        try:
            return Result.of(watch(screen=screen))
        finally:
            screen.close()
    # Where nobody watches, it is played unseen.
    with progress() as shown:
        return Result.of(watch(progress=shown))
