"""`reinforge evaluate`."""

from __future__ import annotations

from pathlib import Path
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
    samples: Annotated[
        int | None,
        typer.Option("--samples", metavar="N", help=mark("Answers to each question: several give pass@k.")),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", metavar="T", help=mark("Of answers: 0 takes the likeliest, 1 draws as learned.")),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", metavar="N", help=mark("Tokens of an answer, at most."))
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option("--reward", metavar="KIND", help=mark("What tells right from wrong: exact, numeric, ...")),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", metavar="NAMES", help=mark("Tasks of lm-evaluation-harness, by commas.")),
    ] = None,
    shots: Annotated[
        int | None, typer.Option("--shots", metavar="N", help=mark("With --tasks: examples before each question."))
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help=mark("With --tasks: documents of each, at most."))
    ] = None,
    include: Annotated[
        Path | None, typer.Option("--include", metavar="FOLDER", help=mark("With --tasks: a folder of more of them."))
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help=mark("Write what a language model was measured on here.")),
    ] = None,
    use: Use = None,
) -> Result:
    """Measure a bundle on data or in its environment."""
    if data is not None and episodes is not None:
        raise ReinforgeError(_("--data and --episodes exclude each other"))
    if episodes is not None and episodes < 1:
        raise ReinforgeError(_("--episodes must be at least 1, not {n}").format(n=episodes))
    for name, number in (("--samples", samples), ("--tokens", tokens)):
        if number is not None and number < 1:
            raise ReinforgeError(_("{option} must be at least 1, not {n}").format(option=name, n=number))
    if tasks is not None:
        from reinforge.workflow.evaluate import evaluate_tasks

        with progress():
            named = [name.strip() for name in tasks.split(",") if name.strip()]
            return Result.of(
                evaluate_tasks(bundle, named, shots=shots, limit=limit, include=include, output=output, use=use or ())
            )
    asked = None
    if (samples, temperature, tokens, reward) != (None,) * 4:
        from reinforge.recipe.yaml_form import read_value
        from reinforge.workflow.evaluate_language import Asking

        given = None if reward is None else read_value(reward, "--reward")
        asked = Asking(samples or 1, temperature, tokens, given)
    from reinforge.workflow.evaluate import evaluate as run

    with progress() as shown:
        found = run(
            bundle, data=data, episodes=episodes, seed=seed, stochastic=stochastic, asking=asked, output=output,
            use=use or (), progress=shown,
        )  # fmt: skip
        return Result.of(found)
