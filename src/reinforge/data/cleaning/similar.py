"""Nearly equal rows: rounded numbers, loosely equal labels, and texts that share most of their pieces (MinHash)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reinforge.data.cleaning.keys import codes, comparable
from reinforge.data.cleaning.options import NearOptions
from reinforge.data.split import union
from reinforge.data.table import Table
from reinforge.data.values import Codes, Nulls, loosely

PIECE = 4
# 32 bands of 3: texts that share four fifths of their pieces meet in some band with probability 1 - 5e-11.
BANDS, ROWS = 32, 3
# On average so many characters make a column's texts long.
LONG = 20


def near(table: Table, names: Sequence[str], nulls: Nulls, options: NearOptions) -> Codes:
    """(n,) codes: rows with the same one are nearly equal in all these columns, or linked by rows that are."""
    exact: list[pl.Series] = []
    texts: list[Codes] = []
    for name in names:
        values = comparable(table.columns[name], nulls)
        if values.dtype == pl.Float64:
            exact.append(values.round_sig_figs(options.digits))
            continue
        if values.dtype == pl.String:
            distinct = values.unique(maintain_order=True)
            loose = pl.Series([None if text is None else loosely(text) for text in distinct.to_list()], dtype=pl.String)
            values = values.replace_strict(distinct, loose, return_dtype=pl.String)
            lengths = values.str.len_chars().drop_nulls().to_numpy()
            if len(lengths) and lengths.mean() >= LONG:
                texts.append(alike_texts(values, options.similarity))
                continue
        exact.append(values)
    count = len(table)
    if not texts:
        return codes(exact, count)
    # Texts are linked one to another; everything else must agree exactly within a link.
    parts = [*exact, *(pl.Series(part) for part in texts)]
    return codes(parts, count)


def alike_texts(texts: pl.Series, similarity: float) -> Codes:
    """(n,) codes of texts linked by a Jaccard similarity of at least `similarity` between their sets of pieces.

    Candidates come from MinHash signatures in bands (Broder, 1997; Leskovec, Rajaraman and Ullman, 2020, chapter 3) and
    are checked exactly, each against the first of its band.
    """
    distinct = texts.unique(maintain_order=True)
    words = [text or "" for text in distinct.to_list()]
    signatures = _signatures(words)
    pieces: dict[int, frozenset[str]] = {}

    def of(index: int) -> frozenset[str]:
        if index not in pieces:
            word = words[index]
            pieces[index] = frozenset(word[i : i + PIECE] for i in range(max(1, len(word) - PIECE + 1)))
        return pieces[index]

    linked = np.arange(len(words))
    for band in range(BANDS):
        part = signatures[:, band * ROWS : (band + 1) * ROWS]
        first = codes([pl.Series(column) for column in part.T], len(words))
        together = np.arange(len(words))
        for index in np.flatnonzero(first != np.arange(len(words))):
            one, other = of(int(first[index])), of(int(index))
            if len(one & other) >= similarity * len(one | other):
                together[index] = first[index]
        linked = union(linked, together)
    of_row: Codes = texts.replace_strict(distinct, pl.Series(linked), return_dtype=pl.Int64).to_numpy()
    return of_row


def _signatures(words: Sequence[str]) -> NDArray[np.uint64]:
    """(n, BANDS * ROWS) least hash of each text's pieces, under each of so many hash functions."""
    # Short texts are filled up, so that each has at least one piece; none holds the filler otherwise.
    filled = [word.ljust(PIECE, "\0") for word in words]
    points = np.frombuffer("".join(filled).encode("utf-32-le"), np.uint32).astype(np.uint64)
    ends = np.cumsum([len(word) for word in filled])
    pieces = np.zeros(len(points) - PIECE + 1, np.uint64)
    for offset in range(PIECE):
        pieces = pieces * np.uint64(0x9E3779B97F4A7C15) + points[offset : offset + len(pieces)]
    # Those that reach into the next text are none.
    starts = np.concatenate([[0], ends[:-1]])
    inside = np.ones(len(points), np.bool_)
    for back in range(1, PIECE):
        inside[ends - back] = False
    pieces = pieces[inside[: len(pieces)]]
    begins = starts - (PIECE - 1) * np.arange(len(words))
    generator = np.random.RandomState(0)
    found = np.empty((len(words), BANDS * ROWS), np.uint64)
    for index in range(BANDS * ROWS):
        factor, shift = (np.uint64(generator.randint(1 << 62, dtype=np.int64) * 2 + 1) for _ in range(2))
        mixed = pieces * factor + shift
        mixed ^= mixed >> np.uint64(32)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        found[:, index] = np.minimum.reduceat(mixed >> np.uint64(16), begins)
    return found
