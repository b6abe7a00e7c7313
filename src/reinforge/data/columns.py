"""Raw columns: found by name, and read as numbers, checked against their fields' ranges and policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reinforge.data.operations import dates
from reinforge.data.values import Column, Nulls, Numbers, Origin, number, read_numbers
from reinforge.errors import DataError
from reinforge.messages import _

if TYPE_CHECKING:
    from reinforge.schema.fields import Date, Number
    from reinforge.schema.schema import Schema

Columns = Mapping[str, Column]


class NumberReader:
    """Reads the columns of numeric fields and dates; what does not depend on the rows is worked out once.

    `numbers` are the numbers it gives, in order: of a date there may be several.
    """

    def __init__(self, fields: Sequence[Number | Date], schema: Schema) -> None:
        self.fields = tuple(fields)
        self.names = tuple(f.name for f in fields)
        self.numbers = tuple(n for f in fields for n in (f.numbers if f.kind == "date" else (f,)))
        self.schema = schema
        self.nulls = Nulls.of(schema.nulls)
        self._sources = [f.name for f in fields for _each in (f.numbers if f.kind == "date" else (f,))]
        self._plain = not any(f.kind == "date" for f in fields)
        self._low = _bounds([n.least for n in self.numbers], -np.inf)
        self._high = _bounds([n.high for n in self.numbers], np.inf)
        self._whole = _flags([n.integer or n.count for n in self.numbers])
        self._required = _flags([n.missing == "error" and n.role == "input" for n in self.numbers])

    def read(self, columns: Columns, count: int, origin: Origin) -> list[Numbers]:
        """One (count,) array per number, NaN where missing; unchecked. Raises DataError with row and value."""
        found: list[Numbers] = []
        for field in self.fields:
            values = column(columns, field.name, count, self.schema, origin)
            if field.kind == "date":
                found += dates.numbers(dates.read_moments(values, field, self.nulls, origin), field)
            else:
                found.append(read_numbers(values, field.name, self.nulls, origin))
        return found

    def block(self, columns: Columns, count: int, origin: Origin) -> Numbers:
        """(count, numbers), checked. Raises DataError with row, column and value."""
        block = self._one(columns, origin) if count == 1 and self._plain else None
        if block is None:
            # By columns: what is fitted is fitted column by column.
            block = np.array(self.read(columns, count, origin)).reshape(len(self.numbers), count).T
        self.check(block, origin)
        return block

    def check(self, block: Numbers, origin: Origin, first: int = 0) -> None:
        """Raise DataError for a number of (rows, numbers) that its field refuses. `first`: the first row's place."""
        if not np.isfinite(block).all():
            if (infinite := np.isinf(block)).any():
                raise self._refused(infinite, block, origin, first, "is infinite")
            if self._required is not None and (gone := self._required & np.isnan(block)).any():
                raise self._refused(gone, block, origin, first, "must not be missing")
        if self._low is not None and (below := block < self._low).any():
            raise self._refused(below, block, origin, first, "is below what the field allows")
        if self._high is not None and (above := block > self._high).any():
            raise self._refused(above, block, origin, first, "is above what the field allows")
        if self._whole is not None:
            broken = self._whole & ~np.isnan(block) & (block != np.floor(block))
            if broken.any():
                raise self._refused(broken, block, origin, first, "is no whole number")

    def _one(self, columns: Columns, origin: Origin) -> Numbers | None:
        """One row, without an array per column; None where a value is refused, for `read_numbers` to say why."""
        found = [column(columns, name, 1, self.schema, origin) for name in self.names]
        try:
            row = [number(values[0], self.nulls) for values in found if isinstance(values, list)]
            return np.array([row]).reshape(1, len(found))
        except ValueError:  # Unreadable, or a column that is no list
            return None

    def _refused(self, bad: NDArray[np.bool_], block: Numbers, origin: Origin, first: int, problem: str) -> DataError:
        row, index = (int(i) for i in np.argwhere(bad)[0])
        value, field = block[row, index], self.numbers[index]
        allowed = f" (from {field.least:g})" if field.least is not None and value < field.least else ""
        allowed = f" (to {field.high:g})" if field.high is not None and value > field.high else allowed
        return DataError(
            _("the value {problem}").format(problem=problem) if np.isnan(value) else f"{value:g} {problem}{allowed}",
            where=origin.at(first + row, self._sources[index]),
            remedy=_("Mend the value, leave it out (null), or change the field's policy in the recipe."),
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
        raise DataError(_("columns have different lengths: {lengths}").format(lengths=lengths))
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
        remedy=_(
            "Of the schema's columns there are: {names}. Name them as there, or train with `absent: null`."
        ).format(names=", ".join(columns)),
    )


def _bounds(bounds: Sequence[float | None], default: float) -> Numbers | None:
    """(k,), or None where nothing is bounded."""
    if all(bound is None for bound in bounds):
        return None
    return np.array([default if bound is None else bound for bound in bounds])


def _flags(flags: Sequence[bool]) -> NDArray[np.bool_] | None:
    return np.array(flags) if any(flags) else None
