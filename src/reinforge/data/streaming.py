"""Preparing a table that is larger than memory: read in pieces, several times, and written as a prepared folder.

Of every row a few numbers are kept (its side, its class, hashes of its values where copies matter); all else is one
piece at a time. The passes: a look at a sample of the pieces tells the kinds; the second finds what is dropped,
copies, classes and the split; the third fits; a fourth makes means exact where the table is larger than the sample that
was fitted; the last writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from reinforge.core.ragged import Ragged
from reinforge.core.seeds import derive
from reinforge.data.blocks import NumbersBlock
from reinforge.data.chunks import Chunks, pieces
from reinforge.data.cleaning.clean import conflicts, kept_together, mend, mend_words
from reinforge.data.cleaning.images import NAMED, mend_images, refused
from reinforge.data.cleaning.report import Change
from reinforge.data.fitting import refined
from reinforge.data.images import UnreadableImage
from reinforge.data.infer import infer
from reinforge.data.operations.labels import coder, counted, fit_label_sets, fit_labels
from reinforge.data.operations.numbers import Log, Scale
from reinforge.data.options import GivenSplit, StratifiedSplit, TableOptions, TimeSplit
from reinforge.data.pipeline import Pipeline, lacking
from reinforge.data.prepared import Prepared, kept_about
from reinforge.data.preparing import (
    EXAMPLES,
    doubts,
    examples,
    helpers_of,
    incomplete,
    leaks,
    may_be_numbers,
    spellings,
    spelt,
)
from reinforge.data.reading.several import join
from reinforge.data.split import Indices, columns_of, split
from reinforge.data.store.arrow import Column as Place
from reinforge.data.store.folder import RAW_ROWS, SIDES, Writer, column_of, flat, writing
from reinforge.data.table import Table, plain_column
from reinforge.data.targets import NumbersTarget, numbers_of
from reinforge.data.values import Codes, Column, Nulls, Unreadable, read_codes
from reinforge.errors import DataError, RecipeError
from reinforge.messages import _
from reinforge.schema.fields import Category, Field, Image, Labels, Number, Text, columns_read, sources
from reinforge.schema.schema import Schema

# Rows that kinds are told from, and training rows that are fitted to at once. A smaller table gives exactly what
# preparing it in memory does.
LOOKED_AT, FITTED = 100_000, 1 << 18
# Pieces of which the look is taken.
LOOKS = 32
# By side of the split, -1 where a row is on none.
Sides = NDArray[np.int8]
Page = Callable[[Prepared], Mapping[str, str]]


@dataclass(frozen=True)
class Piece:
    """A cleaned piece: rows `raw` of the table as it was read."""

    table: Table
    raw: Codes
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Surveyed:
    """What is known of every row that is left: its number in the raw table, and the side it is on. `damaged`, by where
    a piece starts: its rows whose images can't be read."""

    schema: Schema
    raw: Codes
    sides: Sides
    alive: NDArray[np.bool_]
    classes: Codes | None
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    damaged: dict[int, Codes]


def stream(
    options: TableOptions, target: Path, *, seed: int = 0, base: Path | None = None, page: Page = lambda prepared: {}
) -> Prepared:
    """Prepare the table of the options' path in pieces of `options.stream` rows, and write it to a new folder.

    `page` gives texts to lie beside the data. Raises DataError as `prepare_table` does, RecipeError for what needs the
    whole table at once, StorageError where the folder exists already.
    """
    chunks = pieces(options, base)
    _refuse(options)
    sample = _sample(chunks)
    helpers = helpers_of(options.split, options)
    words = may_be_numbers(sample, options, helpers)
    mended = mend_words(sample, words, Nulls.of(options.nulls), options.clean)
    schema, notes = infer(mended.table, options, helpers)
    schema = spelt(schema, options)
    surveyed = _survey(chunks, schema, options, seed)
    pipeline, training, held = _fit(chunks, surveyed, options)
    if int((surveyed.sides == 0).sum()) > FITTED:
        pipeline = _refined(pipeline, chunks, surveyed, options)
    columns = training.plain(pipeline.schema)
    told = [*notes, *surveyed.notes, *_doubts(pipeline, columns, training, surveyed)]
    told += leaks(columns, np.arange(len(training)), pipeline.schema)
    changes = (*surveyed.changes, *spellings(pipeline.schema))
    told += [change.text() for change in changes]
    unseen = training if held is None else held
    some = np.unique(np.linspace(0, len(unseen) - 1, EXAMPLES).astype(np.int64))
    prepared = Prepared(
        pipeline, {}, None, None, _indices(surveyed), training,
        examples(unseen, some, unseen.plain(pipeline.schema), pipeline.schema), tuple(told), chunks.digest(), held,
        changes,
    )  # fmt: skip
    with writing(target) as writer:
        _write(writer, pipeline, chunks, surveyed, options)
        batches = {name: writer.opened(name) if name in writer.layout else None for name in SIDES}
        prepared = replace(
            prepared, train=batches["train"] or {}, validation=batches["validation"], test=batches["test"]
        )
        for name, index in zip(SIDES, (prepared.rows.train, prepared.rows.validation, prepared.rows.test)):
            if len(index):
                writer.rows[name] = torch.from_numpy(index)
        writer.finish(pipeline, training, held, kept_about(prepared, options))
        for name, text in page(prepared).items():
            writer.staging.text(name, text)
    return prepared


