"""What the folds of a cross-validation say together: means, deviations and intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reinforge.registry import REGISTRY

LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """A metric over the folds: each fold's value (None where it wasn't defined), their mean, their deviation (n - 1 in
    the denominator), and an interval for the mean, cut off at what the metric can be; None of fewer than two."""

    values: tuple[float | None, ...]
    mean: float
    deviation: float | None
    low: float | None
    high: float | None


def spread(folds: Sequence[Mapping[str, float | None]]) -> dict[str, Spread]:
    """By metric, of those that some fold has."""
    names = dict.fromkeys(name for fold in folds for name in fold)
    found = {}
    for name in names:
        values = tuple(fold.get(name) for fold in folds)
        known = [value for value in values if value is not None and math.isfinite(value)]
        if not known:
            continue
        mean = statistics.fmean(known)
        if len(known) < 2:
            found[name] = Spread(values, mean, None, None, None)
            continue
        deviation, half = statistics.stdev(known), half_width(known)
        least, most = bounds(name)
        found[name] = Spread(values, mean, deviation, max(least, mean - half), min(most, mean + half))
    return found


def bounds(name: str) -> tuple[float, float]:
    """What a metric can be: of the built-in ones those that should be high are at most 1, the others at least 0."""
    kind = name.rpartition("/")[2]
    component = next((each for each in REGISTRY.all("metric") if each.name == kind), None)
    best = getattr(component.load(), "best", None) if component is not None else None
    return (0.0 if best == "low" else -math.inf), (1.0 if best == "high" else math.inf)


def half_width(values: Sequence[float]) -> float:
    """Half of the corrected interval for the mean over folds.

    Folds share most of their training rows, so their values lie closer together than independent ones would: the
    variance of the mean is (1/k + test rows / training rows) times that of the values, and in k folds the tested rows
    are 1 / (k - 1) of the others. Nadeau and Bengio (2003), "Inference for the generalization error".
    """
    k = len(values)
    return student(LEVEL, k - 1) * statistics.stdev(values) * math.sqrt(1 / k + 1 / (k - 1))


def student(level: float, freedom: int) -> float:
    """How far from 0 that part of Student's t distribution reaches, both ways; by bisection."""
    low, high = 0.0, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    """P(|T| < t) in closed form: Abramowitz and Stegun (1964), 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    term, total = (cosine, 0.0) if freedom % 2 else (1.0, 0.0)
    for place in range(1 if freedom % 2 else 0, freedom - 1, 2):
        total += term
        term *= cosine * cosine * (place + 1) / (place + 2)
    return 2 / math.pi * (angle + sine * total) if freedom % 2 else sine * total
