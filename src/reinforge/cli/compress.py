"""`reinforge compress`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reinforge.cli.arguments import BundleFolder, Use
from reinforge.cli.output import Result
from reinforge.messages import mark


def compress(
    bundle: BundleFolder,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="METHOD",
            help=mark(
                "int8: weights stored and large layers computed in 8 bits; int8-static: all layers, by onnxruntime; "
                "int8-weight: stored alone; prune: fewer units; low-rank: linear layers as products of two; distill: "
                "another network (--model)."
            ),
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FOLDER", help=mark("The new folder."))
    ] = None,
    goal: Annotated[
        str | None, typer.Option("--goal", metavar="GOAL", help=mark("What must become better: size or latency."))
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance", metavar="PART", help=mark("How much of the deciding metric may be lost: 0.01 is one point.")
        ),
    ] = 0.01,
    keep: Annotated[
        float, typer.Option("--keep", metavar="PART", help=mark("Part of the numbers that prune and low-rank keep."))
    ] = 0.4,
    updates: Annotated[
        int | None,
        typer.Option(
            "--updates",
            metavar="N",
            help=mark("Updates in which the smaller network recovers: 1000, in 8 bits none unless given."),
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="KEY=VALUE", help=mark("Options of the network to distill into.")),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DATA", help=mark("Labelled rows to measure on."))
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(
            "--train",
            metavar="DATA",
            help=mark("Rows to recover on, or to find grids from; no labels are needed."),
        ),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option("--episodes", metavar="N", help=mark("Episodes to measure a policy by."))
    ] = None,
    force: Annotated[bool, typer.Option("--force", help=mark("Keep what misses its goal or tolerance."))] = False,
    use: Use = None,
) -> Result:
    """Make a smaller bundle of the same model, and measure both."""
    from reinforge.compress.compress import compress as run
    from reinforge.recipe.overrides import nested

    found = run(
        bundle, method, output, goal=goal, tolerance=tolerance, keep=keep, updates=updates,
        options=nested(model or ()), data=data, train=train, episodes=episodes, force=force, use=use or (),
    )  # fmt: skip
    return Result.of(found)
