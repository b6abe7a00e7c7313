"""Intervals of metrics: the percentile bootstrap over rows.

Efron (1979), "Bootstrap methods". Of more than `MOST_ROWS` rows so many are drawn once, and the deviations of their
replicates are scaled by the root of the rows' ratio, as a standard error shrinks, so that the cost does not grow. A
confusion matrix is resampled in full at any number of rows, as draws of a multinomial.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reinforge.core.seeds import derive
from reinforge.evaluation.metrics.metric import Confused, Metric, Weighted

Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]

REPLICATES = 1000
MOST_ROWS = 5000
LEVEL = 0.95
# The fewest rows of which a two-sided sign test can be sure: 2 / 2^6 < 0.05.
LEAST_APART = 6
# Of a metric that knows no weights, computed anew each time.
_PLAIN_REPLICATES = 200
# Weights that are held at once: 2 MB stay in a cache.
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Interval:
    """Where a metric would fall in 95 of 100 data sets like this one."""

    low: float
    high: float


def interval(
    metric: Metric, output: Tensor, target: Tensor, *, replicates: int = REPLICATES, seed: int = 0
) -> Interval | None:
    """The bootstrap interval of a metric at these rows; None where most replicates don't define it.

    `output` and `target` as the metric takes them. The same seed gives the same interval.
    """
    rows = len(target)
    if rows < 2 or replicates < 2:
        return None
    generator = np.random.default_rng(derive(seed, "bootstrap"))
    output, target = output.detach().cpu(), target.detach().cpu()
    if isinstance(metric, Confused):
        return _between(_multinomial(metric, output, target, replicates, generator), replicates)
    scale, centre = 1.0, 0.0
    if rows > MOST_ROWS:
        centre = metric(output, target)
        some = torch.from_numpy(np.sort(generator.choice(rows, MOST_ROWS, replace=False)))
        output, target, scale = output[some], target[some], (MOST_ROWS / rows) ** 0.5
    if isinstance(metric, Weighted):
        found = _weighted(metric, output, target, replicates, generator)
    else:
        replicates = min(replicates, _PLAIN_REPLICATES)
        found = _plain(metric, output, target, replicates, generator)
    pivot = getattr(metric, "pivot", False)
    if scale == 1.0 and not pivot:
        return _between(found, replicates)
    middle = metric(output, target)
    if scale == 1.0:
        centre = middle
    if pivot:
        # Mirrored: where resampling lifts a metric, the interval goes down as far. No such metric is below 0.
        return _between(np.maximum(0.0, centre - (found - middle) * scale), replicates)
    return _between(centre + (found - middle) * scale, replicates)


def _between(found: Numbers, replicates: int) -> Interval | None:
    found = found[np.isfinite(found)]
    if len(found) < max(2, replicates / 2):
        return None
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def _multinomial(
    metric: Confused, output: Tensor, target: Tensor, replicates: int, generator: np.random.Generator
) -> Numbers:
    """Drawing rows and counting cells is drawing the cells' counts; only cells that occur can."""
    ones = torch.ones(1, len(target), dtype=torch.float64)
    cells = metric.confusion(output, target, ones)[0]
    counts = cells.flatten().numpy()
    there = np.flatnonzero(counts)
    drawn = generator.multinomial(len(target), counts[there] / counts.sum(), size=replicates)
    parts = []
    step = max(1, _CHUNK // cells.numel())
    for start in range(0, replicates, step):
        part = drawn[start : start + step]
        whole = torch.zeros(len(part), cells.numel(), dtype=torch.float64)
        whole[:, torch.from_numpy(there)] = torch.from_numpy(part.astype(np.float64))
        parts.append(metric.of(whole.view(-1, *cells.shape)).numpy())
    return np.concatenate(parts)


def _weighted(
    metric: Weighted, output: Tensor, target: Tensor, replicates: int, generator: np.random.Generator
) -> Numbers:
    rows, parts = len(target), []
    step = max(1, _CHUNK // rows)
    for start in range(0, replicates, step):
        count = min(step, replicates - start)
        places = generator.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        weights = np.bincount(places.reshape(-1), minlength=count * rows).reshape(count, rows)
        parts.append(metric.measure(output, target, torch.from_numpy(weights.astype(np.float64))).numpy())
    return np.concatenate(parts)


def _plain(metric: Metric, output: Tensor, target: Tensor, replicates: int, generator: np.random.Generator) -> Numbers:
    chosen = (torch.from_numpy(generator.integers(len(target), size=len(target))) for _ in range(replicates))
    return np.array([metric(output[rows], target[rows]) for rows in chosen])


def difference(
    metric: Metric, first: Tensor, second: Tensor, target: Tensor, *, replicates: int = 400, seed: int = 0
) -> Interval | None:
    """The interval of metric(first) - metric(second); a replicate's rows are the same for both, so that what is hard
    for both cancels. None for a metric that knows no weights, or where most replicates don't define it.

    Of decisions that differ on fewer than `LEAST_APART` rows it holds 0: resampling rows that all speak for one side
    never gives another answer, but no sign test would trust so few.
    """
    rows = len(target)
    if rows < 2 or not isinstance(metric, Weighted):
        return None
    generator = np.random.default_rng(derive(seed, "difference"))
    first, second, target, scale = first.cpu(), second.cpu(), target.cpu(), 1.0
    centre = middle = metric(first, target) - metric(second, target)
    if rows > MOST_ROWS:
        some = torch.from_numpy(np.sort(generator.choice(rows, MOST_ROWS, replace=False)))
        first, second, target, scale = first[some], second[some], target[some], (MOST_ROWS / rows) ** 0.5
        middle = metric(first, target) - metric(second, target)
    state = generator.bit_generator.state
    found = [_weighted(metric, first, target, replicates, generator)]
    generator.bit_generator.state = state
    found.append(_weighted(metric, second, target, replicates, generator))
    gap = _between(centre + (found[0] - found[1] - middle) * scale, replicates)
    if gap and isinstance(metric, Confused) and metric.form == "category":
        apart = int((first.argmax(1) != second.argmax(1)).sum())
        if apart < LEAST_APART:
            return Interval(min(gap.low, 0.0), max(gap.high, 0.0))
    return gap
