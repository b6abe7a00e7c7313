"""Excel workbooks, through fastexcel."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import polars as pl

from reinforge.data.reading.how import How
from reinforge.data.reading.records import unique_names
from reinforge.data.table import Table
from reinforge.data.values import Origin
from reinforge.errors import DataError, MissingExtra
from reinforge.messages import _
from reinforge.storage.files import file_digest

SUFFIXES = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")


def read_spreadsheet(path: Path, name: str, how: How) -> Table:
    """One sheet as columns of text, its first row the header; numbers and dates as a CSV file would spell them.

    Raises DataError for a damaged workbook or a sheet that isn't there, MissingExtra without fastexcel.
    """
    try:
        fastexcel: Any = importlib.import_module("fastexcel")
    except ImportError:
        raise MissingExtra("fastexcel", "data") from None
    try:
        workbook = fastexcel.read_excel(path)
        sheets: list[str] = workbook.sheet_names
        if how.sheet is not None and how.sheet not in sheets:
            raise DataError(
                _("the workbook has no sheet {sheet!r}").format(sheet=how.sheet),
                where=name,
                remedy=_("Its sheets: {names}.").format(names=", ".join(sheets)),
            )
        frame: pl.DataFrame = workbook.load_sheet(how.sheet or 0, header_row=None, dtypes="string").to_polars()
        exact: pl.DataFrame = workbook.load_sheet(how.sheet or 0, header_row=None, dtypes="float").to_polars()
    except fastexcel.FastExcelError as error:
        text = _("the workbook can't be read: {reason}").format(reason=str(error).splitlines()[0])
        raise DataError(
            text,
            where=name,
            remedy=_(
                "Open it in a spreadsheet program and save it anew, or as CSV; it may also be no workbook at all."
            ),
        ) from error
    notes: tuple[str, ...] = ()
    if how.sheet is None and len(sheets) > 1:
        text = _("sheet {sheet!r} is read, the first of {names}; `sheet` in the recipe chooses another")
        notes = (text.format(sheet=sheets[0], names=", ".join(sheets)),)
    if frame.height == 0:
        raise DataError(_("the sheet is empty"), where=name)
    header = unique_names([value or "" for value in frame.row(0)], f"{name}, row 1")
    filled = ~frame.select(pl.all_horizontal(pl.all().is_null() | (pl.all() == ""))).to_series()
    filled[0] = False
    rows = filled.arg_true()
    columns = {
        column: _spelt(texts.gather(rows), numbers.gather(rows)).alias(column)
        for column, texts, numbers in zip(header, frame, exact)
    }
    # As a person counts rows in the sheet.
    return Table(columns, Origin(name, "row", rows.to_numpy() + 1), "sha256:" + file_digest(path)[1], notes)


def _spelt(texts: pl.Series, numbers: pl.Series) -> pl.Series:
    """A column's texts, null where empty; numbers that are rounded in them are spelt out."""
    rounded = numbers.is_not_null() & (texts.cast(pl.Float64, strict=False) != numbers)
    return texts.zip_with(~rounded.fill_null(False), numbers.cast(pl.String)).replace("", None)
