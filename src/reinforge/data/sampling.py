"""Some of a table's rows at random, the same whether the table is read whole or in pieces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reinforge.core.seeds import derive
from reinforge.data.chunks import Chunks
from reinforge.data.reading.several import join
from reinforge.data.table import Table
from reinforge.data.values import Codes
from reinforge.errors import DataError
from reinforge.messages import _


def chosen(total: int, count: int, seed: int) -> Codes:
    """(n,) the numbers of at most `count` of `total` rows, in order."""
    if count >= total:
        return np.arange(total)
    drawn: Codes = np.random.RandomState(derive(seed, "rows") % 2**32).permutation(total)[:count]
    return np.sort(drawn)


def of_table(table: Table, count: int, seed: int) -> tuple[Table, Codes]:
    """The rows that were chosen, with a note on how many there were, and their numbers."""
    rows = chosen(len(table), count, seed)
    if len(rows) == len(table):
        return table, rows
    return _noted(table.take(rows), len(table)), rows


def of_pieces(chunks: Chunks, count: int, seed: int) -> tuple[Table, Codes]:
    """The same of a table in pieces, of which one is in memory at a time: one pass counts, the other takes."""
    total = sum(len(piece) for piece in chunks)
    rows = chosen(total, count, seed)
    taken: list[Table] = []
    start = 0
    for piece in chunks:
        low, high = np.searchsorted(rows, (start, start + len(piece)))
        if high > low or not taken:
            taken.append(piece.take(rows[low:high] - start))
        start += len(piece)
    if not total:
        text = _("there is a header, but no row follows it")
        raise DataError(text, where=chunks.source, remedy=_("Check that this is the right file."))
    table = replace(join(taken, chunks.source), digest=chunks.digest())
    return (_noted(table, total) if len(rows) < total else table), rows


def _noted(table: Table, total: int) -> Table:
    told = _("{n:,} of {total:,} rows, drawn at random (`data.rows`)").format(n=len(table), total=total)
    return replace(table, notes=(told, *table.notes))
