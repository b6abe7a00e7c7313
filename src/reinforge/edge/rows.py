"""Rows of a file, or of standard input, without polars: refused where the bundle refuses them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from reinforge.data.reading.encodings import decode
from reinforge.data.reading.records import BY_SUFFIX, SUFFIXES, read_header, read_records, recognise
from reinforge.data.values import Origin, placed
from reinforge.errors import DataError
from reinforge.messages import _
from reinforge.storage.files import read_limited, storage_errors

MAX_BYTES = 1 << 30
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class Rows:
    """Rows, and where each of them comes from."""

    rows: Sequence[Any]
    origin: Origin


def rows_of(source: str, given: TextIO | None = None) -> Rows:
    """The rows of a CSV or TSV file, of a list in JSON, or of JSON lines; "-" is standard input. Raises DataError that
    names the line."""
    path = Path(source)
    if source == "-":
        name, text = "stdin", (given or sys.stdin).read().removeprefix("\ufeff")
    else:
        with storage_errors(path):
            name, text = source, decode(read_limited(path, MAX_BYTES), source)[0]
    found = _delimited(text, name, path.suffix.lower()) if path.suffix.lower() in SUFFIXES else _json(text, name)
    if not found.rows:
        remedy = _("Check that this is the right file and that it was written to its end.")
        raise DataError(_("there are no rows"), where=name, remedy=remedy)
    return found


def _delimited(text: str, name: str, suffix: str) -> Rows:
    delimiter = BY_SUFFIX.get(suffix) or recognise(text)
    header, _start = read_header(text, name, delimiter)
    width = len(header)
    cells, lines = read_records(text, name, width, delimiter)
    # An empty field is missing.
    values = [value or None for value in cells]
    rows = [dict(zip(header, values[start : start + width])) for start in range(width, len(values), width)]
    return Rows(rows, Origin(name, "line", np.array(lines[1:], dtype=np.int64)))


def _json(text: str, name: str) -> Rows:
    if text.lstrip().startswith("["):
        with _told(name):
            listed = json.loads(text)
        return Rows(listed, Origin(name, "element", range(1, len(listed) + 1)))
    # One object a line, or over several lines, as it is printed for people.
    decoder, rows, lines = json.JSONDecoder(), list[Any](), list[int]()
    end, line = 0, 1
    while (begin := _SPACE.match(text, end).end()) < len(text):  # type: ignore[union-attr]
        line += text.count("\n", end, begin)
        lines.append(line)
        with _told(f"{name}, {placed('line', line)}"):
            row, end = decoder.raw_decode(text, begin)
        rows.append(row)
        line += text.count("\n", begin, end)
    return Rows(rows, Origin(name, "line", np.array(lines, dtype=np.int64)))


@contextmanager
def _told(where: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError) as error:
        remedy = _("Give one JSON object a line, a JSON list of them, or a file that ends in .csv or .tsv.")
        raise DataError(_("it is no JSON: {error}").format(error=error), where=where, remedy=remedy) from None
