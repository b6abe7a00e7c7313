"""Several files with the same columns as one table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from reinforge.data.table import Table
from reinforge.data.values import Codes, Origin
from reinforge.errors import DataError
from reinforge.messages import _


@dataclass(frozen=True)
class Joined(Origin):
    """Where rows of several files come from: row i is row `inner[i]` of `parts[part[i]]`."""

    parts: tuple[Origin, ...] = ()
    part: Codes | None = None
    inner: Codes | None = None

    def at(self, row: int | None = None, column: str | None = None) -> str:
        """The row's own file and place."""
        if row is None or self.part is None or self.inner is None:
            return super().at(None, column)
        return self.parts[int(self.part[row])].at(int(self.inner[row]), column)

    def take(self, rows: Codes) -> Joined:
        """Of those rows, in that order."""
        if self.part is None or self.inner is None:
            return self
        return Joined(self.name, self.unit, None, self.parts, self.part[rows], self.inner[rows])


def join(tables: Sequence[Table], name: str) -> Table:
    """One table after another. Columns of different types become text. Raises DataError where the columns differ."""
    first = tables[0]
    if len(tables) == 1:
        return first
    for table in tables[1:]:
        if set(table.columns) != set(first.columns):
            odd = sorted(set(table.columns) ^ set(first.columns))
            raise DataError(
                _("its columns are not those of {first}: {names}").format(
                    first=first.origin.name, names=", ".join(map(repr, odd[:5]))
                ),
                where=table.origin.name,
                remedy=_("Files that are read as one table need the same columns."),
            )
    columns = {}
    for column in first.columns:
        parts = [table.columns[column] for table in tables]
        if len({part.dtype for part in parts}) > 1:
            parts = [part.cast(pl.String) for part in parts]
        columns[column] = pl.concat(parts)
    sizes = [len(table) for table in tables]
    origin = Joined(
        name,
        parts=tuple(table.origin for table in tables),
        part=np.repeat(np.arange(len(tables)), sizes),
        inner=np.concatenate([np.arange(size) for size in sizes]),
    )
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    base = first.base if all(table.base == first.base for table in tables) else None
    return Table(columns, origin, joined_digest([table.digest for table in tables]), tuple(notes), base)


def joined_digest(digests: Sequence[str]) -> str:
    """One digest of several tables in order."""
    return "sha256:" + hashlib.sha256("\n".join(digests).encode()).hexdigest()
