"""From raw data to what training takes: read, infer, split, fit on the training rows alone, transform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.seeds import derive
from reinforge.data.images import to_base64
from reinforge.data.infer import infer
from reinforge.data.operations.labels import coder, fit_label_sets, fit_labels
from reinforge.data.options import GivenSplit, GroupSplit, Split, TableOptions, TimeSplit
from reinforge.data.pipeline import Pipeline, complete
from reinforge.data.readers import read
from reinforge.data.split import Indices, split
from reinforge.data.table import Table
from reinforge.data.values import Codes, Column, Nulls, read_codes, take
from reinforge.errors import DataError
from reinforge.registry import REGISTRY, Options
from reinforge.schema.fields import Category, Field, Image, Labels, sources
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Signature

EXAMPLES = 16
EXAMPLE_CHARACTERS = 8 << 20  # of all examples together


@dataclass(frozen=True)
class Prepared:
    """Data ready for training. Batches hold {"inputs", "targets", "valid"}; a side that was not asked for is None.

    `examples`: some raw rows of inputs, from data that were not trained on where there are any. `rows`: the numbers of
    each side's rows within the table as it was read, `training` those rows as they are, and `held` those of the test,
    or of validation where there is no test. `digest` names the raw content.
    """

    pipeline: Pipeline
    train: Batch
    validation: Batch | None
    test: Batch | None
    rows: Indices
    training: Table
    examples: tuple[dict[str, object], ...]
    notes: tuple[str, ...]
    digest: str
    held: Table | None = None

    @property
    def schema(self) -> Schema:
        """The fitted schema."""
        return self.pipeline.schema

    @property
    def signature(self) -> Signature:
        """What a model for these data takes and gives."""
        return self.pipeline.signature


@dataclass(frozen=True)
class Applied:
    """A fitted pipeline's batch of new data. `kept`: its rows within `table`, fewer where a target that is
    dropped when missing was missing."""

    batch: Batch
    table: Table
    kept: Codes
    notes: tuple[str, ...]


def prepare(options: Options, seed: int = 0, **context: Any) -> Any:
    """Prepare data of any registered kind; tables give a `Prepared`."""
    return REGISTRY.build("data", options, seed=seed, **context)


def prepare_table(
    options: TableOptions,
    *,
    seed: int = 0,
    data: object = None,
    pipeline: Pipeline | None = None,
    base: Path | None = None,
) -> Prepared:
    """Prepare a table, from `data` where given, else from the options' path (relative to `base`).

    With a `pipeline`, its schema and statistics stay as they are (fine-tuning). Raises DataError and RecipeError.
    """
    source = options.path if data is None else data
    if source is None:
        raise DataError("there are no data", where="data", remedy="Set data.path, or pass a table in Python.")
    table = read(
        source, base=base, delimiter=options.delimiter, encoding=options.encoding, absent=options.absent,
        sheet=options.sheet, query=options.query,
    )  # fmt: skip
    notes = list(table.notes)
    fresh = pipeline is None
    if pipeline is None:
        schema, found = infer(table, options, _helpers(options.split, options))
        notes += found
    else:
        schema = pipeline.schema
        notes += _extra(table, schema, (*options.drop, *_helpers(options.split, options)))
    columns = table.plain(schema)
    kept = np.flatnonzero(complete(columns, schema, table.origin))
    if len(kept) < len(table):
        notes.append(f"{len(table) - len(kept)} of {len(table)} rows are dropped: their target is missing")
        table, columns = table.take(kept), {name: take(column, kept) for name, column in columns.items()}
    if len(table) == 0:
        raise DataError("no row has its targets", where=table.origin.at())
    if pipeline is None:
        schema = _with_target_labels(schema, columns)
    classes = _classes(columns, schema)
    rows = split(table, options.split, derive(seed, "split"), classes)
    if pipeline is None:
        training = {name: take(column, rows.train) for name, column in columns.items()}
        tokenizers = {name: f.tokenizer for name, f in options.fields.items() if f.tokenizer is not None}
        pipeline = Pipeline.fit(training, schema, table.origin.take(rows.train), tokenizers)
    batch = pipeline.transform(columns, origin=table.origin)
    sides = [batches.select(batch, torch.from_numpy(side)) if len(side) else None for side in _sides(rows)]
    train, validation, test = sides
    if train is None:
        raise DataError("no row is left for training", where=table.origin.at())
    if fresh:
        notes += _doubts(pipeline, train, classes, rows)
    unseen = next((side for side in (rows.validation, rows.test, rows.train) if len(side)), rows.train)
    some = unseen[np.unique(np.linspace(0, len(unseen) - 1, EXAMPLES).astype(np.int64))]
    examples = _examples(table, some, columns, schema)
    return Prepared(
        pipeline,
        train,
        validation,
        test,
        Indices(*(kept[side] for side in _sides(rows))),
        table.take(rows.train),
        examples,
        tuple(notes),
        table.digest,
        next((table.take(side) for side in (rows.test, rows.validation) if len(side)), None),
    )


def apply(pipeline: Pipeline, source: object, *, targets: bool = True, base: Path | None = None) -> Applied:
    """A fitted pipeline on new data (a file, a frame, a `Table`), with their targets or without. Raises DataError."""
    schema = pipeline.schema
    table = read(source, base=base, absent=schema.absent)
    notes = _extra(table, schema, ())
    columns = table.plain(schema, targets=targets)
    kept = np.arange(len(table))
    if targets:
        kept = np.flatnonzero(complete(columns, schema, table.origin))
        if len(kept) < len(table):
            notes.append(f"{len(table) - len(kept)} of {len(table)} rows are left out: their target is missing")
            columns = {name: take(column, kept) for name, column in columns.items()}
        if len(kept) == 0:
            raise DataError("no row has its targets", where=table.origin.at())
    origin = table.origin if len(kept) == len(table) else table.origin.take(kept)
    return Applied(pipeline.transform(columns, targets=targets, origin=origin), table, kept, tuple(notes))


def given_in_python(options: Options, **context: object) -> NoReturn:
    """An iterable can't be prepared from a recipe alone. Raises DataError."""
    raise DataError("the batches were given in Python", where="data", remedy="Pass them: train(..., data=batches).")