def _refuse(options: TableOptions) -> None:
    clean = options.clean
    for key, wanted in {"near": clean.near is not None, "outliers": clean.outliers is not None}.items():
        if wanted:
            raise RecipeError(
                _("`{key}` needs the whole table at once").format(key=key), where=f"data.clean.{key}",
                remedy=_("Leave it out, or read the table whole (data.stream: null)."),
            )  # fmt: skip


def _sample(chunks: Chunks) -> Table:
    """Rows evenly spread over some pieces, all of them where there are few; as many as kinds are told from."""
    loads = [index for index, _load in enumerate(chunks.loads())]
    stride = max(1, len(loads) // LOOKS)
    kept: list[Table] = []
    size, step = 0, 1
    for index, load in enumerate(chunks.loads()):
        if index % stride:
            continue
        table = load()
        kept.append(table if step == 1 else table.take(np.arange(0, len(table), step)))
        size += len(kept[-1])
        while size > LOOKED_AT:
            kept, step = [table.take(np.arange(0, len(table), 2)) for table in kept], 2 * step
            size = sum(map(len, kept))
    if not kept:
        text = _("there is a header, but no row follows it")
        raise DataError(text, where=chunks.source, remedy=_("Check that this is the right file."))
    return join(kept, chunks.source)


def _pieces(chunks: Chunks, schema: Schema, options: TableOptions, damaged: dict[int, Codes]) -> Iterator[Piece]:
    """The pieces, mended row by row. `damaged`, by where a piece starts: its rows whose images can't be read; found
    where it is not known yet."""
    nulls = Nulls.of(schema.nulls)
    inputs, targets = (columns_read(fields) for fields in (schema.inputs, schema.targets))
    numbers = [f.name for f in schema.fields if isinstance(f, Number)]
    bounds = {f.name: (f.least, f.high) for f in schema.fields if isinstance(f, Number)}
    start = 0
    for table in chunks:
        seen = mend_images(table, schema, options.clean, damaged.get(start))
        damaged.setdefault(start, np.setdiff1d(np.arange(len(table)), seen.rows))
        words = mend_words(seen.table, numbers, nulls, options.clean)
        mended = mend(words.table, inputs, targets, bounds, nulls, options.clean)
        raw = start + seen.rows[words.rows[mended.rows]]
        yield Piece(mended.table, raw, (*seen.changes, *words.changes, *mended.changes))
        start += len(table)


def _survey(chunks: Chunks, schema: Schema, options: TableOptions, seed: int) -> Surveyed:
    nulls = Nulls.of(schema.nulls)
    first = next((f for f in schema.targets if isinstance(f, Category)), None)
    by = [options.split.by] if isinstance(options.split, StratifiedSplit) and options.split.by else []
    asked = [*columns_of(options.split), *by]
    raw, classes, whole, alike = [], [], [], []
    gone: dict[str, list[NDArray[np.bool_]]] = {}
    helping: dict[str, list[pl.Series]] = {name: [] for name in asked}
    counts: dict[str, Counter[str]] = {f.name: Counter() for f in schema.targets if _counts(f)}
    texts: dict[object, int] = {}
    changes: dict[tuple[str, str | None], Change] = {}
    copies = options.clean.together is not False
    damaged: dict[int, Codes] = {}
    for piece in _pieces(chunks, schema, options, damaged):
        for change in piece.changes:
            _add(changes, change)
        if not len(piece.table):
            continue
        raw.append(piece.raw)
        columns = piece.table.plain(schema)
        for name, missing in lacking(columns, schema, piece.table.origin).items():
            gone.setdefault(name, []).append(missing)
        alike.append(_hashes(piece.table, schema, schema.inputs))
        whole.append(_hashes(piece.table, schema, schema.fields))
        for name in asked:
            helping[name].append(piece.table.column(name))
        for f in schema.targets:
            if f.name in counts and isinstance(f, Category | Labels):
                counts[f.name].update(counted(f, columns[f.name], nulls))
        if first is not None:
            # Provisional codes, in the order in which labels come.
            found = read_codes(columns[first.name], first.name, lambda value: texts.setdefault(value, len(texts)))
            classes.append(found.astype(np.int32))
    if not raw or not sum(map(len, raw)):
        raise DataError(_("cleaning leaves no row"), where="data.clean", remedy=_("Loosen its policies."))
    schema = schema.model_copy(update={"fields": tuple(_with_labels(f, counts, nulls) for f in schema.fields)})
    without = {name: np.concatenate(parts) for name, parts in gone.items()}
    kept = ~np.logical_or.reduce([np.zeros(sum(map(len, raw)), np.bool_), *without.values()])
    told = list(changes.values())
    rows = np.concatenate(whole)
    again = _repeats(rows)
    if repeated := int(again.sum()):
        dropped = repeated if options.clean.duplicates == "drop" else 0
        told.append(Change("duplicates", found=repeated, dropped=dropped))
    drop = again if options.clean.duplicates == "drop" else np.zeros(len(kept), np.bool_)
    together = None
    inputs = np.concatenate(alike)
    del whole, alike
    if _repeats(inputs[~drop]).any():
        drop = drop | _conflicting(inputs, rows, drop, options.clean.conflicts, told)
        if copies:
            groups = np.unique(inputs[~drop], return_inverse=True)[1].reshape(-1)
            together = kept_together(groups, options.clean, told)
            together = None if together is None else together[kept[~drop]]
    del rows, inputs
    if drop.all():
        raise DataError(_("cleaning leaves no row"), where="data.clean", remedy=_("Loosen its policies."))
    alive = kept & ~drop
    left = int((~drop).sum())
    notes = [incomplete({name: gone & ~drop for name, gone in without.items()}, left)] if (~kept & ~drop).any() else []
    if not alive.any():
        raise DataError(_("no row has its targets"), where=chunks.source)
    codes = None
    if first is not None:
        final = next(f for f in schema.targets if f.name == first.name and isinstance(f, Category))
        codes = _final(texts, final, nulls)[np.concatenate(classes)[alive]]
    del classes
    some = Table(
        {name: pl.concat(parts).filter(pl.Series(alive)) for name, parts in helping.items()}
        or {"": pl.Series(np.zeros(int(alive.sum()), np.int8))}
    )
    indices = split(some, options.split, derive(seed, "split"), codes, together)
    sides = np.full(int(alive.sum()), -1, np.int8)
    for side, index in enumerate((indices.train, indices.validation, indices.test)):
        sides[index] = side
    if isinstance(options.split, TimeSplit | GivenSplit) and (left := int((sides < 0).sum())):
        told.append(Change("apart", found=left, dropped=left))
    if not (sides == 0).any():
        raise DataError(_("no row is left for training"), where=chunks.source)
    return Surveyed(schema, np.concatenate(raw)[alive], sides, alive, codes, tuple(told), tuple(notes), damaged)


def _conflicting(
    inputs: NDArray[np.uint64], rows: NDArray[np.uint64], drop: NDArray[np.bool_], policy: str, told: list[Change]
) -> NDArray[np.bool_]:
    """(n,) which rows go because others with equal inputs have other targets, by hashes of inputs and of whole rows."""
    left = np.flatnonzero(~drop)
    odd, later = conflicts(inputs[left], rows[left])
    gone = {"keep": np.zeros(len(left), np.bool_), "first": later, "drop": odd}[policy]
    if odd.any():
        found = int((odd if policy == "keep" else gone).sum())
        told.append(Change("conflicts", found=found, dropped=int(gone.sum())))
    result = np.zeros(len(drop), np.bool_)
    result[left[gone]] = True
    return result


def _fit(chunks: Chunks, surveyed: Surveyed, options: TableOptions) -> tuple[Pipeline, Table, Table | None]:
    """The pipeline fitted to training rows (evenly spread, where there are very many), with the labels of all of them;
    those rows, and some of what is held back."""
    nulls = Nulls.of(surveyed.schema.nulls)
    counts: dict[str, Counter[str]] = {f.name: Counter() for f in surveyed.schema.inputs if _counts(f)}
    held_side = next((side for side in (2, 1) if (surveyed.sides == side).any()), None)
    chosen = {0: _spread(surveyed.sides, 0, FITTED)}
    if held_side is not None:
        chosen[held_side] = _spread(surveyed.sides, held_side, RAW_ROWS)
    kept: dict[int, list[Table]] = {side: [] for side in chosen}
    for piece, sides, start in _divided(chunks, surveyed, options):
        train = np.flatnonzero(sides == 0)
        for f in surveyed.schema.inputs:
            if len(train) and f.name in counts and isinstance(f, Category | Labels):
                column = plain_column(piece.table.columns[f.name].gather(train), f, nulls)
                counts[f.name].update(counted(f, column, nulls))
        for side, rows in chosen.items():
            low, high = np.searchsorted(rows, (start, start + len(sides)))
            if high > low:
                kept[side].append(piece.table.take(rows[low:high] - start))
    schema = surveyed.schema
    schema = schema.model_copy(update={"fields": tuple(_with_labels(f, counts, nulls) for f in schema.fields)})
    training = join(kept[0], chunks.source)
    held = join(kept[held_side], chunks.source) if held_side is not None else None
    tokenizers = {name: f.tokenizer for name, f in options.fields.items() if f.tokenizer is not None}
    return Pipeline.fit(training.plain(schema), schema, training.origin, tokenizers), training, held


def _refined(pipeline: Pipeline, chunks: Chunks, surveyed: Surveyed, options: TableOptions) -> Pipeline:
    """The pipeline with means, deviations and ranges of all training rows. One more pass for inputs and each target."""

    def blocks(reader: Any) -> Iterator[NDArray[np.float64]]:
        for piece, sides, _start in _divided(chunks, surveyed, options):
            table = piece.table.take(np.flatnonzero(sides == 0))
            if len(table):
                yield reader.block(table.plain(pipeline.schema), len(table), table.origin)

    inputs = dict(pipeline.blocks)
    for name, block in inputs.items():
        if isinstance(block, NumbersBlock):
            steps = refined(block.operations, block.reader.numbers, blocks(block.reader))
            inputs[name] = NumbersBlock(pipeline.schema, steps)
    targets = dict(pipeline.targets)
    for name, target in targets.items():
        if isinstance(target, NumbersTarget) and target.operations:
            scaled = refined(target.operations, numbers_of(target.field), blocks(target.reader))
            kept = tuple(step for step in scaled if isinstance(step, Log | Scale))
            targets[name] = NumbersTarget(target.field, pipeline.schema, kept)
    return Pipeline(pipeline.schema, inputs, targets)


def _write(writer: Writer, pipeline: Pipeline, chunks: Chunks, surveyed: Surveyed, options: TableOptions) -> None:
    """Every side, piece by piece into its places."""
    sizes = [int((surveyed.sides == side).sum()) for side in range(len(SIDES))]
    ragged = any(isinstance(f, Text) for f in pipeline.schema.inputs)
    totals: list[Counter[str]] = [Counter() for _side in SIDES]
    if ragged:
        for side, batch in _batches(pipeline, chunks, surveyed, options):
            for key, leaf in flat(batch):
                if isinstance(leaf, Ragged):
                    totals[side][key] += int(leaf.offsets[-1] - leaf.offsets[0])
    with ExitStack() as stack:
        places: dict[int, Mapping[str, NDArray[Any]]] = {}
        filled, ends = [0] * len(SIDES), [Counter[str]() for _side in SIDES]
        for side, batch in _batches(pipeline, chunks, surveyed, options):
            leaves = dict(flat(batch))
            if side not in places:
                columns = [_planned(key, leaf, totals[side]) for key, leaf in leaves.items()]
                places[side] = stack.enter_context(writer.side(SIDES[side], columns, sizes[side]))
            start = filled[side]
            for key, leaf in leaves.items():
                if isinstance(leaf, Ragged):
                    count, end = len(leaf), ends[side][key]
                    values = leaf.values[int(leaf.offsets[0]) : int(leaf.offsets[-1])].numpy()
                    offsets = leaf.offsets.numpy() - int(leaf.offsets[0])
                    places[side][f"{key}/offsets"][start : start + count + 1] = offsets + end
                    places[side][key][end : end + len(values)] = values
                    ends[side][key] += len(values)
                else:
                    count = len(leaf)
                    places[side][key][start : start + count] = leaf.numpy()
            filled[side] = start + count


def _planned(key: str, leaf: Any, totals: Mapping[str, int]) -> Place:
    place = column_of(key, leaf)
    return replace(place, total=totals[key]) if isinstance(leaf, Ragged) else place


def _batches(
    pipeline: Pipeline, chunks: Chunks, surveyed: Surveyed, options: TableOptions
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each piece's rows of each side, transformed."""
    for piece, sides, _start in _divided(chunks, surveyed, options):
        for side in range(len(SIDES)):
            rows = np.flatnonzero(sides == side)
            if len(rows):
                table = piece.table.take(rows)
                try:
                    yield side, pipeline.transform(table.plain(pipeline.schema), origin=table.origin)
                except UnreadableImage as error:
                    raise refused(error) from None


def _divided(chunks: Chunks, surveyed: Surveyed, options: TableOptions) -> Iterator[tuple[Piece, Sides, int]]:
    """The pieces with the rows that are left, the side of each, and where the piece starts among them."""
    seen = start = 0
    for piece in _pieces(chunks, surveyed.schema, options, surveyed.damaged):
        alive = np.flatnonzero(surveyed.alive[seen : seen + len(piece.table)])
        seen += len(piece.table)
        if not len(alive):
            continue
        table = piece.table if len(alive) == len(piece.table) else piece.table.take(alive)
        yield Piece(table, piece.raw[alive], ()), surveyed.sides[start : start + len(alive)], start
        start += len(alive)


def _indices(surveyed: Surveyed) -> Indices:
    return Indices(*(surveyed.raw[surveyed.sides == side] for side in range(len(SIDES))))


def _spread(sides: Sides, side: int, most: int) -> Codes:
    """At most so many rows of a side, evenly spread, by their place among the rows that are left."""
    rows = np.flatnonzero(sides == side)
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64))]


