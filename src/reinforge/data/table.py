"""A table as it was read: columns not yet interpreted, and where their rows came from."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from reinforge.data.images import SUFFIXES
from reinforge.data.values import MEMORY, Codes, Column, Encoded, Nulls, Origin
from reinforge.errors import DataError
from reinforge.messages import _
from reinforge.schema.fields import Category, Date, Field, Image, Labels, Number, Span, Text, Vector, sources
from reinforge.schema.schema import Schema

# Texts that are certainly dates, and how polars is told to read them. Others are read one by one.
ISO = (
    (r"^[1-9]\d{3}-\d{2}-\d{2}$", "%Y-%m-%d"),
    (r"^[1-9]\d{3}-\d{2}-\d{2}T[0-2]\d:[0-5]\d:[0-5]\d$", "%Y-%m-%dT%H:%M:%S"),
    (r"^[1-9]\d{3}-\d{2}-\d{2} [0-2]\d:[0-5]\d:[0-5]\d$", "%Y-%m-%d %H:%M:%S"),
)


@dataclass(frozen=True)
class Table:
    """Columns by name, all of one length. Files give texts; frames in memory keep their types. `digest` names the
    content ("sha256:..."). `base`: the folder where the paths that it holds begin; None: where the program runs."""

    columns: Mapping[str, pl.Series]
    origin: Origin = MEMORY
    digest: str = ""
    notes: tuple[str, ...] = ()
    base: Path | None = None

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
        frame = pl.DataFrame(dict(self.columns))[rows]
        columns = dict(zip(self.columns, frame.get_columns()))
        return replace(self, columns=columns, origin=self.origin.take(rows))

    def plain(self, schema: Schema, *, targets: bool = True) -> dict[str, Column]:
        """The schema's columns in plain form, for the pipeline. What is not there is left out."""
        nulls = Nulls.of(schema.nulls)
        fields = schema.fields if targets else schema.inputs
        read = [(name, f) for f in fields for name in sources(f)]
        found = {
            name: plain_column(self.columns[name], f, nulls, self.base) for name, f in read if name in self.columns
        }
        if not found and fields:
            needed = ", ".join(name for name, _f in read)
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


def plain_column(series: pl.Series, field: Field, nulls: Nulls, base: Path | None = None) -> Column:
    """A series as a plain column: an array for numbers and dates where all of it reads as such, `Encoded` for labels,
    paths or bytes for images.

    Only faster than a list of the same values, never different: what a cast can't read is left to the one reader of
    single values, which knows the errors.
    """
    dtype = series.dtype
    match field:
        case Image():
            return _images(series, base)
        case Date():
            return _moments(series, nulls, field.format)
        case Text():
            return series.to_list()
    if dtype.is_nested() or dtype == pl.Object:
        return series.to_list()
    if isinstance(field, Number | Vector | Span):
        if dtype == pl.String and not (isinstance(field, Span) and not field.columns):
            values = as_float(series, nulls)
            return series.to_list() if values is None else values.to_numpy()
        if dtype.is_numeric() and not dtype.is_decimal():
            return series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    if dtype.is_temporal() or dtype.is_decimal() or dtype in (pl.Categorical, pl.Enum):
        series = series.cast(pl.String)
        return plain_column(series, field, nulls) if series.dtype == pl.String else series.to_list()
    return encoded(series) if isinstance(field, Category | Labels) else series.to_list()


def encoded(series: pl.Series) -> Encoded:
    """A series by its distinct values, in the order in which they first appear."""
    distinct = series.unique(maintain_order=True)
    codes = series.replace_strict(distinct, pl.Series(range(len(distinct)), dtype=pl.UInt32))
    return Encoded(distinct.to_list(), codes.to_numpy())


def _images(series: pl.Series, base: Path | None) -> Column:
    if series.dtype != pl.String:
        return series.to_numpy() if isinstance(series.dtype, pl.Array) else series.to_list()
    return [None if text is None else _image(text.strip(), base or Path()) for text in series.to_list()]


def _image(text: str, base: Path) -> object:
    # Base64 holds neither dots nor brackets.
    if text.lower().endswith(SUFFIXES):
        return base / text
    if text.startswith("["):
        try:
            return np.array(json.loads(text), dtype=np.int64)
        except (ValueError, TypeError, OverflowError, RecursionError):
            return text
    return text


def _moments(series: pl.Series, nulls: Nulls, form: str | None) -> Column:
    dtype = series.dtype
    if isinstance(dtype, pl.Datetime | pl.Date):
        if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
            series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return series.cast(pl.Datetime("us")).to_numpy()
    if dtype.is_numeric() and not dtype.is_decimal():
        return series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    if dtype != pl.String:
        return series.to_list()
    for pattern, form in ISO:
        there = series.is_not_null() & ~series.is_in(list(nulls.texts))
        if series.filter(there).str.contains(pattern).all():
            moments = series.str.to_datetime(form, time_unit="us", strict=False)
            return moments.to_numpy() if (moments.is_not_null() == there).all() else series.to_list()
    return series.to_list() if form is None else encoded(series)


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
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, pl.Series):
        return _json(value.to_list())
    return [_json(item) for item in value] if isinstance(value, list | tuple) else str(value)
