"""Rows of a file, or of standard input, without polars: refused where the bundle refuses them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
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
        listed = _parsed(text, name)
        return Rows(listed, Origin(name, "element", range(1, len(listed) + 1)))
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    rows = [_parsed(line, f"{name}, {placed('line', number)}") for number, line in numbered]
    return Rows(rows, Origin(name, "line", np.array([number for number, _line in numbered], dtype=np.int64)))


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        remedy = _("Give one JSON object a line, a JSON list of them, or a file that ends in .csv or .tsv.")
        raise DataError(_("it is no JSON: {error}").format(error=error), where=where, remedy=remedy) from None
