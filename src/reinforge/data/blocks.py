"""Numeric columns side by side as one block, checked against their fields' ranges and policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from reinforge.data.values import Column, Nulls, Numbers, Origin, number, read_numbers
from reinforge.errors import DataError
from reinforge.messages import _
from reinforge.schema.fields import Number
from reinforge.schema.schema import Schema

Columns = Mapping[str, Column]


class BlockReader:
    """Reads the columns of some numeric fields; what does not depend on the rows is worked out once."""

    def __init__(self, fields: Sequence[Number], schema: Schema) -> None:
        self.fields = tuple(fields)
        self.names = tuple(f.name for f in fields)
        self.schema = schema
        self.nulls = Nulls.of(schema.nulls)
        self._low = _bounds([f.low for f in fields], -np.inf)
        self._high = _bounds([f.high for f in fields], np.inf)
        self._whole = _flags([f.integer for f in fields])
        self._required = _flags([f.missing == "error" for f in fields])

    def read(self, columns: Columns, count: int, origin: Origin) -> Numbers:
        """(count, fields) float64, NaN where missing. Raises DataError with row, column and value."""
        found = [column(columns, name, count, self.schema, origin) for name in self.names]
        block = self._one(found) if count == 1 else None
        if block is None:
            block = np.empty((count, len(found)))
            for index, (name, values) in enumerate(zip(self.names, found)):
                block[:, index] = read_numbers(values, name, self.nulls, origin)
        self._check(block, origin)
        return block

    def _one(self, found: Sequence[Column]) -> Numbers | None:
        """One row, without an array per column; None where a value is refused, for `read_numbers` to say why."""
        try:
            return np.array([[number(values[0], self.nulls) for values in found if isinstance(values, list)]]).reshape(
                1, len(found)
            )
        except ValueError:  # Unreadable, or a column that is no list
            return None

    def _check(self, block: Numbers, origin: Origin) -> None:
        if (infinite := np.isinf(block)).any():
            raise self._refused(infinite, block, origin, "is infinite")
        if self._low is not None and (below := block < self._low).any():
            raise self._refused(below, block, origin, "is below what the field allows")
        if self._high is not None and (above := block > self._high).any():
            raise self._refused(above, block, origin, "is above what the field allows")
        if self._whole is None and self._required is None:
            return
        missing = np.isnan(block)
        if self._whole is not None and (broken := self._whole & ~missing & (block != np.floor(block))).any():
            raise self._refused(broken, block, origin, "is no whole number")
        if self._required is not None and (gone := self._required & missing).any():
            raise self._refused(gone, block, origin, "must not be missing")

    def _refused(self, bad: NDArray[np.bool_], block: Numbers, origin: Origin, problem: str) -> DataError:
        row, index = (int(i) for i in np.argwhere(bad)[0])
        value, f = block[row, index], self.fields[index]
        allowed = f" (from {f.low:g})" if f.low is not None and value < f.low else ""
        allowed = f" (to {f.high:g})" if f.high is not None and value > f.high else allowed
        return DataError(
            f"the value {problem}" if np.isnan(value) else f"{value:g} {problem}{allowed}",
            where=origin.at(row, f.name),
            remedy="Mend the value, leave it out (null), or change the field's policy in the recipe.",
        )


def length(columns: Columns, names: Sequence[str]) -> int:
    """The rows that the named columns share, of those that are there. Raises DataError where they differ or none is."""
    lengths = {name: len(columns[name]) for name in names if name in columns}
    if not lengths:
        raise DataError(
            _("none of the schema's columns is there"),
            remedy=_("It needs: {needed}. Given: {given}.").format(
                needed=", ".join(names), given=", ".join(columns) or _("none")
            ),
        )
    if len(set(lengths.values())) > 1:
        raise DataError(f"columns have different lengths: {lengths}")
    return next(iter(lengths.values()))


def column(columns: Columns, name: str, count: int, schema: Schema, origin: Origin) -> Column:
    """The column of that name; nulls where it is absent and the schema allows it, else DataError."""
    found = columns.get(name)
    if found is not None:
        return found
    if schema.absent == "null":
        return [None] * count
    raise DataError(
        _("column {name!r} is missing").format(name=name),
        where=origin.at(),
        remedy=_("Given: {names}. Write null for a missing value, or train with `absent: null`.").format(
            names=", ".join(columns)
        ),
    )


def _bounds(bounds: Sequence[float | None], default: float) -> Numbers | None:
    """(k,), or None where nothing is bounded."""
    if all(bound is None for bound in bounds):
        return None
    return np.array([default if bound is None else bound for bound in bounds])


def _flags(flags: Sequence[bool]) -> NDArray[np.bool_] | None:
    return np.array(flags) if any(flags) else None
