"""Cross-validation: everything that is fitted, is fitted anew inside each fold."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from reinforge.errors import DataError

# Rows in whatever form the caller keeps them.
Rows = TypeVar("Rows")
# From the rows of a test fold to metrics by name.
Score = Callable[[Rows], dict[str, float]]


@dataclass(frozen=True)
class CrossValidation:
    """Metrics of each fold, in order."""

    folds: tuple[dict[str, float], ...]

    def mean(self, metric: str) -> float:
        """The metric's mean over folds."""
        return statistics.fmean(fold[metric] for fold in self.folds)

    def deviation(self, metric: str) -> float:
        """The metric's standard deviation over folds (n - 1 in the denominator); 0 for one fold."""
        values = [fold[metric] for fold in self.folds]
        return statistics.stdev(values) if len(values) > 1 else 0.0


def cross_validate(
    rows: Rows,
    folds: Sequence[tuple[Sequence[int], Sequence[int]]],
    take: Callable[[Rows, Sequence[int]], Rows],
    train: Callable[[Rows, int], Score[Rows]],
) -> CrossValidation:
    """Train and score once per fold.

    `folds` are pairs of row indices (training, test); `take` selects rows. `train` gets the raw training rows and the
    fold's number, fits its pipeline and its model on them alone, and returns what scores raw test rows: it never sees
    those before. Raises DataError where a row is in both parts of a fold, or a fold is empty.
    """
    results = []
    for index, (training, testing) in enumerate(folds):
        if not len(training) or not len(testing):
            raise DataError("it has no rows to train or to test on", where=f"fold {index}", remedy="Use fewer folds.")
        shared = set(map(int, training)) & set(map(int, testing))
        if shared:
            raise DataError(f"row {min(shared)} is among both the training and the test rows", where=f"fold {index}")
        score = train(take(rows, training), index)
        results.append(score(take(rows, testing)))
    return CrossValidation(tuple(results))