def _doubts(pipeline: Pipeline, columns: Mapping[str, Column], training: Table, surveyed: Surveyed) -> list[str]:
    batch = pipeline.transform(columns, origin=training.origin)
    return doubts(pipeline, batch, surveyed.classes, Indices(*(np.flatnonzero(surveyed.sides == s) for s in range(3))))


def _counts(f: Field) -> bool:
    """Whether its labels are still to be found."""
    return (isinstance(f, Category) and not f.labels and not f.hashed) or (
        isinstance(f, Labels) and not f.labels and not f.columns
    )


def _with_labels(f: Field, counts: Mapping[str, Counter[str]], nulls: Nulls) -> Field:
    if f.name not in counts:
        return f
    if isinstance(f, Category):
        return fit_labels(f, counts[f.name], nulls)
    return fit_label_sets(f, counts[f.name], nulls) if isinstance(f, Labels) else f


def _hashes(table: Table, schema: Schema, fields: tuple[Field, ...]) -> NDArray[np.uint64]:
    """(n,) 64 bits that are equal where a table's rows mean the same in these fields."""
    nulls = Nulls.of(schema.nulls)
    columns: list[pl.Series] = []
    for f in fields:
        for name in sources(f):
            series = table.column(name)
            if isinstance(f, Number):
                values = table.plain(Schema(fields=(f,), nulls=schema.nulls))[name]
                numbers = pl.Series(values) if isinstance(values, np.ndarray) else series.cast(pl.Float64, strict=False)
                series = numbers.cast(pl.Float64).fill_nan(None) + 0.0
            elif series.dtype == pl.String:
                series = series.str.strip_chars()
                series = series.set(series.is_in(list(nulls.texts)), None)
            elif series.dtype.is_nested() or series.dtype == pl.Object or isinstance(f, Image):
                series = pl.Series([repr(value) for value in series.to_list()])
            columns.append(series.alias(str(len(columns))))
    found: NDArray[np.uint64] = pl.DataFrame(columns).hash_rows(seed=1).to_numpy()
    return found


def _repeats(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """(n,) whether an earlier row has the same hash."""
    order = np.argsort(hashes, kind="stable")
    again = np.zeros(len(hashes), np.bool_)
    again[order[1:]] = hashes[order[1:]] == hashes[order[:-1]]
    return again


def _final(texts: Mapping[object, int], field: Category, nulls: Nulls) -> Codes:
    """The class of each provisional code; -1 for what the field refuses, which is told with its place when written."""
    code, found = coder(field, nulls), []
    for value in texts:
        try:
            found.append(code(value))
        except Unreadable:
            found.append(-1)
    return np.array(found, np.int64)


def _add(changes: dict[tuple[str, str | None], Change], change: Change) -> None:
    key = (change.policy, change.column)
    before = changes.get(key)
    if before is None:
        changes[key] = change
        return
    # An example is enough, but of images that are left out some are told by name.
    named = change.policy == "images" and before.found < NAMED
    changes[key] = replace(
        before, found=before.found + change.found, cells=before.cells + change.cells,
        dropped=before.dropped + change.dropped,
        detail=f"{before.detail}, {change.detail}" if named else before.detail,
    )  # fmt: skip
