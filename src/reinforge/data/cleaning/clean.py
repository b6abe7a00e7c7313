"""Cleaning a table before it is split, and its training rows after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reinforge.data.cleaning.keys import codes, comparable, comparables
from reinforge.data.cleaning.options import CleanOptions
from reinforge.data.cleaning.report import Change
from reinforge.data.cleaning.similar import near
from reinforge.data.table import Table, as_float
from reinforge.data.values import Codes, Nulls
from reinforge.errors import DataError
from reinforge.messages import _

# With more than this part of its rows repeated, a table's rows recur by nature.
RECURRING = 0.5
# A column is of numbers where more than this part of its values is.
MOSTLY = 0.5
EXAMPLES = 3
LEADING_ZERO = r"^\s*[+-]?0[0-9]"

# Smallest and largest allowed value by column, None where there is no bound.
Bounds = Mapping[str, tuple[float | None, float | None]]


@dataclass(frozen=True)
class Cleaned:
    """A table as cleaning left it. `rows`: its rows in the table before; `together`: (n,) codes of rows that must not
    be split, or None."""

    table: Table
    rows: Codes
    together: Codes | None
    changes: tuple[Change, ...]


def mend_words(table: Table, columns: Sequence[str], nulls: Nulls, options: CleanOptions) -> Cleaned:
    """Without the words in columns of numbers, by `noise`; before kinds are told, as a word makes a column text."""
    bad: dict[str, pl.Series] = {}
    for name in columns if options.noise != "error" else ():
        series = table.columns.get(name)
        if series is None or series.dtype != pl.String or as_float(series, nulls) is not None:
            continue
        trimmed = series.str.strip_chars()
        there = trimmed.is_not_null() & ~trimmed.is_in(list(nulls.texts))
        numeric = trimmed.cast(pl.Float64, strict=False).is_not_null()
        if int((there & numeric).sum()) > MOSTLY * int(there.sum()) and not series.str.contains(LEADING_ZERO).any():
            bad[name] = there & ~numeric
    return _without(table, bad, options)


def mend(
    table: Table, inputs: Sequence[str], targets: Sequence[str], bounds: Bounds, nulls: Nulls, options: CleanOptions
) -> Cleaned:
    """The table by the policies that look at each row by itself: white space, noise, rows with too little."""
    changes = _spaces(table, [name for name in (*inputs, *targets) if name in table.columns])
    noisy = _without(table, _beyond(table, bounds, nulls) if options.noise != "error" else {}, options)
    table, rows = noisy.table, noisy.rows
    changes += noisy.changes
    there = [name for name in inputs if name in table.columns]
    if options.sparse is not None and there:
        missing = pl.DataFrame([comparable(table.columns[name], nulls).is_null() for name in there])
        part = missing.select(pl.mean_horizontal(pl.all().cast(pl.Float64))).to_series().to_numpy()
        kept = np.flatnonzero(part <= options.sparse)
        if gone := len(table) - len(kept):
            changes.append(Change("sparse", found=gone, dropped=gone))
            table, rows = table.take(kept), rows[kept]
    return Cleaned(table, rows, None, tuple(changes))


def clean(
    table: Table, inputs: Sequence[str], targets: Sequence[str], bounds: Bounds, nulls: Nulls, options: CleanOptions
) -> Cleaned:
    """The table by the policies that come before the split.

    `inputs` and `targets` are columns. Raises DataError where nothing is left.
    """
    inputs = [name for name in inputs if name in table.columns]
    targets = [name for name in targets if name in table.columns]
    mended = mend(table, inputs, targets, bounds, nulls, options)
    table, rows, changes = mended.table, mended.rows, list(mended.changes)
    where = np.arange(len(table))  # the rows that are left, among those of `values`

    def keep(policy: str, kept: np.ndarray[tuple[int], np.dtype[np.bool_]], detail: str = "") -> None:
        nonlocal table, rows, where
        gone = int((~kept).sum())
        if gone:
            changes.append(Change(policy, found=gone, dropped=gone, detail=detail))
            index = np.flatnonzero(kept)
            table, rows, where = table.take(index), rows[index], where[index]
        _refuse_nothing(table)

    _refuse_nothing(table)
    values = comparables(table, [*inputs, *targets], nulls)

    def equal(names: Sequence[str]) -> Codes:
        whole = len(where) == len(next(iter(values.values()), where))
        return codes([values[name] if whole else values[name].gather(where) for name in names], len(where))

    whole = equal([*inputs, *targets])
    again = whole != np.arange(len(table))
    if options.duplicates == "drop":
        keep("duplicates", ~again, _example(table, again, whole))
    elif again.any():
        changes.append(Change("duplicates", found=int(again.sum()), detail=_example(table, again, whole)))
    if options.near is not None:
        groups = near(table, inputs, nulls, options.near)
        same_target = near(table, [*inputs, *targets], nulls, options.near)
        again = _again(same_target)
        if options.near.drop:
            keep("near", ~again, _example(table, again, same_target))
            groups = near(table, inputs, nulls, options.near)
        elif again.any():
            detail = _example(table, again, same_target)
            changes.append(Change("near", found=int(again.sum()), detail=detail))
    else:
        groups = equal(inputs)
    conflicting, later = conflicts(groups, equal(targets))
    if conflicting.any():
        if options.conflicts == "keep":
            changes.append(Change("conflicts", found=int(conflicting.sum()), detail=_example(table, later, groups)))
        else:
            before = len(table)
            keep("conflicts", ~(later if options.conflicts == "first" else conflicting), _example(table, later, groups))
            if len(table) < before:
                groups = groups[~(later if options.conflicts == "first" else conflicting)]
    return Cleaned(table, rows, kept_together(groups, options, changes), tuple(changes))


def _refuse_nothing(table: Table) -> None:
    if len(table) == 0:
        raise DataError(_("cleaning leaves no row"), where="data.clean", remedy=_("Loosen its policies."))


def outlying(block: np.ndarray[tuple[int, int], np.dtype[np.float64]], reach: float) -> Codes:
    """Rows of (n, k) numbers with one beyond `reach` interquartile ranges from the quartiles of its column; NaN never
    is, nor is anything in a column whose quartiles are equal."""
    if block.size == 0:
        return np.empty(0, np.int64)
    low, high = np.full(block.shape[1], np.nan), np.full(block.shape[1], np.nan)
    for index in range(block.shape[1]):
        there = block[:, index][~np.isnan(block[:, index])]
        if len(there):
            low[index], high[index] = np.quantile(there, [0.25, 0.75])
    spread = np.where(high > low, high - low, np.nan)
    beyond = (block < low - reach * spread) | (block > high + reach * spread)
    return np.flatnonzero(beyond.any(1))


def _spaces(table: Table, names: Sequence[str]) -> list[Change]:
    """Cells with white space at an end: the reader of values trims it, in training as in serving."""
    found = []
    for name in names:
        series = table.columns[name]
        if series.dtype == pl.String and (count := int((series != series.str.strip_chars()).sum())):
            found.append(Change("spaces", name, found=count, cells=count))
    return found


def _beyond(table: Table, bounds: Bounds, nulls: Nulls) -> dict[str, pl.Series]:
    bad = {}
    for name, (low, high) in bounds.items():
        values = comparable(table.columns[name], nulls) if name in table.columns else None
        if values is None or values.dtype != pl.Float64:
            continue
        beyond = values.is_infinite()
        if low is not None:
            beyond |= values < low
        if high is not None:
            beyond |= values > high
        bad[name] = beyond.fill_null(False)
    return bad


def _without(table: Table, bad: Mapping[str, pl.Series], options: CleanOptions) -> Cleaned:
    """The table without bad cells, or without the rows that hold them."""
    everything = np.arange(len(table))
    changes, columns = [], dict(table.columns)
    dropped = np.zeros(len(table), np.bool_)
    for name, cells in bad.items():
        count = int(cells.sum())
        if not count:
            continue
        examples = ", ".join(
            map(repr, columns[name].filter(cells).unique(maintain_order=True).head(EXAMPLES).to_list())
        )
        detail = _("for example {values}").format(values=examples)
        drop = options.noise == "drop"
        changes.append(
            Change("noise", name, found=count, cells=0 if drop else count, dropped=count if drop else 0, detail=detail)
        )
        if drop:
            dropped |= cells.to_numpy()
        else:
            columns[name] = columns[name].set(cells, None)
    mended = replace(table, columns=columns)
    rows = np.flatnonzero(~dropped) if dropped.any() else everything
    return Cleaned(mended.take(rows) if dropped.any() else mended, rows, None, tuple(changes))


def _again(groups: Codes) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(n,) whether an earlier row has the same code."""
    again = np.ones(len(groups), np.bool_)
    again[np.unique(groups, return_index=True)[1]] = False
    return again


