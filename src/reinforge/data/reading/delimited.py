"""Delimited text: a header, then records of equal width, quoted as in RFC 4180; every value is kept as text."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence

import numpy as np
import polars as pl

from reinforge.data.reading import decimals
from reinforge.data.reading.encodings import decode, noted
from reinforge.data.reading.how import How
from reinforge.data.table import Table
from reinforge.data.values import Origin, placed
from reinforge.errors import DataError
from reinforge.messages import _, mark

Columns = dict[str, pl.Series]

BY_SUFFIX = {".tsv": "\t", ".tab": "\t"}
SUFFIXES = (".csv", *BY_SUFFIX)
CANDIDATES = (",", ";", "\t")
# So many characters are looked at to tell the delimiter.
_SAMPLE = 1 << 16

_QUOTES = mark("Close every quote, and double the quotes inside quoted text.")


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


def first_lines(text: str) -> str:
    """As many whole lines as are looked at."""
    return text[: text.find("\n", _SAMPLE) + 1 or None]


def recognise(text: str) -> str:
    """Comma, semicolon or tab: which one cuts the header into most columns, and each of the first records into as many.

    A comma where none does so, or none stands in the header.
    """
    head = first_lines(text)
    best, most = ",", 1
    for delimiter in CANDIDATES:
        records = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)
        try:
            widths = {len(record) for record in records if record}
        except csv.Error:
            continue
        if len(widths) == 1 and (width := widths.pop()) > most:
            best, most = delimiter, width
    return best


def unique_names(names: Sequence[str], where: str) -> list[str]:
    """Names trimmed, `column_3` for one without a name. Raises DataError where two are equal."""
    named = [name.strip() or f"column_{index}" for index, name in enumerate(names, 1)]
    doubled = sorted({name for name in named if named.count(name) > 1})
    if doubled:
        text = _("column names are doubled: {names}").format(names=", ".join(doubled))
        raise DataError(text, where=where, remedy=_("Rename one of them."))
    return named


def read_header(text: str, name: str, delimiter: str) -> tuple[list[str], int]:
    """Column names, and where the second line starts; 0 where the header spans several lines or isn't the first."""
    head = text[: text.find("\n", 1 << 16) + 1 or None]
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(record for record in reader if record)
    except csv.Error as error:
        raise DataError(
            _("the header can't be read: {reason}").format(reason=error),
            where=f"{name}, {placed('line', reader.line_num)}",
            remedy=_(_QUOTES),
        ) from error
    end = text.find("\n") + 1
    return unique_names(header, f"{name}, {placed('line', reader.line_num)}"), end if reader.line_num == 1 else 0


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
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    cells: list[str] = []
    lines: list[int] = []
    width, line = len(header), 1
    try:
        for record in reader:
            if record:
                if len(record) != width:
                    raise DataError(
                        _("{n} values, but the header names {columns} columns").format(n=len(record), columns=width),
                        where=f"{name}, {placed('line', line)}",
                        remedy=_("Mend the row, or state the right `delimiter` (it was {delimiter!r}).").format(
                            delimiter=delimiter
                        ),
                    )
                cells += record
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            _("the record can't be read: {reason}").format(reason=error),
            where=f"{name}, {placed('line', line)}",
            remedy=_(_QUOTES),
        ) from error
    columns = {
        column: pl.Series(column, [value or None for value in cells[width + index :: width]], dtype=pl.String)
        for index, column in enumerate(header)
    }
    return columns, Origin(name, "line", np.array(lines[1:], dtype=np.int64))
