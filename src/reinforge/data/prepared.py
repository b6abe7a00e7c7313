"""From raw data to what training takes: read, infer, split, fit on the training rows alone, transform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from reinforge.core.batch import Batch
from reinforge.core.seeds import derive
from reinforge.data import sampling
from reinforge.data.chunks import pieces
from reinforge.data.cleaning.clean import Cleaned, clean, mend_words, outlying
from reinforge.data.cleaning.images import mend_images, refused
from reinforge.data.cleaning.options import CleanOptions
from reinforge.data.cleaning.report import Change
from reinforge.data.extension import check_targets, filled, with_labels, with_targets
from reinforge.data.images import UnreadableImage, animations
from reinforge.data.infer import infer
from reinforge.data.options import GivenSplit, TableOptions, TimeSplit
from reinforge.data.pipeline import Pipeline, complete, lacking
from reinforge.data.preparing import (
    EXAMPLES,
    classes_of,
    doubts,
    emptied,
    examples,
    extra,
    helpers_of,
    incomplete,
    leaks,
    may_be_numbers,
    merged_spellings,
    spellings,
    spelt,
    with_target_labels,
)
from reinforge.data.readers import read
from reinforge.data.split import Indices, split
from reinforge.data.store.folder import Stored, is_store, open_store, writing
from reinforge.data.table import Table
from reinforge.data.values import Codes, Column, Encoded, Nulls, read_numbers, take
from reinforge.errors import DataError, RecipeError
from reinforge.messages import _
from reinforge.registry import REGISTRY, Options
from reinforge.schema.fields import Image, Number, columns_read
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Signature


@dataclass(frozen=True)
class Prepared:
    """Data ready for training. Batches hold {"inputs", "targets", "valid"}; a side that was not asked for is None.

    `examples`: some raw rows of inputs, from data that were not trained on where there are any. `rows`: the numbers of
    each side's rows within the table as it was read, `training` those rows as they are, and `held` those of the test,
    or of validation where there is no test. `digest` names the raw content; `changes` are what cleaning did.
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
    changes: tuple[Change, ...] = ()

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
    extend: bool = False,
) -> Prepared:
    """Prepare a table, from `data` where given, else from the options' path (relative to `base`).

    With a `pipeline`, its schema and statistics stay as they are (fine-tuning); `extend` adds new labels of its fields
    and new targets. Raises DataError and RecipeError.
    """
    source = options.path if data is None else data
    if source is None:
        raise DataError(_("there are no data"), where="data", remedy=_("Set data.path, or pass a table in Python."))
    store = None if not isinstance(source, str | Path) else (base or Path()) / source
    if store is not None and is_store(store):
        if extend:
            raise RecipeError(
                _("prepared data can't extend a bundle"), where="start.extend", remedy=_("Give the raw data instead.")
            )
        return _from_store(open_store(store), options, pipeline)
    table, raw = _read(options, data, base, seed)
    notes = list(table.notes)
    helpers = helpers_of(options.split, options)
    fresh = pipeline is None
    mended = mend_words(table, may_be_numbers(table, options, helpers), Nulls.of(options.nulls), options.clean)
    table = mended.table
    if pipeline is None:
        schema, found = infer(table, options, helpers)
        notes += found
        schema = spelt(schema, options)
    else:
        check_targets(pipeline.schema, options, extend)
        schema = with_targets(pipeline.schema, table, options, notes) if extend else pipeline.schema
        notes += extra(table, schema, (*options.drop, *helpers))
    cleaned = _cleaned(table, schema, options.clean)
    table, changes = cleaned.table, [*mended.changes, *cleaned.changes]
    kept = raw[mended.rows[cleaned.rows]]
    columns, together = table.plain(schema), cleaned.together
    if not fresh:
        columns = filled(columns, schema, len(table))
    there = np.flatnonzero(complete(columns, schema, table.origin))
    if len(there) < len(table):
        notes.append(incomplete(lacking(columns, schema, table.origin), len(table)))
        notes += emptied(columns, schema, table.origin)
        table, columns = table.take(there), {name: take(column, there) for name, column in columns.items()}
        kept, together = kept[there], None if together is None else together[there]
    if len(table) == 0:
        raise DataError(_("no row has its targets"), where=table.origin.at())
    if pipeline is None or extend:
        schema = with_target_labels(schema, columns)
    if extend:
        schema = with_labels(schema, columns, "target", notes)
    try:
        classes = classes_of(columns, schema, table.origin)
    except DataError as error:
        if fresh or extend:
            raise
        remedy = _("Mend the value; or, if it is a class to be learned, set start.extend=true.")
        raise DataError(error.problem, where=error.where, remedy=remedy) from None
    rows = split(table, options.split, derive(seed, "split"), classes, together)
    if isinstance(options.split, TimeSplit | GivenSplit) and (left := len(table) - sum(map(len, _sides(rows)))):
        changes.append(Change("apart", found=left, dropped=left))
    if options.clean.outliers is not None:
        rows, outliers = _without_outliers(rows, columns, schema, options.clean.outliers)
        changes += outliers
    if pipeline is None:
        training = {name: take(column, rows.train) for name, column in columns.items()}
        tokenizers = {name: f.tokenizer for name, f in options.fields.items() if f.tokenizer is not None}
        pipeline = Pipeline.fit(training, schema, table.origin.take(rows.train), tokenizers)
    elif extend:
        training = {name: take(column, rows.train) for name, column in columns.items()}
        schema = with_labels(schema, training, "input", notes)
        pipeline = pipeline.extended(schema, training, table.origin.take(rows.train))
    # Side by side, not all at once and then divided: a copy of images that are mapped from a file would be in memory.
    try:
        train, validation, test = (
            pipeline.transform(
                {name: take(column, side) for name, column in columns.items()}, origin=table.origin.take(side)
            )
            if len(side)
            else None
            for side in _sides(rows)
        )
    except UnreadableImage as error:
        raise refused(error) from None
    if train is None:
        raise DataError(_("no row is left for training"), where=table.origin.at())
    for f in schema.inputs:
        values = columns.get(f.name)
        if isinstance(f, Image) and values is not None:
            notes += animations(values.values if isinstance(values, Encoded) else values, f.name)
    if fresh:
        notes += doubts(pipeline, train, classes, rows)
        notes += leaks(columns, rows.train, pipeline.schema)
        changes += spellings(pipeline.schema)
    changes += merged_spellings(columns, pipeline.schema)
    notes += [change.text() for change in changes]
    unseen = next((side for side in (rows.validation, rows.test, rows.train) if len(side)), rows.train)
    some = unseen[np.unique(np.linspace(0, len(unseen) - 1, EXAMPLES).astype(np.int64))]
    shown = examples(table, some, columns, schema)
    return Prepared(
        pipeline,
        train,
        validation,
        test,
        Indices(*(kept[side] for side in _sides(rows))),
        table.take(rows.train),
        shown,
        tuple(notes),
        table.digest,
        next((table.take(side) for side in (rows.test, rows.validation) if len(side)), None),
        tuple(changes),
    )