def conflicts(
    groups: NDArray[Any], targets: NDArray[Any]
) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """(n,) rows of groups that hold several targets, and those of them that differ from their group's first row.

    `groups` and `targets`: (n,) codes or hashes, which need to tell targets apart within a group only.
    """
    _names, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    later = targets != targets[first][inverse.reshape(-1)]
    odd = np.zeros(len(first), np.bool_)
    odd[inverse.reshape(-1)[later]] = True
    return odd[inverse.reshape(-1)], later


def kept_together(groups: Codes, options: CleanOptions, changes: list[Change]) -> Codes | None:
    """The codes of rows that must not be split, if any must not; what was found is added to `changes`."""
    again = int(_again(groups).sum())
    if options.together is False or not again:
        return None
    if options.together is None and again > RECURRING * len(groups):
        detail = _(
            "they recur by nature, so they may stand on several sides; `clean.together: true` keeps them together"
        )
        changes.append(Change("together", found=again, detail=detail))
        return None
    changes.append(Change("together", found=again))
    return groups


def _example(table: Table, again: np.ndarray[tuple[int], np.dtype[np.bool_]], groups: Codes) -> str:
    found = np.flatnonzero(again)
    if not len(found):
        return ""
    row = int(found[0])
    first = int(np.flatnonzero(groups == groups[row])[0])
    return _("for example {one} and {other}").format(one=table.origin.at(first), other=table.origin.at(row))
