"""Runs made of runs: stages one after another, and the folds of a cross-validation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from reinforge.data.options import FoldSplit
from reinforge.engine.distributed import World
from reinforge.evaluation.folds import spread
from reinforge.recipe.recipe import Recipe
from reinforge.workflow.measured import write_measured
from reinforge.workflow.progress import Progress
from reinforge.workflow.report import report
from reinforge.workflow.run import Run

# Recipe, folder and bundle to begin with, to the finished (or interrupted) run; goes on with a folder that is there.
Train = Callable[[Recipe, Path, Path | None], Run]


def children(recipe: Recipe) -> list[Recipe]:
    """The recipes of a run's children, in order: its stages, or the folds where all are asked for; else none."""
    if recipe.stages:
        return list(recipe.stages)
    split = getattr(recipe.data, "split", None)
    if not isinstance(split, FoldSplit) or split.fold is not None:
        return []
    folds = [
        recipe.data.model_copy(update={"split": split.model_copy(update={"fold": fold})}) for fold in range(split.folds)
    ]
    return [recipe.model_copy(update={"name": f"fold-{i}", "data": data}) for i, data in enumerate(folds)]


def train_children(run: Run, recipe: Recipe, train: Train, world: World, progress: Progress) -> Run:
    """Train each child that is not finished.

    Each stage begins from the bundle before it, and the last one's is the run's. Folds are independent, and the run has
    the mean and deviation of their metrics instead of a bundle.
    """
    staged = bool(recipe.stages)
    start = Path(recipe.start.bundle) if recipe.start.bundle else None
    done: list[Run] = []
    if world.main:
        run.write_status(state="running")
    for index, child in enumerate(children(recipe)):
        folder = run.folder / "stages" / f"{index:02d}-{child.name}"
        progress.update(index, None, f"{child.name} ({index + 1} of {len(children(recipe))})")
        made = train(child, folder, start)
        if not made.finished:
            if world.main:
                run.write_status(state="interrupted")
            return run
        done.append(made)
        if staged:
            start = made.bundle_path
    if world.main:
        _finish(run, done, staged)
    world.barrier()
    return run


def _finish(run: Run, done: list[Run], staged: bool) -> None:
    metrics = _last(done) if staged else _spread(done)
    if staged and not run.bundle_path.exists():
        # A copy, so that the run's bundle stands for itself when stages are removed.
        copying = run.folder / ".bundle"
        shutil.rmtree(copying, ignore_errors=True)
        shutil.copytree(done[-1].bundle_path, copying)
        copying.rename(run.bundle_path)
    write_measured(run.folder, metrics, None)
    run.write_status(state="finished", reason="stages" if staged else "folds", metrics=metrics)
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