def save(
    prepared: Prepared, target: Path, options: Options, about: Mapping[str, object] = {}, texts: Mapping[str, str] = {}
) -> None:
    """Write a prepared folder, which `prepare_table` takes as a path; `texts` are files beside the data.

    Raises StorageError where it exists already.
    """
    with writing(target) as writer:
        batches_of = {"train": prepared.train, "validation": prepared.validation, "test": prepared.test}
        for name, rows in zip(batches_of, _sides(prepared.rows)):
            batch = batches_of[name]
            if batch is not None:
                writer.batch(name, batch, torch.from_numpy(rows))
        told = kept_about(prepared, options)
        writer.finish(prepared.pipeline, prepared.training, prepared.held, {**told, **about})
        for name, text in texts.items():
            writer.staging.text(name, text)


def kept_about(prepared: Prepared, options: Options) -> dict[str, object]:
    """What a prepared folder keeps beside tensors and raw rows."""
    return {
        "digest": prepared.digest, "notes": list(prepared.notes), "examples": list(prepared.examples),
        "changes": [change.summary() for change in prepared.changes],
        "options": options.model_dump(mode="json", exclude={"path", "stream"}),
    }  # fmt: skip


def _read(options: TableOptions, data: object, base: Path | None, seed: int) -> tuple[Table, Codes]:
    """The table, or as many of its rows as are asked for, and their numbers in what there was to read."""
    if options.stream is not None and data is None:
        if options.rows is not None:
            return sampling.of_pieces(pieces(options, base), options.rows, seed)
        raise RecipeError(
            _("a table in pieces is prepared before it is learned from"), where="data.stream",
            remedy=_("Prepare it: reinforge prepare RECIPE -o FOLDER; then train with data.path=FOLDER. Or learn from "
                     "a sample: data.rows=100000."),
        )  # fmt: skip
    table = read(
        options.path if data is None else data, base=base, delimiter=options.delimiter, encoding=options.encoding,
        absent=options.absent, sheet=options.sheet, query=options.query, decimal=options.decimal,
    )  # fmt: skip
    return (table, np.arange(len(table))) if options.rows is None else sampling.of_table(table, options.rows, seed)


