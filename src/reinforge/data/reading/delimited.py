"""Delimited text: a header, then records of equal width, quoted as in RFC 4180; every value is kept as text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import polars as pl

from reinforge.data.reading import decimals
from reinforge.data.reading.encodings import decode, noted
from reinforge.data.reading.how import How
from reinforge.data.reading.records import BY_SUFFIX, first_lines, read_header, read_records, recognise
from reinforge.data.table import Table
from reinforge.data.values import Origin
from reinforge.messages import _

Columns = dict[str, pl.Series]


def read_delimited(raw: bytes, name: str, how: How, *, suffix: str = "", commas: Sequence[str] | None = None) -> Table:
    """Text columns of a delimited file, and the line each record starts at; an empty field is missing.

    Without `how.delimiter`, the suffix or `recognise` tells it; `commas`, the columns with decimal commas, are told
    from the first records where they aren't given. Blank lines are skipped. Raises DataError for bad encoding, an empty
    file, a doubled column name, a record of another width or a broken quote.
    """
    text, encoding = decode(raw, name, how.encoding)
    notes = noted(name, encoding, how.encoding)
    delimiter = how.delimiter or BY_SUFFIX.get(suffix)
    if delimiter is None:
        delimiter = recognise(text)
        if delimiter != ",":
            told = _("{name} is separated by {delimiter}, told from its first lines; `delimiter` overrules it")
            notes = (*notes, told.format(name=name, delimiter=repr(delimiter)))
    header, start = read_header(text, name, delimiter)
    if commas is None:
        commas = decimals.comma_columns(first_lines(text), header, delimiter, how.decimal)
        notes = (*notes, decimals.note(name, commas)) if commas and how.decimal is None else notes
    columns = _plain_grid(text, header, start, delimiter)
    digest = "sha256:" + hashlib.sha256(raw).hexdigest()
    if columns is not None:
        places = range(2, 2 + len(next(iter(columns.values()))))
        return Table(decimals.with_points(columns, commas), Origin(name, "line", places), digest, notes)
    columns, origin = _records(text, name, header, delimiter)
    return Table(decimals.with_points(columns, commas), origin, digest, notes)


def _plain_grid(text: str, header: Sequence[str], start: int, delimiter: str) -> Columns | None:
    """The fast way, for a file without quotes, blank lines and ragged rows; None where it is anything else."""
    if start == 0 or start == len(text) or '"' in text or not delimiter.isascii():
        return None
    body = text[start:].encode()
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n")
        if b"\r" in body:
            return None
    body += b"" if body.endswith(b"\n") else b"\n"
    grid = np.frombuffer(body, np.uint8)
    ends = np.flatnonzero(grid == ord("\n"))
    if (np.diff(ends, prepend=-1) == 1).any():
        return None
    marks = np.flatnonzero(grid == ord(delimiter))
    width = len(header)
    if len(marks) != (width - 1) * len(ends):
        return None
    if width > 1:
        last = marks.reshape(len(ends), width - 1)
        if (last[:, -1] > ends).any() or (last[1:, 0] < ends[:-1]).any():
            return None
    frame = pl.read_csv(
        body, has_header=False, separator=delimiter, quote_char=None, infer_schema=False, new_columns=list(header)
    )
    return {column: frame[column] for column in header}


def _records(text: str, name: str, header: Sequence[str], delimiter: str) -> tuple[Columns, Origin]:
    """The exact way: record by record."""
    width = len(header)
    cells, lines = read_records(text, name, width, delimiter)
    columns = {
        column: pl.Series(column, [value or None for value in cells[width + index :: width]], dtype=pl.String)
        for index, column in enumerate(header)
    }
    return columns, Origin(name, "line", np.array(lines[1:], dtype=np.int64))