def _examples(
    table: Table, some: Codes, columns: Mapping[str, Column], schema: Schema
) -> tuple[dict[str, object], ...]:
    """Some raw rows as JSON can hold them, images in base64; as many as are not too large together, at least one."""
    rows = table.rows(some.tolist(), [name for f in schema.inputs for name in sources(f)])
    size = 0
    kept: list[dict[str, object]] = []
    for place, row in zip(some.tolist(), rows):
        for f in schema.inputs:
            if isinstance(f, Image) and f.name in row:
                image: Any = take(columns[f.name], np.array([place]))[0]  # type: ignore[index]
                row[f.name] = image if image is None or isinstance(image, str) else to_base64(image)
        size += sum(len(value) for value in row.values() if isinstance(value, str))
        if kept and size > EXAMPLE_CHARACTERS:
            break
        kept.append(row)
    return tuple(kept)


def _sides(rows: Indices) -> tuple[Codes, Codes, Codes]:
    return rows.train, rows.validation, rows.test


def _helpers(options: Split, table: TableOptions) -> tuple[str, ...]:
    """Columns that serve the split and are no inputs, unless the recipe names them as such."""
    match options:
        case GroupSplit() | GivenSplit() | TimeSplit():
            return (
                () if options.column in (table.inputs or ()) or options.column in table.targets else (options.column,)
            )
        case _:
            return ()


def _extra(table: Table, schema: Schema, known: tuple[str, ...]) -> list[str]:
    names = {name for f in schema.fields for name in sources(f)} | set(known)
    extra = [name for name in table.columns if name not in names]
    return [f"columns the model doesn't know are ignored: {', '.join(extra)}"] if extra else []


def _with_target_labels(schema: Schema, columns: dict[str, Column]) -> Schema:
    """Classes come from all rows: which there are is part of the task, not a statistic that could leak."""
    nulls = Nulls.of(schema.nulls)
    fields: list[Field] = []
    for f in schema.fields:
        if isinstance(f, Category) and f.role == "target":
            f = fit_labels(f, columns[f.name], nulls)
        elif isinstance(f, Labels) and f.role == "target" and not f.columns:
            f = fit_label_sets(f, columns[f.name], nulls)
        fields.append(f)
    return schema.model_copy(update={"fields": tuple(fields)})


def _classes(columns: dict[str, Column], schema: Schema) -> Codes | None:
    """(n,) codes of the first target that is a category; -1 where it is missing."""
    first = next((f for f in schema.targets if isinstance(f, Category)), None)
    if first is None or first.name not in columns:
        return None
    return read_codes(columns[first.name], first.name, coder(first, Nulls.of(schema.nulls)))


def _doubts(pipeline: Pipeline, train: Batch, classes: Codes | None, rows: Indices) -> list[str]:
    """What a careful reader would ask about the fitted training data."""
    notes: list[str] = []
    inputs = train["inputs"]
    numbers = inputs.get("numbers") if isinstance(inputs, Mapping) else None
    if isinstance(numbers, torch.Tensor):
        same = (numbers == numbers[:1]).all(0).tolist()
        notes += [
            f"{f.name!r} is constant in training" for f, constant in zip(pipeline.schema.numbers, same) if constant
        ]
    first = next((f for f in pipeline.schema.targets if isinstance(f, Category)), None)
    if first is not None and classes is not None:
        absent = sorted(set(range(len(first.labels))) - set(classes[rows.train].tolist()))
        if absent:
            listing = ", ".join(repr(first.labels[code]) for code in absent)
            notes.append(f"no training row has target {first.name!r} as {listing}")
    return notes
