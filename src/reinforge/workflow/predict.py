"""`predict`: every row of a file or of data in memory."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from reinforge.errors import DataError, IntegrityError, PathError
from reinforge.messages import _
from reinforge.storage import strict_json
from reinforge.storage.files import replacing, storage_errors
from reinforge.workflow.progress import Progress, Silent

if TYPE_CHECKING:
    from reinforge.bundle.bundle import Bundle
    from reinforge.bundle.network import Factory

Prediction = dict[str, Any]
OUTPUTS = (".csv", ".jsonl", ".ndjson", ".parquet", ".arrow")
_LINE = 16 << 20


@dataclass(frozen=True)
class Written:
    """How many predictions were written, and where; how many of them an interrupted run had left."""

    rows: int
    output: Path
    found: int = 0

    def __len__(self) -> int:
        return self.rows


@overload
def predict(
    bundle: Bundle | str | Path,
    data: object,
    *,
    output: None = None,
    use: Sequence[str | Path] = (),
    modules: Mapping[str, Factory] | None = None,
    progress: Progress | None = None,
) -> list[Prediction]: ...
@overload
def predict(
    bundle: Bundle | str | Path,
    data: object,
    *,
    output: str | Path,
    use: Sequence[str | Path] = (),
    modules: Mapping[str, Factory] | None = None,
    progress: Progress | None = None,
) -> Written: ...
def predict(
    bundle: Bundle | str | Path,
    data: object,
    *,
    output: str | Path | None = None,
    use: Sequence[str | Path] = (),
    modules: Mapping[str, Factory] | None = None,
    progress: Progress | None = None,
) -> list[Prediction] | Written:
    """Predictions for a file (CSV, TSV, JSON, JSON Lines, Parquet) or data in memory, in their order.

    With `output` (.csv, .jsonl, .parquet or .arrow) they are written there, whole or not at all, and only their number
    is returned. Large tables are read a piece at a time, and where that was interrupted, it goes on from there the next
    time; policies and language models read JSON Lines a piece at a time. Raises DataError that names file, line
    and column.
    """
    from reinforge.workflow.opened import opened

    target = Path(output) if output is not None else None
    if target is not None and target.suffix.lower() not in OUTPUTS:
        remedy = _("Known suffixes: {known}.").format(known=", ".join(OUTPUTS))
        raise DataError(_("can't tell by its name how to write this"), where=str(target), remedy=remedy)
    if target is not None and isinstance(data, str | Path) and _same(Path(data), target):
        remedy = _("Name another file with -o.")
        raise PathError(_("the predictions would take the place of the data"), where=str(target), remedy=remedy)
    loaded = opened(bundle, use, modules)
    shown = progress or Silent()
    if target is not None and loaded.form.kind == "table" and loaded.folder is not None:
        from reinforge.workflow.predict_parts import large, written_in_parts

        if large(data):
            told = partial(shown.update, total=None, note=_("rows"))
            resume = not use and modules is None
            done = written_in_parts(loaded, str(data), target, _encoded, told, resume=resume)
            if done is not None:
                return Written(done[0], target, done[1])
    parts = _counted(_parts(loaded, data), shown)
    if target is None:
        return list(chain.from_iterable(parts))
    return Written(_write(parts, target), target)


def _same(data: Path, target: Path) -> bool:
    return data.exists() and target.exists() and data.samefile(target)


def _parts(bundle: Bundle, data: object) -> Iterator[list[Prediction]]:
    lines = isinstance(data, str | Path) and Path(data).suffix.lower() in (".jsonl", ".ndjson")
    if lines and bundle.form.kind != "table":
        yield from _lines(bundle, Path(str(data)))
    elif isinstance(data, str | Path) and bundle.form.kind in ("observation", "tensor"):
        needed = ", ".join(field.name for field in bundle.schema.inputs)
        raise DataError(
            _("rows of this bundle hold arrays, and such a file can't"), where=str(data),
            remedy=_("Write one JSON object with {names} a line, in a file FILE.jsonl.").format(names=needed),
        )  # fmt: skip
    elif isinstance(data, str | Path):
        from reinforge.data.readers import read

        yield from bundle.predictions(read(data, absent=bundle.schema.absent))
    else:
        yield from bundle.predictions(data)


def _lines(bundle: Bundle, path: Path) -> Iterator[list[Prediction]]:
    """Rows that hold arrays or long texts: one JSON object a line, never all of them in memory."""
    from reinforge.data.values import Origin

    with storage_errors(path), open(path, "rb") as file:
        read = iter(lambda: file.readline(_LINE + 1), b"")
        numbered = ((number, line) for number, line in enumerate(read, 1) if line.strip())
        while part := list(islice(numbered, bundle.form.chunk)):
            rows = []
            for number, line in part:
                try:
                    rows.append(strict_json.parse(line, f"{path}, line {number}", limit=_LINE))
                except IntegrityError as error:
                    raise DataError(error.problem, where=error.where, remedy=error.remedy) from None
            origin = Origin(str(path), "line", _places([number for number, _line in part]))
            yield bundle.read_out(bundle.form.inputs(rows, origin), origin)


def _places(numbers: list[int]) -> Any:
    import numpy as np

    return np.array(numbers)


def _counted(parts: Iterable[list[Prediction]], progress: Progress) -> Iterator[list[Prediction]]:
    done = 0
    for part in parts:
        yield part
        done += len(part)
        progress.update(done, None, _("rows"))


def _write(parts: Iterator[list[Prediction]], target: Path) -> int:
    suffix, rows = target.suffix.lower(), 0
    # The first part is computed before the file is touched: most errors show there.
    first = next(parts, [])
    with replacing(target) as file:
        if suffix in (".parquet", ".arrow"):
            together = list(chain(first, *parts))
            file.write(_encoded(together, suffix, True))
            return len(together)
        for part in chain([first], parts):
            file.write(_encoded(part, suffix, rows == 0))
            rows += len(part)
    return rows


def _encoded(predictions: Sequence[Prediction], suffix: str, header: bool) -> bytes:
    """As a file of this kind holds them; a header where CSV begins."""
    from reinforge.bundle.bundle import outputs_of

    if suffix in (".jsonl", ".ndjson"):
        return b"".join(strict_json.compact(prediction) + b"\n" for prediction in predictions)
    flat = [outputs_of(prediction) for prediction in predictions]
    if suffix == ".csv":
        return _csv(flat, header)
    import polars as pl

    file, frame = io.BytesIO(), pl.DataFrame(flat, infer_schema_length=None)
    frame.write_parquet(file) if suffix == ".parquet" else frame.write_ipc(file)
    return file.getvalue()


def _csv(rows: list[dict[str, object]], header: bool) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header and rows:
        writer.writerow(rows[0])
    for row in rows:
        writer.writerow([strict_json.compact(v).decode() if isinstance(v, list) else v for v in row.values()])
    return text.getvalue().encode()
