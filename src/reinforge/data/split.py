"""Which rows train, which validate and which test: index arrays that are disjoint, and don't leak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from reinforge.data.guessing import spelt_dates
from reinforge.data.operations.dates import moment
from reinforge.data.options import FoldSplit, GivenSplit, GroupSplit, Split, StratifiedSplit, TimeSplit
from reinforge.data.table import Table
from reinforge.data.values import NUMBER, Codes, Nulls, Unreadable
from reinforge.errors import DataError
from reinforge.messages import _


@dataclass(frozen=True)
class Indices:
    """Row numbers of each side, in the order of the rows."""

    train: Codes
    validation: Codes
    test: Codes


def split(
    table: Table, options: Split, seed: int, classes: Codes | None = None, together: Codes | None = None
) -> Indices:
    """Split a table's rows as the options say.

    `classes`: (n,) codes to stratify by; without them a stratified split is a random one. `together`: (n,) codes; rows
    with the same one never stand on two sides. Where time or a column decides, rows that have a copy on a later side
    (train, validation, test) are left out of theirs. Raises DataError where a side that was asked for would be empty,
    or a column doesn't serve.
    """
    count = len(table)
    match options:
        case GivenSplit():
            found = _apart(_given(table, options.column), together)
        case FoldSplit():
            found = _fold(table, options, classes, together)
        case TimeSplit():
            times = _times(table, options.column, options.format)
            found = _apart(time_split(times, options.validation, options.test), together)
        case _:
            generator = np.random.RandomState((seed if options.seed is None else options.seed) % 2**32)
            if isinstance(options, StratifiedSplit) and options.by is not None:
                classes = _whole(table, options.by)
            if not isinstance(options, StratifiedSplit) or classes is None:
                classes = np.zeros(count, dtype=np.int64)
            if isinstance(options, GroupSplit):
                together = union(_whole(table, options.column), together)
            found = stratified_split(classes, options.validation, options.test, generator, together)
    _check(found, count, options, table)
    return found


def columns_of(options: Split) -> tuple[str, ...]:
    """The columns that serve a split, and are no inputs unless the recipe names them as such."""
    match options:
        case GroupSplit() | GivenSplit() | TimeSplit():
            return (options.column,)
        case FoldSplit():
            return tuple(name for name in (options.group, options.time) if name is not None)
        case _:
            return ()


def stratified_split(
    classes: Codes, validation: float, test: float, generator: np.random.RandomState, together: Codes | None = None
) -> Indices:
    """Each class in its proportion on every side, and the sides' sizes as asked: to within one row, or one group of
    rows that stay together.

    Every class, shuffled, is spread evenly over [0, 1); all groups in that order are then cut at the sides' borders,
    each to the side where its middle lies. A group counts for the class of its first row.
    """
    count = len(classes)
    first, group, sizes = _groups(count, together)
    order = _evenly(classes[first], sizes, generator)
    middles = np.cumsum(sizes[order]) - sizes[order] / 2
    side = np.empty(len(first), dtype=np.int8)
    side[order] = np.searchsorted([round(count * test), round(count * (test + validation))], middles, side="right")
    of_row = side[group]
    return Indices(*(np.flatnonzero(of_row == wanted) for wanted in (2, 1, 0)))


def _evenly(classes: Codes, sizes: Codes, generator: np.random.RandomState) -> Codes:
    """(g,) an order of groups of these sizes in which every class, shuffled, is spread over the whole of it."""
    order = generator.permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    ordered = classes[order]
    borders = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    lengths = np.diff(borders, prepend=0, append=len(order))
    del ordered
    position = np.cumsum(sizes[order], dtype=np.float64)
    ends = position[np.append(borders, len(order)) - 1] if len(order) else position
    starts = np.append(0.0, ends[:-1])
    # A group lies where its middle does. In place: these arrays may be as long as a table that doesn't fit in memory.
    position -= sizes[order] / 2
    position -= np.repeat(starts, lengths)
    position /= np.repeat(ends - starts, lengths)
    found: Codes = order[np.lexsort((generator.random_sample(len(order)), position))]
    return found


def stratified_folds(classes: Codes, folds: int, seed: int, together: Codes | None = None) -> Codes:
    """(n,) the fold that tests each row: every class spread over the folds to within one row (or one group of rows that
    stay together, which counts for the class of its first row).

    The same folds as scikit-learn's StratifiedKFold(folds, shuffle=True, random_state=seed), so that figures compare:
    sorted by class, rows are dealt to the folds in turn, which fixes each fold's share of a class; which rows of the
    class they are is drawn. Classes count in the order in which they first appear. Groups are dealt largest first.
    """
    first_row, group, sizes = _groups(len(classes), together)
    generator = np.random.RandomState(seed)
    if len(first_row) < len(classes):
        order = generator.permutation(len(first_row))
        order = order[np.lexsort((-sizes[order], classes[first_row[order]]))]
        dealt = np.empty(len(first_row), dtype=np.int64)
        dealt[order] = np.arange(len(first_row)) % folds
        of_row: Codes = dealt[group]
        return of_row
    _, first, inverse = np.unique(classes, return_index=True, return_inverse=True)
    appearance = np.argsort(np.argsort(first))
    codes = appearance[inverse.reshape(-1)]
    dealt = np.sort(codes)
    result = np.empty(len(classes), dtype=np.int64)
    for code in range(len(first)):
        shares = [int((dealt[fold::folds] == code).sum()) for fold in range(folds)]
        mine = np.repeat(np.arange(folds), shares)
        generator.shuffle(mine)
        result[codes == code] = mine
    return result


def random_folds(count: int, folds: int, seed: int, together: Codes | None = None) -> Codes:
    """(n,) the fold that tests each row; folds differ by one row at most (or one group of rows that stay together).
    The same as scikit-learn's shuffled KFold."""
    if together is not None and len(np.unique(together)) < count:
        return stratified_folds(np.zeros(count, dtype=np.int64), folds, seed, together)
    order = np.random.RandomState(seed).permutation(count)
    result = np.empty(count, dtype=np.int64)
    for fold, rows in enumerate(np.array_split(order, folds)):
        result[rows] = fold
    return result


