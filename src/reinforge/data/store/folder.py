"""The folder that `prepare` writes: schema, pipeline, the sides of the split as mapped Arrow files, and what is known.

- manifest.json: size and SHA-256 of every file
- data.json: rows by side, layout of the Arrow files, notes, digest of the raw data, options
- schema.json, pipeline.json, pipeline.safetensors
- train.arrow, validation.arrow, test.arrow: a column per leaf of the batch, in one piece
- rows.safetensors: each side's row numbers in the raw table
- raw.arrow, held.arrow: raw rows of training and of what was held back, at most a hundred thousand each, evenly spread,
  for references, baselines and reports
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from reinforge.core import tensor_files
from reinforge.core.batch import Batch, Leaf
from reinforge.core.ragged import Ragged
from reinforge.data.pipeline import Pipeline
from reinforge.data.store.arrow import Column, Plan, create, mapped, plan
from reinforge.data.table import Table
from reinforge.data.values import Origin
from reinforge.errors import DataError, IntegrityError
from reinforge.messages import _
from reinforge.schema.schema import Schema
from reinforge.storage import manifest as manifests
from reinforge.storage.files import file_digest, storage_errors
from reinforge.storage.folder import Folder, Staging, commit
from reinforge.storage.manifest import FileRecord
from reinforge.storage.strict_json import Json

FORMAT, VERSION = "reinforge.data", 1
SIDES = ("train", "validation", "test")
RAW_ROWS = 100_000
# Arrow has no byte-wide truth values: they are stored as 0 and 1.
_AS = {"bool": "uint8"}


@dataclass(frozen=True)
class Stored:
    """What a prepared folder holds; batches are mapped, a side without rows is None."""

    pipeline: Pipeline
    sides: Mapping[str, Batch | None]
    rows: Mapping[str, Tensor]
    training: Table
    held: Table | None
    about: Mapping[str, Any]
    path: Path


@dataclass
class Writer:
    """A prepared folder being written: sides are added whole, or as planned places that are filled chunk by chunk."""

    staging: Staging
    layout: dict[str, Json] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)

    @contextmanager
    def side(self, name: str, columns: Sequence[Column], rows: int) -> Iterator[Mapping[str, np.ndarray[Any, Any]]]:
        """The columns of one side by name ("inputs/numbers"), to be filled; it is sealed when the block ends."""
        path = self.staging.path / f"{name}.arrow"
        planned = plan([_stored(column) for column in columns], rows)
        with storage_errors(path):
            create(path, planned)
            places = mapped(path, planned, "r+")
            yield places
            for place in places.values():
                if isinstance(place, np.memmap):
                    place.flush()
        self._seal(path, name, columns, rows)

    def batch(self, name: str, batch: Batch, rows: Tensor) -> None:
        """A side that is in memory, and its row numbers in the raw table."""
        leaves = dict(flat(batch))
        columns = [column_of(key, leaf) for key, leaf in leaves.items()]
        with self.side(name, columns, len(rows)) as places:
            for key, leaf in leaves.items():
                if isinstance(leaf, Ragged):
                    first = int(leaf.offsets[0])
                    places[f"{key}/offsets"][:] = leaf.offsets.numpy() - first
                    places[key][:] = leaf.values[first : int(leaf.offsets[-1])].cpu().numpy()
                else:
                    places[key][:] = leaf.cpu().numpy()
        self.rows[name] = rows

    def opened(self, name: str) -> Batch:
        """A side that was sealed, mapped."""
        return _mapped(self.staging.path / f"{name}.arrow", self.layout[name])

    def finish(self, pipeline: Pipeline, training: Table, held: Table | None, about: Mapping[str, Any]) -> None:
        """Everything beside the sides: raw training rows, raw rows that were held back, and what JSON can hold."""
        staging = self.staging
        staging.json("schema.json", pipeline.schema.to_json())
        staging.json("pipeline.json", pipeline.to_json())
        arrays = {name: torch.from_numpy(np.array(array)) for name, array in pipeline.arrays().items()}
        staging.write("pipeline.safetensors", tensor_files.chunks(arrays))
        staging.write("rows.safetensors", tensor_files.chunks(self.rows))
        self._raw("raw.arrow", training)
        if held is not None:
            self._raw("held.arrow", held)
        base = None if training.base is None else str(training.base.absolute())
        staging.json("data.json", {**about, "base": base, "sides": self.layout})

    def _raw(self, name: str, table: Table) -> None:
        some = np.unique(np.linspace(0, len(table) - 1, min(RAW_ROWS, len(table))).astype(np.int64))
        columns = {name: series for name, series in table.columns.items() if series.dtype != pl.Object}
        frame = pl.DataFrame([series.gather(some).alias(name) for name, series in columns.items()])
        path = self.staging.path / name
        with storage_errors(path):
            frame.write_ipc(path, compression="uncompressed")
        self.staging.records[name] = FileRecord(*file_digest(path))

    def _seal(self, path: Path, name: str, columns: Sequence[Column], rows: int) -> None:
        self.staging.records[path.name] = FileRecord(*file_digest(path))
        self.layout[name] = {
            "rows": rows,
            "columns": [{"name": c.name, "dtype": c.dtype, "shape": list(c.shape), "total": c.total} for c in columns],
        }


@contextmanager
def writing(target: Path) -> Iterator[Writer]:
    """A new prepared folder, there whole when the block ends without error. Raises StorageError."""
    with commit(target, FORMAT, VERSION) as staging:
        yield Writer(staging)


def is_store(path: Path) -> bool:
    """Whether a folder was written by `prepare`."""
    return (path / manifests.NAME).is_file() and (path / "data.json").is_file() and (path / "train.arrow").is_file()


def open_store(path: Path) -> Stored:
    """A prepared folder, all of it checked against its digests; its tensors are the mapped files themselves.

    What is written into them stays in memory. Raises IntegrityError.
    """
    folder = Folder.open(path, FORMAT)
    about: Any = folder.json("data.json")
    schema = Schema.from_json(folder.json("schema.json"))
    arrays = {n: t.numpy() for n, t in tensor_files.read_checked(folder, "pipeline.safetensors").items()}
    pipeline = Pipeline.load(schema, folder.json("pipeline.json"), arrays)
    rows = tensor_files.read_checked(folder, "rows.safetensors")
    folder.verify()
    layout = about.get("sides") if isinstance(about, dict) else None
    if not isinstance(layout, dict) or not set(layout) <= set(SIDES) or "train" not in layout:
        raise IntegrityError("its sides are not described", where=str(path / "data.json"))
    sides = {name: _mapped(path / f"{name}.arrow", layout[name]) if name in layout else None for name in SIDES}
    digest = str(about.get("digest", ""))
    base = Path(about["base"]) if isinstance(about.get("base"), str) else None
    training = _raw(path / "raw.arrow", digest, base)
    held = _raw(path / "held.arrow", digest, base) if "held.arrow" in folder else None
    about = {key: value for key, value in about.items() if key != "sides"}
    return Stored(pipeline, sides, rows, training, held, about, path)


def flat(batch: Batch, prefix: str = "") -> Iterator[tuple[str, Leaf]]:
    """The leaves of a batch by their path. Raises DataError where a name has a slash."""
    for name, value in batch.items():
        if "/" in name:
            text = _("a name with a slash can't be stored")
            raise DataError(text, where=repr(name), remedy=_("Rename the column."))
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _raw(path: Path, digest: str, base: Path | None) -> Table:
    frame = pl.read_ipc(path)
    return Table({name: frame[name] for name in frame.columns}, Origin(str(path)), digest, (), base)


def column_of(name: str, leaf: Leaf) -> Column:
    """How a leaf of a batch is stored."""
    values = leaf.values if isinstance(leaf, Ragged) else leaf
    total = int(leaf.offsets[-1] - leaf.offsets[0]) if isinstance(leaf, Ragged) else None
    return Column(name, str(values.dtype).removeprefix("torch."), tuple(values.shape[1:]), total)


def _stored(column: Column) -> Column:
    return Column(column.name, _AS.get(column.dtype, column.dtype), column.shape, column.total)


def _mapped(path: Path, layout: Any) -> Batch:
    try:
        columns = [
            Column(str(c["name"]), str(c["dtype"]), tuple(map(int, c["shape"])), c["total"]) for c in layout["columns"]
        ]
        planned: Plan = plan([_stored(column) for column in columns], int(layout["rows"]))
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError("its layout is malformed", where=str(path)) from error
    places = {name: torch.from_numpy(place) for name, place in mapped(path, planned).items()}
    batch: dict[str, Any] = {"inputs": {}, "targets": {}, "valid": {}}
    for column in columns:
        leaf: Leaf = places[column.name]
        if column.dtype == "bool":
            leaf = places[column.name].view(torch.bool)
        if column.total is not None:
            leaf = Ragged(places[column.name], places[f"{column.name}/offsets"])
        *parents, last = column.name.split("/")
        inner = batch
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = leaf
    return batch
