"""Runs made of runs: seeds, stages one after another, and the folds of a cross-validation."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from reinforge.data.options import FoldSplit
from reinforge.engine.distributed import World
from reinforge.evaluation.folds import spread
from reinforge.evaluation.seeds import together
from reinforge.recipe.recipe import Recipe
from reinforge.workflow.at_once import train_at_once
from reinforge.workflow.machine import processors
from reinforge.workflow.measured import write_measured
from reinforge.workflow.progress import Progress
from reinforge.workflow.report import report
from reinforge.workflow.run import Run, forget

# Recipe, folder and bundle to begin with, to the finished (or interrupted) run; goes on with a folder that is there.
Train = Callable[[Recipe, Path, Path | None], Run]
# A child that takes so long is worth a process for each of the others: to begin one costs seconds.
_WORTH_SECONDS = 10.0


def children(recipe: Recipe) -> list[Recipe]:
    """The recipes of a run's children, in order: one for each seed, or its stages, or the folds where all are asked
    for; else none. A child may have children of its own."""
    if recipe.seeds is not None:
        return [_seeded(recipe, number) for number in range(recipe.seeds)]
    if recipe.stages:
        return list(recipe.stages)
    split = getattr(recipe.data, "split", None)
    if not isinstance(split, FoldSplit) or split.fold is not None:
        return []
    folds = [
        recipe.data.model_copy(update={"split": split.model_copy(update={"fold": fold})}) for fold in range(split.folds)
    ]
    return [recipe.model_copy(update={"name": f"fold-{i}", "data": data}) for i, data in enumerate(folds)]


def _seeded(recipe: Recipe, number: int) -> Recipe:
    """The recipe of the seed so many after its own, which its stages follow."""
    stages = tuple(stage.model_copy(update={"seed": stage.seed + number}) for stage in recipe.stages)
    seed = recipe.seed + number
    return recipe.model_copy(update={"name": f"seed-{seed}", "seed": seed, "seeds": None, "stages": stages})


def train_children(
    run: Run, recipe: Recipe, train: Train, world: World, progress: Progress, jobs: int | None = 1
) -> Run:
    """Train each child that is not finished.

    Each stage begins from the bundle before it, and the last one's is the run's. Folds and seeds are independent, and
    the run has what their metrics say together instead of a bundle. `jobs` of these are trained at once, each in a
    process of its own, with the same result; None: as many as there are processors, where the recipe asks for one
    thread and the first child took long enough.
    """
    seeded = recipe.seeds is not None
    staged = bool(recipe.stages) and not seeded
    start = Path(recipe.start.bundle) if recipe.start.bundle else None
    if world.main:
        run.write_status(state="running")
    wanted = [(run.folder / "stages" / f"{i:02d}-{child.name}", child) for i, child in enumerate(children(recipe))]
    alone = staged or world.size > 1
    seconds = 0.0
    for index, (folder, child) in enumerate(wanted):
        if not alone and (many := _at_once(jobs, seconds, recipe, len(wanted) - index)) > 1:
            if not _together_from(wanted[index:], many, progress, len(wanted)):
                run.write_status(state="interrupted")
                return run
            break
        progress.update(index, None, f"{child.name} ({index + 1} of {len(wanted)})")
        began = time.monotonic()
        made = train(child, folder, start)
        seconds = max(seconds, time.monotonic() - began)
        if not made.finished:
            if world.main:
                run.write_status(state="interrupted")
            return run
        if staged:
            start = made.bundle_path
    if world.main:
        done = [Run(folder) for folder, _ in wanted]
        _finish(run, done, "seeds" if seeded else "stages" if staged else "folds")
    world.barrier()
    return run


def _at_once(jobs: int | None, seconds: float, recipe: Recipe, left: int) -> int:
    """How many of the `left` children to train at once, where the longest so far took so many seconds."""
    if jobs is None:
        jobs = processors() if recipe.learn.threads == 1 and seconds >= _WORTH_SECONDS else 1
    return min(jobs, left)


def _together_from(wanted: Sequence[tuple[Path, Recipe]], jobs: int, progress: Progress, of: int) -> bool:
    """Train these at once; whether all were finished. What failed before it learned anything leaves nothing behind."""
    runs = [
        Run(folder) if (folder / "recipe.yaml").is_file() else Run.create(folder, child) for folder, child in wanted
    ]
    left = [run for run in runs if not run.finished]

    def report(running: Sequence[Run]) -> None:
        names = ", ".join(run.recipe.name for run in running)
        progress.update(of - sum(not run.finished for run in runs), None, f"{names} ({jobs} at once)")

    try:
        return train_at_once(left, jobs, report)
    except BaseException:
        for run in left:
            forget(run)
        raise


def _finish(run: Run, done: list[Run], kind: Literal["seeds", "stages", "folds"]) -> None:
    metrics = {"seeds": _together, "stages": _last, "folds": _spread}[kind](done)
    if kind == "stages" and not run.bundle_path.exists():
        # A copy, so that the run's bundle stands for itself when stages are removed.
        copying = run.folder / ".bundle"
        shutil.rmtree(copying, ignore_errors=True)
        shutil.copytree(done[-1].bundle_path, copying)
        copying.rename(run.bundle_path)
    write_measured(run.folder, metrics, None)
    warnings = [f"{child.recipe.name}: {text}" for child in done for text in child.status.get("warnings", [])]
    told = {"warnings": warnings} if warnings else {}
    run.write_status(state="finished", reason=kind, metrics=metrics, **told)
    report(run)


def _last(runs: list[Run]) -> dict[str, float]:
    return runs[-1].metrics


def _spread(runs: list[Run]) -> dict[str, float]:
    """Mean and standard deviation (n - 1) over folds of each metric, as "mean/test/accuracy" and "deviation/...";
    of those of the test also the interval of the mean, as "low/..." and "high/..."."""
    metrics: dict[str, float] = {}
    for name, each in spread([run.metrics for run in runs]).items():
        metrics[f"mean/{name}"] = each.mean
        metrics[f"deviation/{name}"] = each.deviation or 0.0
        if name.startswith("test/") and each.low is not None and each.high is not None:
            metrics[f"low/{name}"], metrics[f"high/{name}"] = each.low, each.high
    return metrics


def _together(runs: list[Run]) -> dict[str, float]:
    """Over seeds, of each metric: its interquartile mean with the interval, as "iqm/final/return", "low/..." and
    "high/...", its mean and its standard deviation (n - 1), as "mean/..." and "deviation/..."."""
    metrics: dict[str, float] = {}
    for name, each in together([run.metrics for run in runs]).items():
        metrics[f"iqm/{name}"] = each.iqm
        if each.low is not None and each.high is not None:
            metrics[f"low/{name}"], metrics[f"high/{name}"] = each.low, each.high
        metrics[f"mean/{name}"] = each.mean
        metrics[f"deviation/{name}"] = each.deviation or 0.0
    return metrics
