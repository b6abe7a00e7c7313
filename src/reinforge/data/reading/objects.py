"""Rows as objects, nested as they are: JSON Lines, JSON, Parquet, tables, folders of texts, datasets, memory."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reinforge.data.reading import unpacking
from reinforge.data.reading.places import files_of
from reinforge.data.values import MEMORY, Origin
from reinforge.errors import DataError, IntegrityError, MissingExtra
from reinforge.messages import _
from reinforge.storage import strict_json

LINES, JSON = (".jsonl", ".ndjson"), (".json",)
_LINE = 64 << 20
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Objects:
    """Rows from one place, with the SHA-256 of what they came from."""

    rows: Sequence[Row]
    origin: Origin
    digest: str
    notes: tuple[str, ...] = ()


def read_objects(source: object, base: Path | None = None) -> list[Objects]:
    """The rows of a source (see `LanguageDataOptions.path`), by file. Raises DataError with file and line."""
    if isinstance(source, str | Path):
        found = _named(str(source), base or Path())
    elif isinstance(source, Sequence) and source and all(isinstance(item, str | Path) for item in source):
        found = [part for item in source for part in _named(str(item), base or Path())]
    else:
        rows = _in_memory(source)
        found = [Objects(rows, MEMORY, _digest(rows))]
    if not any(part.rows for part in found):
        where = ", ".join(map(str, source)) if isinstance(source, list | tuple) else str(source)[:200]
        raise DataError(_("there are no rows"), where=where, remedy=_("Check that this is the right file."))
    return found


def _named(name: str, base: Path) -> list[Objects]:
    if name.startswith("made:"):
        from reinforge.data.made_rows import made_rows

        rows = made_rows(name.removeprefix("made:"))
        return [Objects(rows, Origin(name), _digest(rows))]
    if name.startswith("datasets:"):
        rows = _dataset(name)
        return [Objects(rows, Origin(name), _digest(rows))]
    path = base / name
    if path.is_dir() and not any(file.suffix.lower() in (*LINES, *JSON, ".parquet") for file in path.iterdir()):
        return [_table(name, base)]
    return [
        _json_file(file, shown) if _suffix(file) in (*LINES, *JSON) else _table(str(file), Path(), shown)
        for file, shown in files_of(name, base, (*LINES, *JSON, ".parquet"))
    ]


def _suffix(path: Path) -> str:
    packed = path.suffix.lower() in unpacking.UNPACK
    return (Path(path.stem) if packed else path).suffix.lower()


def _json_file(path: Path, name: str) -> Objects:
    try:
        packed = path.suffix.lower() in unpacking.UNPACK
        raw = unpacking.unpack(path, name) if packed else path.read_bytes()
    except OSError as error:
        raise DataError(
            _("it can't be read: {reason}").format(reason=error.strerror), where=name,
            remedy=_("It was looked for at {path}.").format(path=path.absolute()),
        ) from error  # fmt: skip
    digest = "sha256:" + hashlib.sha256(raw).hexdigest()
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if _suffix(path) in JSON:
        value = _parsed(raw, name)
        if not isinstance(value, list):
            remedy = _("Write [{...}, ...], or in a .jsonl file one object a line.")
            raise DataError(_("the file holds no list of objects"), where=name, remedy=remedy)
        origin = Origin(name, "element", np.arange(1, len(value) + 1))
        return Objects(_checked(value, origin), origin, digest)
    numbered = [(number, line) for number, line in enumerate(raw.split(b"\n"), 1) if line.strip()]
    origin = Origin(name, "line", np.array([number for number, _line in numbered], dtype=np.int64))
    rows = [_parsed(line, origin.at(index)) for index, (_number, line) in enumerate(numbered)]
    return Objects(_checked(rows, origin), origin, digest)


def _parsed(raw: bytes, where: str) -> Any:
    try:
        return strict_json.parse(raw, where, limit=_LINE if where else strict_json.MAX_BYTES)
    except IntegrityError as error:
        raise DataError(error.problem, where=error.where, remedy=error.remedy) from None


def _checked(rows: list[Any], origin: Origin) -> list[Row]:
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(_("a row must be an object of names and values"), where=origin.at(index))
    return rows


def _table(name: str, base: Path, shown: str | None = None) -> Objects:
    """A table's rows, lists and structures in them as they are."""
    from reinforge.data.readers import read

    table = read(name, base=base)
    columns = {column: series.to_list() for column, series in table.columns.items()}
    rows = [
        {column: value for column, value in zip(columns, values) if value is not None}
        for values in zip(*columns.values())
    ]
    origin = table.origin if shown is None else Origin(shown, table.origin.unit, table.origin.places)
    return Objects(rows, origin, table.digest, tuple(table.notes))


def _in_memory(data: object) -> list[Row]:
    """A list of mappings, a frame, or a dataset of the package datasets."""
    if type(data).__module__.partition(".")[0] == "datasets" and hasattr(data, "to_list"):
        return _checked(list(data.to_list()), MEMORY)
    if hasattr(data, "to_dicts"):
        return _checked(list(data.to_dicts()), MEMORY)
    if type(data).__module__.partition(".")[0] == "pandas" and hasattr(data, "to_dict"):
        return _checked(list(data.to_dict("records")), MEMORY)
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return _checked(list(data), MEMORY)
    raise DataError(
        _("{kind} holds no rows").format(kind=type(data).__name__),
        remedy=_("Pass a file name, a list of dicts, a frame, or a dataset of the package datasets."),
    )


def _dataset(name: str) -> list[Row]:
    """datasets:NAME or datasets:NAME:SPLIT; NAME is a folder that `save_to_disk` wrote, or a hub id."""
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        raise MissingExtra("datasets", "bench") from None
    named = name.removeprefix("datasets:")
    place, _colon, split = named.rpartition(":") if ":" in named else (named, "", "")
    try:
        if Path(place).is_dir():
            loaded = datasets.load_from_disk(place)
            loaded = loaded[split or next(iter(loaded))] if isinstance(loaded, Mapping) else loaded
        else:
            loaded = datasets.load_dataset(place, split=split or "train")
    except (OSError, ValueError, KeyError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(
            _("the dataset can't be had: {reason}").format(reason=reason[:300]), where=name,
            remedy=_("Check its name and split, or give a file."),
        ) from error  # fmt: skip
    return _checked(list(loaded.to_list()), Origin(name))


def _digest(rows: Sequence[Row]) -> str:
    total = hashlib.sha256()
    for row in rows:
        total.update(row_key(row) + b"\n")
    return "sha256:" + total.hexdigest()


def row_key(row: Row) -> bytes:
    """One spelling of a row's content."""
    try:
        return strict_json.canonical(row)
    except (TypeError, ValueError):
        return repr(sorted(row.items(), key=lambda item: item[0])).encode("utf-8", "surrogatepass")
