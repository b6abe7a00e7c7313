"""Parquet and Arrow IPC: columns with types of their own, which are kept."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from reinforge.data.reading.records import unique_names
from reinforge.data.table import Table
from reinforge.data.values import Origin
from reinforge.errors import DataError
from reinforge.messages import _
from reinforge.storage.files import file_digest

ARROW = (".arrow", ".feather", ".ipc")
SUFFIXES = (".parquet", *ARROW)


def read_columnar(path: Path, name: str) -> Table:
    """A Parquet or Arrow IPC file; the latter is mapped, not copied. Raises DataError for a damaged one."""
    try:
        frame = pl.read_ipc(path) if path.suffix.lower() in ARROW else pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        text = _("the {form} file can't be read: {reason}")
        form = "Parquet" if path.suffix.lower() == ".parquet" else "Arrow"
        raise DataError(
            text.format(form=form, reason=str(error).splitlines()[0]),
            where=name,
            remedy=_("It may be cut off or of another kind: write it anew, or rename it as what it is."),
        ) from error
    columns = {column: frame[old] for column, old in zip(unique_names(frame.columns, name), frame.columns)}
    return Table(columns, Origin(name), "sha256:" + file_digest(path)[1])
