"""`reinforge train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from reinforge.cli.arguments import Overrides, Use, checked
from reinforge.cli.output import Result
from reinforge.cli.progress import progress
from reinforge.errors import ReinforgeError
from reinforge.messages import _, mark


def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help=mark("A recipe's file, or a shipped name."))
    ] = None,
    overrides: Overrides = None,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="BUNDLE", help=mark("Begin with this bundle's weights."))
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="RUN", help=mark("The run's folder, made new."))
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help=mark("Go on with an interrupted run."))
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", metavar="N", help=mark("Train so many seeds, and report them together."))
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            metavar="N",
            min=1,
            help=mark("Train so many seeds or folds at once; by default as many as it pays for."),
        ),
    ] = None,
    use: Use = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help=mark("One batch through every stage; estimate memory and time."))
    ] = False,
) -> Result:
    """Train a recipe, and write a run with its bundle."""
    _check(recipe, start, output, resume, dry_run or seeds is not None)
    overrides = overrides if seeds is None else [*(overrides or ()), f"seeds={seeds}"]
    whole = checked(recipe, overrides, use) if recipe is not None else None
    if resume is not None and (ended := _ended(resume)):
        return ended
    if dry_run and whole is not None:
        from reinforge.workflow.rehearsal import rehearse

        with progress() as shown:
            return Result.of(rehearse(whole, start=start, progress=shown))
    from reinforge.workflow.train import train as run

    with progress() as shown:
        done = run(whole, start=start, output=output, resume=resume, jobs=jobs, use=use or (), progress=shown)
    told = done.summary()
    if "resume" in told:
        # What a user's shell must understand again.
        told["resume"] = shlex.join([*shlex.split(told["resume"]), *(f"--use={file}" for file in use or ())])
    return Result(told)


def _ended(folder: Path) -> Result | None:
    """What to say where there is nothing to go on with, because the run has come to its end."""
    from reinforge.workflow.run import Run

    run = Run.open(folder)
    if not run.finished:
        return None
    told = run.summary()
    text = _("the run was finished before; nothing is left to do")
    return Result({**told, "notes": [text, *told.get("notes", [])]})


def _check(recipe: str | None, start: Path | None, output: Path | None, resume: Path | None, dry_run: bool) -> None:
    if resume is None and recipe is None:
        raise ReinforgeError(_("train needs a recipe"), remedy=_("Shipped ones are listed by: reinforge recipes"))
    if resume is not None and (recipe or start or output or dry_run):
        raise ReinforgeError(_("--resume goes on with a run as it was begun; give nothing but the run's folder"))
