"""Columns that give the target away: how well each predicts it alone, on rows that it was not fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reinforge.data.operations import dates, labels
from reinforge.data.values import MEMORY, Codes, Column, Encoded, Nulls, Numbers, read_codes, read_numbers
from reinforge.schema.fields import Category, Date, Number
from reinforge.schema.schema import Schema

# So good alone, a column is more likely a copy of the target, or was written after it, than a lucky find.
SUSPICIOUS = 0.98
BINS = 32
LEAST = 20


@dataclass(frozen=True)
class Alone:
    """How well one column predicts one target without any other: 0 is chance, 1 is perfect.

    Of classes: balanced accuracy, from chance up. Of numbers: the part of the variance that is explained. `suspicious`
    where that is nearly all, and other columns are there.
    """

    column: str
    target: str
    score: float
    suspicious: bool


def alone(columns: Mapping[str, Column], schema: Schema) -> tuple[Alone, ...]:
    """Each numeric, categorical or date input against each numeric or categorical target, best first.

    A column becomes at most 32 bins (or its labels, with missing values a bin of their own); every other row gives each
    bin its class or mean, and the rows between are predicted.
    """
    nulls = Nulls.of(schema.nulls)
    inputs = {f.name: binned for f in schema.inputs if (binned := _binned(f, columns, nulls)) is not None}
    found = []
    for target in schema.targets:
        if target.name not in columns or not isinstance(target, Number | Category):
            continue
        if isinstance(target, Category):
            answers = read_codes(columns[target.name], target.name, labels.coder(target, nulls)).astype(np.float64)
            there = answers >= 0
        else:
            answers = read_numbers(columns[target.name], target.name, nulls)
            there = np.isfinite(answers)
        for name, (bins, values) in inputs.items():
            line = None if values is None else values[there]
            score = _score(bins[there], line, answers[there], isinstance(target, Category))
            if score is not None:
                suspicious = score >= SUSPICIOUS and len(schema.inputs) > 1
                found.append(Alone(name, target.name, score, suspicious))
    return tuple(sorted(found, key=lambda item: (-item.score, item.column)))


def _binned(field: object, columns: Mapping[str, Column], nulls: Nulls) -> tuple[Codes, Numbers | None] | None:
    """(n,) bins or codes of labels, and numbers (n,) where it has them; None for what has neither."""
    name = getattr(field, "name", "")
    if name not in columns:
        return None
    column = columns[name]
    if isinstance(field, Number | Date):
        numbers = read_numbers(column, name, nulls) if isinstance(field, Number) else days(column, field, nulls)
        return _bins(numbers, numbers[::2]), numbers
    if isinstance(field, Category):
        if isinstance(column, Encoded):
            return column.codes.astype(np.int64), None
        _labels, codes = np.unique(np.array([str(value) for value in column]), return_inverse=True)
        return codes.reshape(-1).astype(np.int64), None
    return None


def days(column: Column, field: Date, nulls: Nulls) -> Numbers:
    """(n,) days since 1970, with fractions; NaN where missing."""
    moments = dates.read_moments(column, field, nulls, MEMORY)
    return dates.numbers(moments, Date(name=field.name, parts=("elapsed",)))[0]


def _score(bins: Codes, values: Numbers | None, answers: Numbers, classes: bool) -> float | None:
    fit, held = slice(0, None, 2), slice(1, None, 2)
    if len(answers[held]) < LEAST:
        return None
    if classes:
        codes = answers.astype(np.int64)
        found = _classes_score(bins[fit], codes[fit], bins[held], codes[held])
        return (
            found if values is None else max(found, _nearest_score(values[fit], codes[fit], values[held], codes[held]))
        )
    scores = [_means_score(bins[fit], answers[fit], bins[held], answers[held])]
    if values is not None:
        scores.append(_line_score(values[fit], answers[fit], values[held], answers[held]))
    return max(0.0, *scores)


def _bins(values: Numbers, fit: Numbers) -> Codes:
    """(n,) bins between quantiles; the last one holds what is missing."""
    there = fit[np.isfinite(fit)]
    if len(there) == 0:
        return np.zeros(len(values), np.int64)
    edges = np.unique(there)
    if len(edges) > BINS:
        edges = np.unique(np.quantile(there, np.linspace(0, 1, BINS + 1)[1:-1]))
    else:
        edges = (edges[1:] + edges[:-1]) / 2
    found = np.searchsorted(edges, values, side="right")
    return np.where(np.isfinite(values), found, len(edges) + 1).astype(np.int64)


def _classes_score(bins: Codes, answers: Codes, held: Codes, truth: Codes) -> float:
    width, count = int(max(bins.max(), held.max())) + 1, int(max(answers.max(), truth.max())) + 1
    table = np.zeros((width, count))
    np.add.at(table, (bins, answers), 1.0)
    table /= np.maximum(table.sum(0), 1)  # each class counts alike
    guess = np.where(table.sum(1) > 0, table.argmax(1), -1)[held]
    return _balanced(guess, truth)


def _nearest_score(values: Numbers, answers: Codes, held: Numbers, truth: Codes) -> float:
    """By the class of the nearest number, which finds a sharp border that lies within a bin."""
    order = np.argsort(values, kind="stable")  # what is missing comes last
    order = order[: int(np.isfinite(values).sum())]
    if len(order) < 2:
        return 0.0
    known = values[order]
    right = np.clip(np.searchsorted(known, held), 1, len(known) - 1)
    nearer = np.where(held - known[right - 1] <= known[right] - held, right - 1, right)
    return _balanced(np.where(np.isfinite(held), answers[order][nearer], -1), truth)


def _balanced(guess: Codes, truth: Codes) -> float:
    """Balanced accuracy as a part of the way from chance to certainty."""
    present, inverse = np.unique(truth, return_inverse=True)
    if len(present) < 2:
        return 0.0
    recall = np.bincount(inverse.reshape(-1), guess == truth) / np.bincount(inverse.reshape(-1))
    chance = 1 / len(present)
    return float(max(0.0, (recall.mean() - chance) / (1 - chance)))


def _means_score(bins: Codes, answers: Numbers, held: Codes, truth: Numbers) -> float:
    width = int(max(bins.max(), held.max())) + 1
    counts = np.bincount(bins, minlength=width)
    sums = np.bincount(bins, answers, minlength=width)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), answers.mean())
    return _explained(means[held], truth)


def _line_score(values: Numbers, answers: Numbers, held: Numbers, truth: Numbers) -> float:
    there = np.isfinite(values)
    if there.sum() < 2 or np.ptp(values[there]) == 0:
        return 0.0
    middle = values[there].mean()
    spread = values[there] - middle
    slope = float(spread @ (answers[there] - answers[there].mean()) / (spread @ spread))
    predicted = np.where(np.isfinite(held), answers[there].mean() + slope * (held - middle), answers.mean())
    return _explained(predicted, truth)


def _explained(predicted: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    total = float(((truth - truth.mean()) ** 2).sum())
    return 1 - float(((truth - predicted) ** 2).sum()) / total if total else 0.0
