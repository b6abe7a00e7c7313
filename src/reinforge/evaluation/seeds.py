"""What runs of one recipe from several seeds say together: interquartile means and their intervals.

Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical precipice".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reinforge.core.seeds import derive

Array = np.ndarray[Any, Any]

REPLICATES = 10_000
LEVEL = 0.95
# Numbers that are drawn at once: 8 MB.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Together:
    """A metric over the seeds: each one's value (None where it has none), their interquartile mean with its interval
    (None of fewer than two), their mean, and their deviation (n - 1 in the denominator)."""

    values: tuple[float | None, ...]
    iqm: float
    low: float | None
    high: float | None
    mean: float
    deviation: float | None


def interquartile_mean(values: Array) -> Array:
    """(..., n) to (...): the mean without the lowest and the highest quarter, which are rounded down to whole values,
    as the paper's own library has it (scipy's `trim_mean` of 0.25)."""
    n = values.shape[-1]
    cut = n // 4
    middle: Array = (
        np.partition(values, [cut, n - cut - 1], -1)[..., cut : n - cut].mean(-1) if cut else values.mean(-1)
    )
    return middle


def stratified(scores: Array, *, replicates: int = REPLICATES, level: float = LEVEL, seed: int = 0) -> Array:
    """The percentile bootstrap interval of the interquartile mean: scores (..., runs, tasks) to (2, ...).

    Runs are drawn anew with replacement within each task, independently of other tasks, and the mean is of all scores.
    What leads (points of a learning curve) shares the draws, as it shares the runs. The same seed gives the same
    interval.
    """
    runs, tasks = scores.shape[-2:]
    generator = np.random.default_rng(derive(seed, "stratified"))
    found, step = [], max(1, _CHUNK // max(1, scores.size))
    for start in range(0, replicates, step):
        drawn = generator.integers(runs, size=(min(step, replicates - start), runs, tasks))
        taken = scores[..., drawn, np.arange(tasks)]
        found.append(interquartile_mean(taken.reshape(*taken.shape[:-2], runs * tasks)))
    tail = (1 - level) / 2
    interval: Array = np.quantile(np.concatenate(found, -1), [tail, 1 - tail], -1)
    return interval


def together(runs: Sequence[Mapping[str, float | None]]) -> dict[str, Together]:
    """By metric, of those that some run has."""
    found = {}
    for name in dict.fromkeys(name for run in runs for name in run):
        values = tuple(run.get(name) for run in runs)
        known = np.array([value for value in values if value is not None and math.isfinite(value)])
        if not len(known):
            continue
        iqm, mean = float(interquartile_mean(known)), float(known.mean())
        if len(known) < 2:
            found[name] = Together(values, iqm, None, None, mean, None)
            continue
        low, high = stratified(known[:, None]).tolist()
        found[name] = Together(values, iqm, low, high, mean, float(known.std(ddof=1)))
    return found


def aligned(curves: Sequence[Sequence[tuple[float, float]]], most: int = 200) -> tuple[Array, Array]:
    """Curves (x, y) that were measured at places of their own, at common ones: x (points,) and y (runs, points).

    Between its own places a curve is a straight line, and after its last one it stays what it was, as a run does that
    ended early. Places begin where every curve has a value; at most so many are kept. Values that are not finite are
    left out.
    """
    known = [[(x, y) for x, y in curve if math.isfinite(y)] for curve in curves]
    known = [curve for curve in known if curve]
    if not known:
        return np.zeros(0), np.zeros((0, 0))
    first = max(curve[0][0] for curve in known)
    places = np.array(sorted({x for curve in known for x, _ in curve if x >= first}))
    if len(places) > most:
        places = places[np.linspace(0, len(places) - 1, most).round().astype(np.int64)]
    return places, np.stack([np.interp(places, *np.array(curve).T) for curve in known])
