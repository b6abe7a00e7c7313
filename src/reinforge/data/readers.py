"""Tables from files, installed packages and memory."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from reinforge.data.delimited import Columns, decode, read_delimited, unique_names
from reinforge.data.folders import holds_images, read_image_folder
from reinforge.data.pixel_tables import images_of_rows, read_pixel_file
from reinforge.data.rows import Absent, columns_of_memory, read_json
from reinforge.data.table import Table
from reinforge.data.values import MEMORY, Origin
from reinforge.errors import DataError
from reinforge.messages import _, mark

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
SUFFIXES = (*DELIMITERS, ".jsonl", ".ndjson", ".json", ".parquet")
_ABSENT = mark("the data are in the package {package!r}, which is not installed")
SKLEARN = ("breast_cancer", "diabetes", "digits", "iris", "wine")


def read(
    source: object,
    *,
    base: Path | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    absent: Absent = "error",
) -> Table:
    """A table from a file (CSV, TSV, JSON, JSON Lines, Parquet; by its suffix), from an installed package
    (`package:NAME/PATH`), from scikit-learn (`sklearn:NAME`), from a folder of images (columns image and label), from a
    table whose rows are pixels (`pixels:` before any of these), or from memory (see `columns_of_memory`).

    Relative paths start at `base`. Raises DataError with file and line.
    """
    if isinstance(source, Table):
        return source
    if isinstance(source, (str, Path)):
        text = str(source)
        if text.startswith("sklearn:"):
            return _sklearn(text.removeprefix("sklearn:"))
        if text.startswith("pixels:"):
            return _pixels(text.removeprefix("pixels:"), base)
        path = _path(text, base)
        if path.is_dir() and holds_images(path):
            return read_image_folder(path, text)
        table = _file(path, text, delimiter, encoding, absent)
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


def _path(text: str, base: Path | None) -> Path:
    return resource(text.removeprefix("package:")) if text.startswith("package:") else (base or Path()) / text


def _pixels(text: str, base: Path | None) -> Table:
    if text.startswith("sklearn:"):
        return images_of_rows(_sklearn(text.removeprefix("sklearn:")))
    return read_pixel_file(_path(text, base), text)


def resource(name: str) -> Path:
    """The path of a file inside an installed package, "PACKAGE/PATH", found without importing the package.

    Raises DataError naming what to install.
    """
    package, _slash, inside = name.partition("/")
    parts = PurePosixPath(inside).parts
    if not package.isidentifier() or not parts or ".." in parts or PurePosixPath(inside).is_absolute():
        raise DataError(
            _("{name!r} names no file in a package").format(name=name), remedy=_("Write package:NAME/PATH/FILE.csv.")
        )
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(_(_ABSENT).format(package=package), remedy=f"pip install {package}")
    for location in spec.submodule_search_locations:
        path = Path(location).joinpath(*parts)
        if path.is_file():
            return path
    text = _("package {package!r} has no file {file!r}").format(package=package, file=inside)
    raise DataError(text, remedy=_("Check its version: {command}").format(command=f"pip show {package}"))


def digest(columns: Mapping[str, pl.Series]) -> str:
    """Names the content of columns in memory, whatever frame they came in."""
    total = hashlib.sha256()
    for name, series in columns.items():
        total.update(f"{name}\x1f{series.dtype}\x1f{len(series)}\x1e".encode())
        if series.dtype.is_numeric() and not series.dtype.is_decimal():
            total.update(series.is_null().to_numpy().tobytes())
            total.update(series.fill_null(0).to_numpy().tobytes())
        else:
            total.update("\x1f".join("\x00" if value is None else str(value) for value in series.to_list()).encode())
    return "sha256:" + total.hexdigest()


def _file(path: Path, name: str, delimiter: str | None, encoding: str, absent: Absent) -> Table:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES and delimiter is None:
        raise DataError(
            _("can't tell what kind of table this is by its name (suffix {suffix!r})").format(suffix=suffix),
            where=name,
            remedy=_("Known suffixes: {known}; or state `delimiter`.").format(known=", ".join(SUFFIXES)),
        )
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            _("there is no such file")
            if isinstance(error, FileNotFoundError)
            else _("it can't be read: {reason}").format(reason=error.strerror),
            where=name,
            remedy=_("It was looked for at {path}.").format(path=path.absolute()),
        ) from error
    columns: Columns
    if suffix == ".parquet":
        columns, origin = _parquet(raw, name)
    elif suffix in (".json", ".jsonl", ".ndjson"):
        columns, origin = read_json(decode(raw, name, encoding), name, lines=suffix != ".json", absent=absent)
    else:
        columns, origin = read_delimited(raw, name, delimiter or DELIMITERS[suffix], encoding)
    return Table(columns, origin, "sha256:" + hashlib.sha256(raw).hexdigest())


def _parquet(raw: bytes, name: str) -> tuple[Columns, Origin]:
    try:
        frame = pl.read_parquet(raw)
    except pl.exceptions.PolarsError as error:
        text = _("the Parquet file can't be read: {reason}").format(reason=str(error).splitlines()[0])
        raise DataError(text, where=name) from error
    return {column: frame[column] for column in unique_names(frame.columns, name)}, Origin(name)


def _sklearn(name: str) -> Table:
    if name not in SKLEARN:
        raise DataError(
            _("there is no table {name}").format(name=f"sklearn:{name}"),
            remedy=_("Known: {names}.").format(names=", ".join(SKLEARN)),
        )
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise DataError(_(_ABSENT).format(package="scikit-learn"), remedy="pip install scikit-learn") from None
    loaded: Any = getattr(datasets, f"load_{name}")()
    columns: dict[str, Any] = {str(c): loaded.data[:, i] for i, c in enumerate(loaded.feature_names)}
    target = loaded.target
    classes = getattr(loaded, "target_names", None)
    columns["target"] = target if classes is None else [str(classes[code]) for code in target]
    table = read(columns)
    return replace(table, origin=Origin(f"sklearn:{name}"))
