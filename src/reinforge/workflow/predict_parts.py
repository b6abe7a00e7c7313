"""Predictions of a table that is larger than memory, in parts: an interrupted run leaves them, the next goes on there.

Beside OUT lies a folder OUT.parts with a file for each piece of the table, written whole or not at all, and what they
belong to: this bundle and this state of the data. What belongs to others is thrown away. When all pieces are there they
become OUT, and the folder goes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from reinforge.data.chunks import Chunks
from reinforge.data.readers import SUFFIXES
from reinforge.data.reading.how import How
from reinforge.data.reading.places import files_of
from reinforge.errors import DataError, IntegrityError, ReinforgeError
from reinforge.schema.fields import Image
from reinforge.storage import strict_json
from reinforge.storage.files import replacing, storage_errors, write_atomic

if TYPE_CHECKING:
    from reinforge.bundle.bundle import Bundle

# Files of this many bytes together are read in pieces, of so many rows.
LARGE = 64 << 20
ROWS = 1 << 16
_BELONGS = "belongs.json"

Prediction = dict[str, Any]
# Writes predictions into a file, by its suffix; the header only where asked.
Encode = Callable[[Sequence[Prediction], str, bool], bytes]


def large(data: object) -> bool:
    """Whether this names files of a table that are read in pieces."""
    if not isinstance(data, str | Path) or ":" in str(data).partition("/")[0] or Path(data).is_dir():
        return False
    with suppress(OSError, ReinforgeError):
        return sum(path.stat().st_size for path, _name in files_of(str(data), Path(), SUFFIXES)) >= LARGE
    return False


def written_in_parts(
    bundle: Bundle, data: str | Path, target: Path, encode: Encode, told: Callable[[int], None], *, resume: bool = True
) -> tuple[int, int] | None:
    """Write the predictions of a table's files, and say how many there are, and how many of them an interrupted run had
    left; None, and nothing done, where they can't be read in pieces. `told` hears of rows as they are done.

    Nothing is gone on with where not `resume`, or where rows name pictures: what they hold may have changed.
    """
    loads = Chunks(str(data), Path(), How(absent=bundle.schema.absent), ROWS).loads()
    try:
        first = next(loads, None)
    except DataError:
        return None
    if first is None:
        return None
    folder = target.with_name(f"{target.name}.parts")
    whole = resume and not any(isinstance(field, Image) for field in bundle.schema.inputs)
    with storage_errors(folder):
        _begin(folder, {
            "bundle": bundle.digest, "data": _state(data), "rows": ROWS, "output": target.suffix.lower(),
            "run": None if whole else uuid.uuid4().hex,
        })  # fmt: skip
    total = found = 0
    parts: list[Path] = []
    try:
        for number, load in enumerate(chain([first], loads)):
            existing = next(iter(folder.glob(f"{number:06d}-*{target.suffix.lower()}")), None)
            if existing is not None:
                rows = int(existing.stem.partition("-")[2])
                found += rows
            else:
                predictions = list(chain.from_iterable(bundle.predictions(load())))
                rows = len(predictions)
                existing = folder / f"{number:06d}-{rows}{target.suffix.lower()}"
                with replacing(existing) as file:
                    file.write(encode(predictions, target.suffix.lower(), number == 0))
            parts.append(existing)
            total += rows
            told(total)
    except DataError:
        # Whatever mends it changes the data, and then nothing of this belongs to it.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _join(parts, target)
    shutil.rmtree(folder, ignore_errors=True)
    return total, found


def _begin(folder: Path, belongs: dict[str, Any]) -> None:
    path = folder / _BELONGS
    with suppress(OSError, IntegrityError):
        if strict_json.parse(path.read_bytes(), str(path), limit=1 << 20) == json.loads(json.dumps(belongs)):
            return
    if folder.exists() and not path.exists() and any(folder.iterdir()):
        raise FileExistsError(17, "there is another folder of this name")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=False)
    write_atomic(path, json.dumps(belongs, indent=1) + "\n")


def _state(data: str | Path) -> str:
    """A digest of each file's name, size, and the time it was changed: reading it all would take as long as
    predicting."""
    found: list[list[Any]] = []
    for path, _name in files_of(str(data), Path(), SUFFIXES):
        facts = path.stat()
        found.append([str(path.resolve()), facts.st_size, facts.st_mtime_ns])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _join(parts: Sequence[Path], target: Path) -> None:
    suffix = target.suffix.lower()
    with replacing(target) as file:
        if suffix not in (".parquet", ".arrow"):
            for part in _opened(parts):
                shutil.copyfileobj(part, file, 1 << 20)
            return
        scan = pl.scan_parquet if suffix == ".parquet" else pl.scan_ipc
        lazy = pl.concat([scan(part) for part in parts], how="diagonal_relaxed")
        lazy.sink_parquet(file) if suffix == ".parquet" else lazy.sink_ipc(file)


def _opened(parts: Sequence[Path]) -> Iterator[Any]:
    for path in parts:
        with open(path, "rb") as part:
            yield part