def _from_store(stored: Stored, options: TableOptions, pipeline: Pipeline | None) -> Prepared:
    """What was prepared before. Raises RecipeError where the recipe asks for other data, or a bundle for another
    pipeline. What the recipe leaves at its default is as it was prepared."""
    was = stored.about.get("options", {})
    asked = options.model_dump(mode="json", exclude={"path", "stream"})
    default = TableOptions(targets={name: {} for name in options.targets}).model_dump(mode="json")
    for key, value in asked.items():
        same = value == was.get(key) or (
            list(value) == list(was.get(key, ()))
            if key == "targets" and value == default[key]
            else value == default[key]
        )
        if not same:
            raise RecipeError(
                _("the data were prepared with another `{key}`").format(key=key),
                where=f"data.{key}",
                remedy=_("Leave it out, or prepare the data anew: reinforge prepare RECIPE -o FOLDER."),
            )
    if pipeline is not None and (
        pipeline.schema != stored.pipeline.schema
        or pipeline.to_json() != stored.pipeline.to_json()
        or any(not np.array_equal(a, stored.pipeline.arrays()[n]) for n, a in pipeline.arrays().items())
    ):
        raise RecipeError(
            _("the data were prepared by another pipeline than the bundle's"),
            where=str(stored.path),
            remedy=_("Give the raw data, which the bundle's own pipeline prepares."),
        )
    train = stored.sides["train"]
    assert train is not None
    empty = torch.empty(0, dtype=torch.int64)
    rows = Indices(*(stored.rows.get(name, empty).numpy() for name in ("train", "validation", "test")))
    about = stored.about
    return Prepared(
        pipeline or stored.pipeline,
        train,
        stored.sides["validation"],
        stored.sides["test"],
        rows,
        stored.training,
        tuple(about.get("examples", ())),
        tuple(about.get("notes", ())),
        str(about.get("digest", "")),
        stored.held,
        tuple(Change(**change) for change in about.get("changes", ())),
    )


def apply(pipeline: Pipeline, source: object, *, targets: bool = True, base: Path | None = None) -> Applied:
    """A fitted pipeline on new data (a file, a frame, a `Table`), with their targets or without. Raises DataError."""
    schema = pipeline.schema
    table = read(source, base=base, absent=schema.absent)
    notes = extra(table, schema, ())
    columns = table.plain(schema, targets=targets)
    kept = np.arange(len(table))
    if targets:
        kept = np.flatnonzero(complete(columns, schema, table.origin))
        if len(kept) < len(table):
            notes.append(incomplete(lacking(columns, schema, table.origin), len(table)))
            columns = {name: take(column, kept) for name, column in columns.items()}
        if len(kept) == 0:
            raise DataError(_("no row has its targets"), where=table.origin.at())
    origin = table.origin if len(kept) == len(table) else table.origin.take(kept)
    return Applied(pipeline.transform(columns, targets=targets, origin=origin), table, kept, tuple(notes))


def given_in_python(options: Options, **context: object) -> NoReturn:
    """An iterable can't be prepared from a recipe alone. Raises DataError."""
    raise DataError(
        _("the batches were given in Python"), where="data", remedy=_("Pass them: train(..., data=batches).")
    )


def _sides(rows: Indices) -> tuple[Codes, Codes, Codes]:
    return rows.train, rows.validation, rows.test


def _cleaned(table: Table, schema: Schema, options: CleanOptions) -> Cleaned:
    inputs, targets = (columns_read(fields) for fields in (schema.inputs, schema.targets))
    bounds = {f.name: (f.least, f.high) for f in schema.fields if isinstance(f, Number)}
    seen = mend_images(table, schema, options)
    if not len(seen.table):
        raise DataError(_("no image can be read"), where=table.origin.at(), remedy=seen.changes[0].detail)
    cleaned = clean(seen.table, inputs, targets, bounds, Nulls.of(schema.nulls), options)
    return replace(cleaned, rows=seen.rows[cleaned.rows], changes=(*seen.changes, *cleaned.changes))


def _without_outliers(
    rows: Indices, columns: Mapping[str, Column], schema: Schema, reach: float
) -> tuple[Indices, list[Change]]:
    """Outliers are left out of training alone: what is judged stays as it is."""
    nulls = Nulls.of(schema.nulls)
    numbers = [
        read_numbers(take(columns[f.name], rows.train), f.name, nulls)
        for f in schema.inputs
        if isinstance(f, Number) and f.name in columns
    ]
    if not numbers:
        return rows, []
    gone = outlying(np.array(numbers).T, reach)
    found = [Change("outliers", found=len(gone), dropped=len(gone))] if len(gone) else []
    return replace(rows, train=np.delete(rows.train, gone)), found
