"""JSON and frames in memory as columns."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from reinforge.data.reading.delimited import Columns
from reinforge.data.reading.how import Absent
from reinforge.data.reading.records import unique_names
from reinforge.data.values import MEMORY, Nulls, Origin, Unreadable, label, placed
from reinforge.errors import DataError
from reinforge.messages import _

NO_NULLS = Nulls(frozenset(), ())


def read_json(text: str, name: str, *, lines: bool, absent: Absent = "error") -> tuple[Columns, Origin]:
    """Columns of texts from a list of objects, or one object a line; numbers keep their spelling, as in a CSV file.

    Raises DataError for malformed JSON, a row that is no object, a nested value, a doubled key, or (unless
    `absent` is "null") a row that lacks a key which others have.
    """
    decoder = json.JSONDecoder(
        object_pairs_hook=_object, parse_float=str, parse_int=str, parse_constant=str, strict=True
    )
    rows: list[Any] = []
    places: list[int] = []
    unit = "line" if lines else "element"
    try:
        if lines:
            for place, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    places.append(place)
                    rows.append(decoder.decode(line.strip()))
        else:
            places = [0]
            rows = decoder.decode(text.strip())
            if not isinstance(rows, list):
                raise DataError(
                    _("the file holds no list of objects"), where=name,
                    remedy=_("Write [{...}, ...], or in a .jsonl file one object a line."),
                )  # fmt: skip
            places = list(range(1, len(rows) + 1))
    except json.JSONDecodeError as error:
        line_number = places[-1] if lines else error.lineno
        raise DataError(
            _("malformed JSON: {msg}").format(msg=error.msg), where=f"{name}, {placed('line', line_number)}"
        ) from error
    except RecursionError:
        raise DataError(_("the JSON is nested too deeply for a table"), where=name) from None
    except _DoubledKey as error:
        where = f"{name}, {placed('line', places[-1])}" if lines else name
        raise DataError(_("key {error} is doubled in one object").format(error=error), where=where) from error
    origin = Origin(name, unit, np.array(places, dtype=np.int64))
    return columns_of_rows(rows, origin, absent), origin


def columns_of_rows(rows: Sequence[Any], origin: Origin = MEMORY, absent: Absent = "error") -> Columns:
    """Columns from mappings of names to values. Raises DataError with the row."""
    if len(rows) == 0:
        raise DataError(_("there are no rows"), where=origin.at())
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(_("a row must be an object of names and values"), where=origin.at(index))
    names = list(rows[0])
    if any(row.keys() != rows[0].keys() for row in rows):
        names = list(dict.fromkeys(name for row in rows for name in row))
    if absent == "error":
        for index, row in enumerate(rows):
            if len(row) != len(names):
                lacking = next(name for name in names if name not in row)
                raise DataError(
                    _("key {lacking!r} is absent, but other rows have it").format(lacking=lacking),
                    where=origin.at(index),
                    remedy=_("Write null for a missing value, or set `absent: null` in the recipe."),
                )
    unique_names(names, origin.at())
    return {name: column_of(name, [row.get(name) for row in rows], origin) for name in names}


def columns_of_memory(data: object, absent: Absent = "error") -> Columns:
    """Columns from a polars or pandas frame, a mapping of names to columns, or a sequence of mappings.

    Raises DataError for anything else, for columns of different lengths, nested values or doubled names.
    """
    if isinstance(data, pl.LazyFrame):
        data = data.collect()
    if isinstance(data, pl.DataFrame):
        # By their places, since names are trimmed, and one without gets one.
        names = unique_names(data.columns, "data frame")
        return {name: series.alias(name) for name, series in zip(names, data.get_columns(), strict=True)}
    if type(data).__module__.partition(".")[0] == "pandas":
        return _pandas(data)
    if isinstance(data, Mapping):
        names = [str(name) for name in data]
        unique_names(names, "data")
        for name, values in data.items():
            # A text is a sequence too, of its characters: a row taken for columns would pass without a word.
            if values is None or isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
                raise DataError(
                    _("a single value ({kind}) is no column").format(kind=type(values).__name__),
                    where=MEMORY.at(column=str(name)),
                    remedy=_("For one row, pass a list of it: [row]; for columns, lists of values."),
                )
        columns = {str(name): column_of(str(name), values) for name, values in data.items()}
        lengths = {name: len(series) for name, series in columns.items()}
        if len(set(lengths.values())) > 1:
            listing = ", ".join(f"{name}: {length}" for name, length in lengths.items())
            raise DataError(_("columns have different lengths ({listing})").format(listing=listing), where="data")
        return columns
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return columns_of_rows(data, MEMORY, absent)
    raise DataError(
        _("{kind} is not a table").format(kind=type(data).__name__),
        remedy=_("Pass a file name, a polars or pandas frame, a dict of columns or a list of dicts."),
    )


def column_of(name: str, values: Any, origin: Origin = MEMORY) -> pl.Series:
    """Values as a column: floats, integers, bytes and the pixels of pictures as they are, anything else as the text
    that a file would hold; lists as JSON.

    Raises DataError for other nested values.
    """
    if isinstance(values, pl.Series):
        return values.alias(name)
    if isinstance(values, np.ndarray):
        if values.ndim in (3, 4) and values.dtype == np.uint8:
            return pl.Series(name, values)
        if values.ndim != 1:
            raise DataError(
                _("an array of {ndim} dimensions is not a column").format(ndim=values.ndim),
                where=origin.at(column=name),
            )
        if values.dtype.kind in "fiub" and values.dtype.itemsize <= 8 and values.dtype != np.float16:
            return pl.Series(name, values)
    values = values.tolist() if isinstance(values, np.ndarray) else list(values)
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {float} or kinds == {bool}:
        return pl.Series(name, values)
    if kinds == {bytes}:
        return pl.Series(name, values, dtype=pl.Binary)
    if kinds == {str}:
        return pl.Series(name, values, dtype=pl.String)
    if kinds == {int} and all(value is None or abs(value) < 2**63 for value in values):
        return pl.Series(name, values, dtype=pl.Int64)
    texts: list[str | None] = []
    for index, value in enumerate(values):
        try:
            texts.append(str(value) if isinstance(value, float) else _text(value))
        except Unreadable:
            raise DataError(
                _("a {kind} is no value of a table").format(kind=type(value).__name__), where=origin.at(index, name)
            ) from None
    return pl.Series(name, texts, dtype=pl.String)


class _DoubledKey(Exception):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _DoubledKey(repr(next(key for key in keys if keys.count(key) > 1)))
    return row


def _text(value: object) -> str | None:
    # A file's texts are kept as they stand; what means "missing" is the schema's business.
    if isinstance(value, str):
        return value
    if isinstance(value, datetime.date):
        return str(value)
    if isinstance(value, np.ndarray | list | tuple | set | frozenset):
        # What a list holds is spelled as in a column.
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else list(value)
        return json.dumps([None if item is None else _item(item) for item in items], ensure_ascii=False)
    return label(value, NO_NULLS)


def _item(value: object) -> object:
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, list | tuple | np.ndarray):
        return [_item(item) for item in value]
    return value if isinstance(value, str) else label(value, NO_NULLS)


def _pandas(frame: Any) -> Columns:
    names = unique_names([str(name) for name in frame.columns], "data frame")
    columns: Columns = {}
    for index, name in enumerate(names):
        column = frame.iloc[:, index]
        if column.dtype.kind in "fiu" and isinstance(column.dtype, np.dtype):
            columns[name] = pl.Series(name, column.to_numpy())
        else:
            absent = column.isna().to_numpy()
            values = [None if gone else value for value, gone in zip(column.tolist(), absent)]
            temporal = column.dtype.kind in "mM"
            columns[name] = column_of(name, [None if v is None else str(v) for v in values] if temporal else values)
    return columns
