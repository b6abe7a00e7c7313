"""Which rows train, which validate and which test: index arrays that are disjoint, cover every row, and don't leak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from reinforge.data.options import FoldSplit, GivenSplit, GroupSplit, Split, StratifiedSplit, TimeSplit
from reinforge.data.table import Table
from reinforge.data.values import NUMBER, Codes
from reinforge.errors import DataError


@dataclass(frozen=True)
class Indices:
    """Row numbers of each side, in the order of the rows."""

    train: Codes
    validation: Codes
    test: Codes


def split(table: Table, options: Split, seed: int, classes: Codes | None = None) -> Indices:
    """Split a table's rows as the options say.

    `classes`: (n,) codes to stratify by; without them a stratified split is a random one. Raises DataError where a side
    that was asked for would be empty, or a column doesn't serve.
    """
    count = len(table)
    match options:
        case GivenSplit():
            found = _given(table, options.column)
        case FoldSplit():
            found = _fold(count, options, classes)
        case GroupSplit():
            generator = np.random.RandomState((seed if options.seed is None else options.seed) % 2**32)
            groups = _whole(table, options.column)
            found = group_split(groups, options.validation, options.test, generator)
        case TimeSplit():
            found = time_split(_times(table, options.column), options.validation, options.test)
        case _:
            generator = np.random.RandomState((seed if options.seed is None else options.seed) % 2**32)
            if isinstance(options, StratifiedSplit) and options.by is not None:
                classes = _whole(table, options.by)
            if not isinstance(options, StratifiedSplit) or classes is None:
                classes = np.zeros(count, dtype=np.int64)
            found = stratified_split(classes, options.validation, options.test, generator)
    _check(found, count, options, table)
    return found


def stratified_split(classes: Codes, validation: float, test: float, generator: np.random.RandomState) -> Indices:
    """Each class in its proportion on every side, to within one row, and the sides' sizes exact to rounding.

    Every class, shuffled, is spread evenly over [0, 1); all rows in that order are then cut at the sides' borders.
    """
    count = len(classes)
    shuffled = generator.permutation(count)
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    ordered = classes[by_class]
    starts = np.searchsorted(ordered, ordered, side="left")
    sizes = np.searchsorted(ordered, ordered, side="right") - starts
    position = (np.arange(count) - starts + 0.5) / sizes
    order = by_class[np.lexsort((generator.random_sample(count), position))]
    return _cut(order, validation, test)


def stratified_folds(classes: Codes, folds: int, seed: int) -> Codes:
    """(n,) the fold that tests each row: every class spread over the folds to within one row.

    The same folds as scikit-learn's StratifiedKFold(folds, shuffle=True, random_state=seed), so that figures compare:
    sorted by class, rows are dealt to the folds in turn, which fixes each fold's share of a class; which rows of the
    class they are is drawn. Classes count in the order in which they first appear.
    """
    _, first, inverse = np.unique(classes, return_index=True, return_inverse=True)
    appearance = np.argsort(np.argsort(first))
    codes = appearance[inverse.reshape(-1)]
    dealt = np.sort(codes)
    generator = np.random.RandomState(seed)
    result = np.empty(len(classes), dtype=np.int64)
    for code in range(len(first)):
        shares = [int((dealt[fold::folds] == code).sum()) for fold in range(folds)]
        mine = np.repeat(np.arange(folds), shares)
        generator.shuffle(mine)
        result[codes == code] = mine
    return result


def random_folds(count: int, folds: int, seed: int) -> Codes:
    """(n,) the fold that tests each row; folds differ by one row at most. The same as scikit-learn's shuffled KFold."""
    order = np.random.RandomState(seed).permutation(count)
    result = np.empty(count, dtype=np.int64)
    for fold, rows in enumerate(np.array_split(order, folds)):
        result[rows] = fold
    return result


def group_split(groups: Codes, validation: float, test: float, generator: np.random.RandomState) -> Indices:
    """Whole groups, in drawn order, to the test until it is full, then to validation; the rest trains."""
    names, sizes = np.unique(groups, return_counts=True)
    order = generator.permutation(len(names))
    filled = np.cumsum(sizes[order]) - sizes[order] / 2  # a group belongs where its middle lies
    side = np.searchsorted([test * len(groups), (test + validation) * len(groups)], filled, side="right")
    of_group = np.empty(len(names), dtype=np.int64)
    of_group[order] = side
    of_row = of_group[np.searchsorted(names, groups)]
    return Indices(*(np.flatnonzero(of_row == wanted) for wanted in (2, 1, 0)))


