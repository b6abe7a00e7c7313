"""When rows are the same: one comparable form for each kind of column, and codes for rows that agree in all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from reinforge.data.table import Table, as_float
from reinforge.data.values import Codes, Nulls


def comparable(series: pl.Series, nulls: Nulls) -> pl.Series:
    """Equal where two values mean the same: numbers however spelt, texts trimmed, all that is missing alike."""
    if series.dtype == pl.String:
        values = as_float(series, nulls)
        if values is None:
            trimmed = series.str.strip_chars()
            return trimmed.set(trimmed.is_in(list(nulls.texts)), None)
        series = values
    if series.dtype.is_numeric() and not series.dtype.is_decimal():
        # -0 is 0.
        return series.cast(pl.Float64).fill_nan(None) + 0.0
    if isinstance(series.dtype, pl.Array):
        rows = np.ascontiguousarray(series.to_numpy()).reshape(len(series), -1)
        return pl.Series(series.name, [row.tobytes() for row in rows])
    if series.dtype.is_nested() or series.dtype == pl.Object:
        return pl.Series(series.name, [None if value is None else repr(value) for value in series.to_list()])
    return series.cast(pl.String)


def codes(columns: Sequence[pl.Series], count: int) -> Codes:
    """(count,) the first row with the same values in all columns. Values compare by 128 bits of a hash."""
    if not columns or not count:
        return np.arange(count)
    frame = pl.DataFrame([column.alias(str(index)) for index, column in enumerate(columns)])
    hashes = pl.DataFrame({"a": frame.hash_rows(seed=1), "b": frame.hash_rows(seed=2)})
    rows = hashes.with_row_index("row").select(pl.col("row").first().over("a", "b").cast(pl.Int64))
    found: Codes = rows["row"].to_numpy()
    return found


def comparables(table: Table, names: Iterable[str], nulls: Nulls) -> dict[str, pl.Series]:
    """`comparable` of these columns, those that are there."""
    there = {name: table.columns[name] for name in names if name in table.columns}
    # Numbers at once: an expression costs as much on one short column as on ten thousand.
    plain = [name for name, series in there.items() if series.dtype.is_float() or series.dtype.is_integer()]
    frame = pl.DataFrame([there[name].alias(str(index)) for index, name in enumerate(plain)])
    if plain:
        frame = frame.select(pl.all().cast(pl.Float64).fill_nan(None) + 0.0)
    numbers = dict(zip(plain, frame.get_columns()))
    return {name: numbers[name] if name in numbers else comparable(series, nulls) for name, series in there.items()}