def group_folds(groups: Codes, folds: int) -> Codes:
    """(n,) the fold that tests each row: whole groups, largest first, each to the fold with the fewest rows so far.
    The same sizes as scikit-learn's GroupKFold. Raises DataError where there are fewer groups than folds."""
    _first, group, sizes = _groups(len(groups), groups)
    if len(sizes) < folds:
        raise DataError(
            _("{n} groups can't make {folds} folds").format(n=len(sizes), folds=folds), where="data.split.folds"
        )
    filled = np.zeros(folds, dtype=np.int64)
    dealt = np.empty(len(sizes), dtype=np.int64)
    for index in np.argsort(-sizes, kind="stable"):
        dealt[index] = filled.argmin()
        filled[dealt[index]] += sizes[index]
    of_row: Codes = dealt[group]
    return of_row


def time_folds(times: np.ndarray[tuple[int], np.dtype[np.float64]], folds: int) -> Codes:
    """(n,) the fold that tests each row, and -1 for the earliest, which only train: a fold trains on all before it.

    Tests are of equal size, as in scikit-learn's TimeSeriesSplit; equal times stay together, in the later fold.
    """
    count = len(times)
    size = count // (folds + 1)
    borders = np.sort(times)[[count - (folds - fold) * size for fold in range(folds)]] if size else np.empty(0)
    if len(np.unique(borders)) < folds or borders[0] == times.min():
        raise DataError(
            _("{n} different times can't make {folds} folds").format(n=len(np.unique(times)), folds=folds),
            where="data.split.folds",
        )
    result: Codes = np.searchsorted(borders, times, side="right").astype(np.int64) - 1
    return result


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


def union(groups: Codes, others: Codes | None) -> Codes:
    """(n,) codes of the finest groups in which rows that share a code of either kind are together."""
    _first, left, _sizes = _groups(len(groups), groups)
    if others is None:
        return left
    _first, right, _sizes = _groups(len(groups), others)
    # Each pass takes the smallest label among the rows of a group of either kind; labels only fall.
    labels = left
    while True:
        before = labels
        for codes in (left, right):
            least = np.full(codes.max(initial=0) + 1, len(labels), dtype=np.int64)
            np.minimum.at(least, codes, labels)
            labels = least[codes]
        if np.array_equal(before, labels):
            return labels


def _groups(count: int, together: Codes | None) -> tuple[Codes, Codes, Codes]:
    """Of groups in the order of their first rows: those rows (g,), each row's group (n,), and their sizes (g,)."""
    if together is None:
        rows = np.arange(count)
        return rows, rows, np.ones(count, dtype=np.int64)
    _, first, inverse, sizes = np.unique(together, return_index=True, return_inverse=True, return_counts=True)
    rank = np.argsort(np.argsort(first))
    order = np.argsort(first)
    return first[order], rank[inverse.reshape(-1)], sizes[order]