def time_split(times: np.ndarray[tuple[int], np.dtype[np.float64]], validation: float, test: float) -> Indices:
    """Everything in training is earlier than all of validation, and that than all of the test."""
    count = len(times)
    ordered = np.sort(times)

    def border(part: float) -> float:
        return float(ordered[min(count - 1, count - round(part * count))]) if round(part * count) else np.inf

    test_from = border(test)
    validation_from = min(border(test + validation), test_from)
    late, middle = times >= test_from, (times >= validation_from) & (times < test_from)
    return Indices(np.flatnonzero(~late & ~middle), np.flatnonzero(middle), np.flatnonzero(late))


def _cut(order: Codes, validation: float, test: float) -> Indices:
    count = len(order)
    first, second = round(count * test), round(count * (test + validation))
    return Indices(np.sort(order[second:]), np.sort(order[first:second]), np.sort(order[:first]))


def _fold(count: int, options: FoldSplit, classes: Codes | None) -> Indices:
    if count < options.folds:
        raise DataError(f"{count} rows can't make {options.folds} folds", where="data.split.folds")
    if options.stratified and classes is not None:
        folds = stratified_folds(classes, options.folds, options.seed)
    else:
        folds = random_folds(count, options.folds, options.seed)
    test, rest = np.flatnonzero(folds == options.fold), np.flatnonzero(folds != options.fold)
    strata = classes[rest] if options.stratified and classes is not None else np.zeros(len(rest), dtype=np.int64)
    inner = stratified_split(strata, options.validation, 0.0, np.random.RandomState(options.seed))
    return Indices(rest[inner.train], rest[inner.validation], test)


def _given(table: Table, column: str) -> Indices:
    names = ("train", "validation", "test")
    values = table.column(column).cast(pl.String).str.strip_chars()
    bad = values.is_null() | ~values.is_in(names)
    if bad.any():
        row = int(bad.arg_true()[0])
        raise DataError(
            f"{values[row]!r} is none of {', '.join(names)}",
            where=table.origin.at(row, column),
            remedy="Mend the value.",
        )
    return Indices(*(np.flatnonzero((values == name).to_numpy()) for name in names))


def _whole(table: Table, column: str) -> Codes:
    """A column as codes in order of appearance. Raises DataError where a value is missing."""
    series = _present(table, column, lambda values: values.cast(pl.String).str.strip_chars())
    distinct = series.unique(maintain_order=True)
    return series.replace_strict(distinct, pl.Series(range(len(distinct)), dtype=pl.Int64)).to_numpy()


def _times(table: Table, column: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A column of numbers, dates or times as float64, in which later is greater."""

    def read(values: pl.Series) -> pl.Series:
        if values.dtype.is_temporal():
            return values.cast(pl.Datetime("us")).cast(pl.Int64).cast(pl.Float64)
        if values.dtype == pl.String:
            values = values.str.strip_chars()
            if values.drop_nulls().str.contains(f"^(?:{NUMBER.pattern})$").all():
                return values.cast(pl.Float64, strict=False)
            moments = values.str.to_datetime("%Y-%m-%d", time_unit="us", strict=False)
            for pattern in ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"):
                if not moments.is_null().any():
                    break
                moments = moments.fill_null(values.str.to_datetime(pattern, time_unit="us", strict=False))
            return moments.cast(pl.Int64).cast(pl.Float64)
        return values.cast(pl.Float64).fill_nan(None)

    return _present(table, column, read).to_numpy()


def _present(table: Table, column: str, read: Callable[[pl.Series], pl.Series]) -> pl.Series:
    raw = table.column(column)
    values = read(raw)
    if values.is_null().any():
        row = int(values.is_null().arg_true()[0])
        raise DataError(
            f"{raw[row]!r} can't say on which side the row belongs",
            where=table.origin.at(row, column),
            remedy="Fill it in, or split by another column.",
        )
    return values


def _check(found: Indices, count: int, options: Split, table: Table) -> None:
    wanted = {
        "train": True,
        "validation": getattr(options, "validation", 0) > 0,
        "test": getattr(options, "test", 0) > 0,
    }
    sizes = {"train": len(found.train), "validation": len(found.validation), "test": len(found.test)}
    for side, needed in wanted.items():
        if needed and sizes[side] == 0:
            raise DataError(
                f"of {count} rows, none is left for {side}",
                where=table.origin.at(),
                remedy="Give more rows, or another data.split.",
            )
