"""Tables from files, folders, databases, installed packages and memory."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from reinforge.data.reading import columnar, database, records, spreadsheet, texts, unpacking
from reinforge.data.reading.decimals import Decimal
from reinforge.data.reading.delimited import read_delimited
from reinforge.data.reading.encodings import AUTO, decode, noted
from reinforge.data.reading.how import Absent, How
from reinforge.data.reading.places import files_of, not_installed
from reinforge.data.reading.rows import columns_of_memory, read_json
from reinforge.data.reading.several import join
from reinforge.data.table import Table
from reinforge.data.values import MEMORY, Origin
from reinforge.errors import DataError
from reinforge.messages import _

JSON = (".jsonl", ".ndjson", ".json")
SUFFIXES = (
    *records.SUFFIXES, *JSON, *columnar.SUFFIXES, *spreadsheet.SUFFIXES, *texts.SUFFIXES
)  # fmt: skip
SKLEARN = ("breast_cancer", "diabetes", "digits", "iris", "wine")


def read(
    source: object,
    *,
    base: Path | None = None,
    delimiter: str | None = None,
    encoding: str = AUTO,
    absent: Absent = "error",
    sheet: str | None = None,
    query: str | None = None,
    decimal: Decimal | None = None,
) -> Table:
    """A table from a file (by its suffix: CSV, TSV, JSON, JSON Lines, Parquet, Arrow IPC, Excel, lines of text), from
    several (a pattern such as `parts/*.csv`, a list, or a folder), from a folder of texts or images, from a database
    (its URL), from an installed package (`package:NAME/PATH`), from scikit-learn (`sklearn:NAME`), made of its digits
    (`made:NAME`), from a table whose rows are pixels (`pixels:` before any of these), or from memory (see
    `columns_of_memory`).

    Relative paths start at `base`. Raises DataError with file and line.
    """
    if isinstance(source, Table):
        return source
    how = How(delimiter, encoding, absent, sheet, query, decimal)
    if isinstance(source, (str, Path)) or (
        isinstance(source, (list, tuple)) and source and all(isinstance(item, (str, Path)) for item in source)
    ):
        names = [source] if isinstance(source, (str, Path)) else source
        name = str(names[0]) if len(names) == 1 else ", ".join(map(str, names))
        table = join([_named(str(item), base or Path(), how) for item in names], name)
    else:
        columns = columns_of_memory(source, absent)
        table = Table(columns, MEMORY, digest(columns))
    if len(table) == 0:
        raise DataError(
            _("there are no rows") if not table.columns else _("there is a header, but no row follows it"),
            where=table.origin.name or "data",
            remedy=_("Check that this is the right file and that it was written to its end."),
        )
    return table


def _named(name: str, base: Path, how: How) -> Table:
    if name.startswith("sklearn:"):
        return _sklearn(name.removeprefix("sklearn:"))
    if name.startswith("made:"):
        from reinforge.data.made import made

        return made(name.removeprefix("made:"), digest)
    if name.startswith("pixels:"):
        return _pixels(name.removeprefix("pixels:"), base)
    if database.is_database(name):
        columns, origin = database.read_database(name, base, how)
        return Table(columns, origin, digest(columns))
    path = base / name
    if path.is_dir():
        from reinforge.data.folders import holds_images, read_image_folder

        if holds_images(path):
            return read_image_folder(path, name)
        if texts.text_files(path):
            return texts.read_text_folder(path, name, how)
    files = files_of(name, base, SUFFIXES)
    return join([replace(_file(file, shown, how), base=file.parent) for file, shown in files], name)


def _pixels(name: str, base: Path) -> Table:
    """A table whose rows are the pixels of pictures, as pictures."""
    from reinforge.data.pixel_tables import images_of_rows, read_pixel_file

    if name.startswith("sklearn:"):
        return images_of_rows(_sklearn(name.removeprefix("sklearn:")))
    return join([read_pixel_file(path, shown) for path, shown in files_of(name, base, SUFFIXES)], name)


def digest(columns: Mapping[str, pl.Series]) -> str:
    """Names the content of columns in memory, whatever frame they came in."""
    total = hashlib.sha256()
    for name, series in columns.items():
        total.update(f"{name}\x1f{series.dtype}\x1f{len(series)}\x1e".encode())
        if series.dtype.is_numeric() and not series.dtype.is_decimal():
            total.update(series.is_null().to_numpy().tobytes())
            total.update(series.fill_null(0).to_numpy().tobytes())
        else:
            try:
                values = series.to_list()
            except pl.exceptions.PanicException:
                # It is no Exception: polars ends so at times beyond the calendar.
                raise DataError(_("it holds a time that no calendar has"), where=f"column {name}") from None
            total.update("\x1f".join("\x00" if value is None else str(value) for value in values).encode())
    return "sha256:" + total.hexdigest()


def _file(path: Path, name: str, how: How) -> Table:
    packed = unpacking.UNPACK.get(path.suffix.lower())
    suffix = (Path(path.stem) if packed else path).suffix.lower()
    if suffix not in SUFFIXES and how.delimiter is None:
        raise DataError(
            _("can't tell what kind of table this is by its name (suffix {suffix!r})").format(suffix=suffix),
            where=name,
            remedy=_("Known suffixes: {known}; or state `delimiter`.").format(known=", ".join(SUFFIXES)),
        )
    try:
        if suffix in columnar.SUFFIXES and path.is_file():
            return columnar.read_columnar(path, name)
        if suffix in spreadsheet.SUFFIXES and path.is_file():
            return spreadsheet.read_spreadsheet(path, name, how)
        if suffix in texts.SUFFIXES and how.delimiter is None:
            return texts.read_lines(path, name, how)
        raw = unpacking.unpack(path, name) if packed else path.read_bytes()
    except OSError as error:
        raise DataError(
            _("there is no such file")
            if isinstance(error, FileNotFoundError)
            else _("it can't be read: {reason}").format(reason=error.strerror),
            where=name,
            remedy=_("It was looked for at {path}.").format(path=path.absolute()),
        ) from error
    if suffix not in JSON:
        return read_delimited(raw, name, how, suffix=suffix)
    text, encoding = decode(raw, name, how.encoding)
    columns, origin = read_json(text, name, lines=suffix != ".json", absent=how.absent)
    return Table(columns, origin, "sha256:" + hashlib.sha256(raw).hexdigest(), noted(name, encoding, how.encoding))


def _sklearn(name: str) -> Table:
    if name not in SKLEARN:
        raise DataError(
            _("there is no table {name}").format(name=f"sklearn:{name}"),
            remedy=_("Known: {names}.").format(names=", ".join(SKLEARN)),
        )
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise not_installed("scikit-learn") from None
    loaded: Any = getattr(datasets, f"load_{name}")()
    columns: dict[str, Any] = {str(c): loaded.data[:, i] for i, c in enumerate(loaded.feature_names)}
    target = loaded.target
    classes = getattr(loaded, "target_names", None)
    columns["target"] = target if classes is None else [str(classes[code]) for code in target]
    table = read(columns)
    return replace(table, origin=Origin(f"sklearn:{name}"))