def _apart(found: Indices, together: Codes | None) -> Indices:
    """Without the rows that have a copy on a later side."""
    if together is None:
        return found
    taken = np.empty(0, dtype=np.int64)
    kept = []
    for side in (found.test, found.validation, found.train):
        kept.append(side[~np.isin(together[side], taken)])
        taken = np.union1d(taken, together[side])
    return Indices(kept[2], kept[1], kept[0])


def _fold(table: Table, options: FoldSplit, classes: Codes | None, together: Codes | None) -> Indices:
    count = len(table)
    if count < options.folds:
        raise DataError(
            _("{count} rows can't make {folds} folds").format(count=count, folds=options.folds),
            where="data.split.folds",
        )
    if options.time is not None:
        times = _times(table, options.time, options.format)
        folds = time_folds(times, options.folds)
        earlier = np.flatnonzero(folds < (options.folds if options.fold is None else options.fold))
        inner = time_split(times[earlier], options.validation, 0.0)
        test = np.flatnonzero(folds == options.fold)
        return _apart(Indices(earlier[inner.train], earlier[inner.validation], test), together)
    strata = classes if options.stratified else None
    if options.group is not None:
        together = union(_whole(table, options.group), together)
        folds = group_folds(together, options.folds)
    elif strata is not None:
        folds = stratified_folds(strata, options.folds, options.seed, together)
    else:
        folds = random_folds(count, options.folds, options.seed, together)
    test, rest = np.flatnonzero(folds == options.fold), np.flatnonzero(folds != options.fold)
    inner = stratified_split(
        np.zeros(len(rest), dtype=np.int64) if strata is None else strata[rest],
        options.validation,
        0.0,
        np.random.RandomState(options.seed),
        None if together is None else together[rest],
    )
    return Indices(rest[inner.train], rest[inner.validation], test)


def _given(table: Table, column: str) -> Indices:
    names = ("train", "validation", "test")
    values = table.column(column).cast(pl.String).str.strip_chars()
    bad = values.is_null() | ~values.is_in(names)
    if bad.any():
        row = int(bad.arg_true()[0])
        raise DataError(
            _("{values!r} is none of {names}").format(values=values[row], names=", ".join(names)),
            where=table.origin.at(row, column),
            remedy=_("Mend the value."),
        )
    return Indices(*(np.flatnonzero((values == name).to_numpy()) for name in names))


def _whole(table: Table, column: str) -> Codes:
    """A column as codes in order of appearance. Raises DataError where a value is missing."""
    series = _present(table, column, lambda values: values.cast(pl.String).str.strip_chars())
    distinct = series.unique(maintain_order=True)
    return series.replace_strict(distinct, pl.Series(range(len(distinct)), dtype=pl.Int64)).to_numpy()


def _times(table: Table, column: str, form: str | None) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A column of numbers, dates or times as float64, in which later is greater; dates by `form` where it is given, or
    told from them."""

    def read(values: pl.Series) -> pl.Series:
        if (told := form or _told_format(values)) is not None:
            return _formatted(values, told)
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


def _told_format(values: pl.Series) -> str | None:
    if values.dtype != pl.String:
        return None
    guess = spelt_dates(values.str.strip_chars().drop_nulls())
    return None if guess is None else guess.options.get("format")


def _formatted(values: pl.Series, form: str) -> pl.Series:
    distinct = values.cast(pl.String).unique().drop_nulls()
    found: list[float | None] = []
    for text in distinct.to_list():
        try:
            found.append(float(moment(text, Nulls.of(()), form=form)))
        except Unreadable:
            found.append(None)
    return values.cast(pl.String).replace_strict(distinct, pl.Series(found, dtype=pl.Float64), default=None)


def _present(table: Table, column: str, read: Callable[[pl.Series], pl.Series]) -> pl.Series:
    raw = table.column(column)
    values = read(raw)
    if values.is_null().any():
        row = int(values.is_null().arg_true()[0])
        raise DataError(
            _("{raw!r} can't say on which side the row belongs").format(raw=raw[row]),
            where=table.origin.at(row, column),
            remedy=_("Mend it, or split by another column; how dates are written, data.split.format says."),
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
                _("of {count} rows, none is left for {side}").format(count=count, side=side),
                where=table.origin.at(),
                remedy=_("Give more rows, or another data.split."),
            )
