"""Intervals of means and ratios over whatever was drawn together: documents, questions, blocks of text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from reinforge.core.seeds import derive

Bounds = tuple[float, float]
REPLICATES = 1000
# Draws that are held at once: 8 MB stay near the processor.
_CHUNK = 1 << 20


def ratio_interval(above: ArrayLike, below: ArrayLike | None = None, *, seed: int = 0) -> Bounds | None:
    """The percentile bootstrap of 95% of sum(above) / sum(below) over units (n,), or of the mean of `above` without
    `below` (Efron, 1979); None of fewer than two units. What belongs to one unit (the tokens of a document, the samples
    of a question) is drawn together, since it isn't independent.
    """
    over = np.asarray(above, dtype=np.float64)
    under = np.ones_like(over) if below is None else np.asarray(below, dtype=np.float64)
    units = len(over)
    if units < 2:
        return None
    generator = np.random.default_rng(derive(seed, "resampling"))
    found: list[float] = []
    step = max(1, _CHUNK // units)
    for start in range(0, REPLICATES, step):
        drawn = generator.integers(units, size=(min(step, REPLICATES - start), units))
        total = under[drawn].sum(1)
        found += (over[drawn].sum(1)[total > 0] / total[total > 0]).tolist()
    if len(found) < REPLICATES / 2:
        return None
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def proportion_interval(values: Sequence[float] | ArrayLike, *, seed: int = 0) -> Bounds:
    """Of a mean of values in [0, 1]: Wilson's where they are 0 or 1, the bootstrap where there is more between; of
    values that are all alike, of which the bootstrap would say nothing, Wilson's again, which is then too wide rather
    than too narrow."""
    found = np.asarray(values, dtype=np.float64)
    between = bool(((found > 0) & (found < 1)).any())
    if between and found.min() < found.max() and (drawn := ratio_interval(found, seed=seed)) is not None:
        return drawn
    return wilson(float(found.sum()), len(found))


def wilson(right: float, total: int, z: float = 1.959964) -> Bounds:
    """The interval of 95% of a proportion (Wilson, 1927)."""
    p, n = right / total, total
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * ((p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5) / (1 + z * z / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)
