"""Rows whose images can't be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reinforge.data.cleaning.clean import Cleaned
from reinforge.data.cleaning.options import CleanOptions
from reinforge.data.cleaning.report import Change
from reinforge.data.images import UnreadableImage, unreadable
from reinforge.data.table import Table, plain_column
from reinforge.data.values import Codes, Nulls
from reinforge.messages import _
from reinforge.schema.fields import Image
from reinforge.schema.schema import Schema

# How many are told by name.
NAMED = 10


def mend_images(table: Table, schema: Schema, options: CleanOptions, known: Codes | None = None) -> Cleaned:
    """The table by `images`: without the rows where an image is there and can't be read.

    `known` are those rows, where they were found before. Each image is read to find them, by several threads.
    """
    rows = np.arange(len(table))
    fields = [f for f in schema.inputs if isinstance(f, Image) and f.name in table.columns]
    if options.images == "error" or not fields or (known is not None and not len(known)):
        return Cleaned(table, rows, None, ())
    gone, changes = (known, []) if known is not None else _unreadable(table, fields, Nulls.of(schema.nulls))
    if len(gone):
        rows = np.delete(rows, gone)
        table = table.take(rows)
    return Cleaned(table, rows, None, tuple(changes))


def refused(error: UnreadableImage) -> UnreadableImage:
    """The error of data that are to be learned from, where rows may be left out."""
    remedy = _("Mend the file or take it away; or leave such rows out, each of them told: data.clean.images=drop.")
    return UnreadableImage(error.problem, where=error.where, remedy=remedy)


def _unreadable(table: Table, fields: Sequence[Image], nulls: Nulls) -> tuple[Codes, list[Change]]:
    gone: set[int] = set()
    changes = []
    for field in fields:
        values = plain_column(table.columns[field.name], field, nulls, table.base)
        if not isinstance(values, list):
            continue  # an array of pixels
        there = [
            row
            for row, value in enumerate(values)
            if value is not None and not (isinstance(value, str) and value.strip() in nulls.texts)
        ]
        found = [(there[place], error) for place, error in unreadable([values[row] for row in there])]
        if not found:
            continue
        gone.update(row for row, _error in found)
        named = [
            f"{values[row] if isinstance(values[row], Path) else table.origin.at(row, field.name)} ({error.problem})"
            for row, error in found[:NAMED]
        ]
        more = _(", and {n:,} more").format(n=len(found) - NAMED) if len(found) > NAMED else ""
        detail = ", ".join(named) + more
        changes.append(Change("images", field.name, found=len(found), dropped=len(found), detail=detail))
    return np.array(sorted(gone), np.int64), changes
