"""The records of delimited text, free of polars: a header, then as many values in each, quoted as in RFC 4180."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from reinforge.data.values import placed
from reinforge.errors import DataError
from reinforge.messages import _, mark

BY_SUFFIX = {".tsv": "\t", ".tab": "\t"}
SUFFIXES = (".csv", *BY_SUFFIX)
CANDIDATES = (",", ";", "\t")
# So many characters are looked at to tell the delimiter.
_SAMPLE = 1 << 16

_QUOTES = mark("Close every quote, and double the quotes inside quoted text.")


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
    reader = csv.reader(io.StringIO(first_lines(text), newline=""), delimiter=delimiter, strict=True)
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


def read_records(text: str, name: str, width: int, delimiter: str) -> tuple[list[str], list[int]]:
    """Cells, record by record, the header's `width` first; and the line that each record begins at.

    Raises DataError for a record of another width, or a broken quote.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    cells: list[str] = []
    lines: list[int] = []
    line = 1
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
    return cells, lines
