"""Fitting numbers from more rows than memory holds: a pipeline fitted to a sample, made exact where sums can do it.

Means, deviations and ranges of all rows come from mergeable moments (Chan, Golub and LeVeque, 1983). Medians, quartiles
and the fences of outliers stay those of the sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from reinforge.data.operations.numbers import Impute, Indicate, Log, Operation, Scale
from reinforge.data.values import Numbers
from reinforge.schema.fields import Number


class Moments:
    """Count, mean, sum of squared deviations, least and most of k columns; NaN is not counted."""

    def __init__(self, width: int) -> None:
        self.count, self.mean, self.squares = np.zeros(width), np.zeros(width), np.zeros(width)
        self.least, self.most = np.full(width, np.inf), np.full(width, -np.inf)

    def add(self, block: Numbers) -> None:
        """The rows of (n, k)."""
        there = ~np.isnan(block)
        count = there.sum(0).astype(np.float64)
        filled = np.where(there, block, 0.0)
        mean = filled.sum(0) / np.maximum(count, 1)
        self.merge(
            count, mean, (np.where(there, block - mean, 0.0) ** 2).sum(0),
            np.where(there, block, np.inf).min(0, initial=np.inf),
            np.where(there, block, -np.inf).max(0, initial=-np.inf),
        )  # fmt: skip

    def merge(self, count: Numbers, mean: Numbers, squares: Numbers, least: Numbers, most: Numbers) -> None:
        """Other rows' moments, all (k,); columns with no count change nothing."""
        total = self.count + count
        apart = np.where(count > 0, mean - self.mean, 0.0)
        share = count / np.maximum(total, 1)
        self.squares = self.squares + np.where(count > 0, squares, 0.0) + apart**2 * self.count * share
        self.mean = self.mean + apart * share
        self.least, self.most = np.minimum(self.least, least), np.maximum(self.most, most)
        self.count = total

    @property
    def deviation(self) -> Numbers:
        """With n in the denominator."""
        return np.asarray(np.sqrt(self.squares / np.maximum(self.count, 1)))


def refined(steps: Sequence[Operation], fields: Sequence[Number], blocks: Iterable[Numbers]) -> tuple[Operation, ...]:
    """The steps, fitted to a sample, with what moments of all rows give: imputed means, standard scales and ranges.

    `blocks` (n, k) are raw; rows with missing numbers count as imputed where the steps impute, else not at all.
    """
    width = len(fields)
    impute = next((step for step in steps if isinstance(step, Impute)), None)
    log = next((step for step in steps if isinstance(step, Log)), None)
    raw, last, rows = Moments(width), Moments(width), 0
    for block in blocks:
        rows += len(block)
        for step in steps:
            if isinstance(step, Indicate | Impute):
                break
            if not isinstance(step, Log | Scale):
                block = step.apply(block)
        if log is not None:
            raw.add(block)
        last.add(block if log is None else log.apply(block))
    raw = last if log is None else raw
    found: list[Operation] = []
    for step in steps:
        if isinstance(step, Impute):
            means = np.array([f.missing == "mean" for f in fields]) & (raw.count > 0)
            fill = step.fill.copy()
            fill[:width] = np.where(means, raw.mean, fill[:width])
            impute = replace(step, fill=fill)
            found.append(impute)
        elif isinstance(step, Scale):
            if impute is not None:
                _fill(last, impute.fill[:width], rows, log)
            found.append(_scaled(step, fields, last))
        else:
            found.append(step)
    return tuple(found)


def _fill(moments: Moments, fill: Numbers, rows: int, log: Log | None) -> None:
    """As many rows as are missing, each with what is imputed."""
    gone = np.where(np.isnan(fill), 0.0, rows - moments.count)
    value = np.where(np.isnan(fill), 0.0, fill)
    value = value if log is None else log.apply(value[None])[0]
    there = gone > 0
    moments.merge(gone, value, np.zeros(len(fill)), np.where(there, value, np.inf), np.where(there, value, -np.inf))


def _scaled(step: Scale, fields: Sequence[Number], moments: Moments) -> Scale:
    shift, scale = step.shift.copy(), step.scale.copy()
    for index, field in enumerate(fields):
        if field.scale not in ("standard", "range") or not moments.count[index]:
            continue
        least, most = moments.least[index], moments.most[index]
        if field.scale == "range" or least == most:
            shift[index], spread, rounding = least, most - least, 0.0
        else:
            shift[index], spread = moments.mean[index], moments.deviation[index]
            rounding = 10 * float(np.finfo(np.float64).eps) * abs(float(shift[index]))
        scale[index] = 1.0 if spread <= rounding else spread
    return replace(step, shift=shift, scale=scale)
