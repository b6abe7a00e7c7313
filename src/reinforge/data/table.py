"""A table as it was read: columns not yet interpreted, and where their rows came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import polars as pl

from reinforge.data.values import MEMORY, Codes, Column, Encoded, Nulls, Origin
from reinforge.errors import DataError
from reinforge.messages import _
from reinforge.schema.fields import Category, Number
from reinforge.schema.schema import Schema


@dataclass(frozen=True)
class Table:
    """Columns by name, all of one length. Files give texts; frames in memory keep their types. `digest` names the
    content ("sha256:...")."""

    columns: Mapping[str, pl.Series]
    origin: Origin = MEMORY
    digest: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def column(self, name: str) -> pl.Series:
        """The column of that name. Raises DataError where there is none."""
        try:
            return self.columns[name]
        except KeyError:
            raise DataError(
                _("column {name!r} is missing").format(name=name),
                where=self.origin.at(),
                remedy=_("Given: {names}.").format(names=", ".join(self.columns)),
            ) from None

    def take(self, rows: Codes) -> Table:
        """Those rows, in that order; errors still name the places they came from."""
        columns = {name: series.gather(rows) for name, series in self.columns.items()}
        return Table(columns, self.origin.take(rows), self.digest, self.notes)

    def plain(self, schema: Schema, *, targets: bool = True) -> dict[str, Column]:
        """The schema's columns in plain form, for the pipeline. What is not there is left out."""
        nulls = Nulls.of(schema.nulls)
        fields = schema.fields if targets else schema.inputs
        found = {f.name: plain_column(self.columns[f.name], f, nulls) for f in fields if f.name in self.columns}
        if not found and fields:
            needed = ", ".join(f.name for f in fields)
            raise DataError(
                _("none of the schema's columns is there"),
                where=self.origin.at(),
                remedy=_("It needs: {needed}. Given: {given}.").format(needed=needed, given=", ".join(self.columns)),
            )
        return found

    def rows(self, index: Iterable[int], names: Iterable[str]) -> list[dict[str, object]]:
        """Rows as they were read, with values that JSON can say."""
        kept = [name for name in names if name in self.columns]
        return [{name: _json(self.columns[name][row]) for name in kept} for row in index]


def plain_column(series: pl.Series, field: object, nulls: Nulls) -> Column:
    """A series as a plain column: an array for numbers where all of it reads as numbers, `Encoded` for labels.

    Only faster than a list of the same values, never different: what a cast can't read is left to the one reader of
    single values, which knows the errors.
    """
    dtype = series.dtype
    if isinstance(field, Number) and dtype == pl.String:
        values = as_float(series, nulls)
        return series.to_list() if values is None else values.to_numpy()
    if isinstance(field, Number) and dtype.is_numeric() and not dtype.is_decimal():
        return series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    if dtype.is_temporal() or dtype.is_decimal() or dtype in (pl.Categorical, pl.Enum):
        series = series.cast(pl.String)
        return plain_column(series, field, nulls) if series.dtype == pl.String else series.to_list()
    if isinstance(field, Category) and not dtype.is_nested() and dtype != pl.Object:
        distinct = series.unique(maintain_order=True)
        codes = series.replace_strict(distinct, pl.Series(range(len(distinct)), dtype=pl.UInt32))
        return Encoded(distinct.to_list(), codes.to_numpy())
    return series.to_list()


def as_float(series: pl.Series, nulls: Nulls) -> pl.Series | None:
    """A text series as Float64 with NaN for what is missing; None where some text is neither number nor missing."""
    values = series.cast(pl.Float64, strict=False)
    doubtful = values.is_null() & series.is_not_null()
    if doubtful.any():
        trimmed = series.str.strip_chars()
        values = trimmed.cast(pl.Float64, strict=False)
        doubtful = values.is_null() & trimmed.is_not_null()
        if not set(trimmed.filter(doubtful).unique().to_list()) <= nulls.texts:
            return None
    values = values.fill_null(float("nan"))
    for null in nulls.numbers:
        values = values.set(values == null, float("nan"))
    return values


def _json(value: object) -> object:
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
