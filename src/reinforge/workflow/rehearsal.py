"""A dry run: a few updates through every stage, and what the whole would take."""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reinforge.recipe.recipe import Recipe
from reinforge.recipe.sections import Stop
from reinforge.workflow.children import children
from reinforge.workflow.progress import Progress
from reinforge.workflow.run import Run
from reinforge.workflow.train import resolve, train

_UPDATES = 20


@dataclass(frozen=True)
class Rehearsal:
    """What a dry run found. `seconds_per_update` is the last stage's; `estimated_seconds` is None where the stop
    says no number of updates, or a goal may come first. `peak_memory` is the whole process's, in bytes."""

    stages: int
    updates: int
    seconds_per_update: float
    estimated_seconds: float | None
    peak_memory: int
    metrics: Mapping[str, float]


def rehearse(
    recipe: str | Path | Mapping[str, object] | Recipe,
    overrides: Iterable[str] | Mapping[str, object] = (),
    *,
    start: str | Path | None = None,
    use: Iterable[str | Path] = (),
    progress: Progress | None = None,
) -> Rehearsal:
    """Some updates of the recipe and of each of its stages, with evaluation, bundle and report, in a folder that is
    deleted afterwards. Raises what `train` would raise."""
    resolved = resolve(recipe, overrides, start=start, use=use)
    parts = children(resolved) or [resolved]
    estimated: float | None = 0.0
    each = 0.0
    with tempfile.TemporaryDirectory(prefix="reinforge-") as folder:
        begin: Path | None = None
        run = Run(Path(folder))
        for index, part in enumerate(parts):
            learn = part.learn.model_copy(update={"stop": Stop(updates=_UPDATES), "compile": "off", "schedule": None})
            # A policy that has learned nothing may play long episodes.
            brief = part.evaluate.model_copy(update={"episodes": 1, "final": 1})
            short = part.model_copy(update={"learn": learn, "evaluate": brief, "stages": ()})
            run = train(short, output=Path(folder) / str(index), start=begin, progress=progress)
            begin = run.bundle_path if resolved.stages else None
            each = _seconds_per_update(run)
            # A model that is fitted at once was fitted whole.
            whole = run.status["clock"]["updates"] if run.status["reason"] == "fitted" else _updates(part, run)
            estimated = None if estimated is None or whole is None else estimated + whole * each
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Rehearsal(len(parts), _UPDATES, each, estimated, peak, run.metrics)


def _seconds_per_update(run: Run) -> float:
    clock = run.status["clock"]
    return float(clock["seconds"]) / max(int(clock["updates"]), 1)


def _updates(recipe: Recipe, run: Run) -> float | None:
    """How many updates the recipe's stop means, from how far the rehearsed ones went in its unit."""
    stop, clock = recipe.learn.stop, run.status["clock"]
    if stop.goal or stop.patience or stop.loss_below or stop.seconds:
        return None
    rates = {
        unit: float(clock.get(unit, 0)) / clock["updates"]
        for unit in ("updates", "epochs", "samples", "tokens", "steps")
    }
    wanted = [getattr(stop, unit) / rate for unit, rate in rates.items() if getattr(stop, unit) is not None and rate]
    return min(wanted, default=None)
