"""The steps of preparing a table that work in memory and in pieces alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reinforge.core.batch import Batch
from reinforge.data.cleaning.leaks import alone
from reinforge.data.cleaning.report import Change
from reinforge.data.images import to_base64
from reinforge.data.operations.labels import coder, fit_label_sets, fit_labels
from reinforge.data.options import Split, TableOptions
from reinforge.data.pipeline import Pipeline
from reinforge.data.split import Indices, columns_of
from reinforge.data.table import Table
from reinforge.data.targets import present
from reinforge.data.values import MEMORY, Codes, Column, Encoded, Nulls, Origin, label, loosely, read_codes, take
from reinforge.messages import _
from reinforge.schema.fields import Category, Field, Image, Labels, sources
from reinforge.schema.schema import Schema

EXAMPLES = 16
EXAMPLE_CHARACTERS = 8 << 20  # of all examples together
LOOKED_AT = 20_000  # training rows in which leaks are looked for


def examples(table: Table, some: Codes, columns: Mapping[str, Column], schema: Schema) -> tuple[dict[str, object], ...]:
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


def helpers_of(options: Split, table: TableOptions) -> tuple[str, ...]:
    """Columns that serve the split and are no inputs, unless the recipe names them as such."""
    return tuple(name for name in columns_of(options) if name not in {*(table.inputs or ()), *table.targets})


def spelt(schema: Schema, options: TableOptions) -> Schema:
    """Labels are spelt loosely where all are to be, unless a field says otherwise."""
    if options.clean.spelling == "keep":
        return schema
    stated = {name for name, f in (*options.fields.items(), *options.targets.items()) if f.spelling is not None}
    fields = (
        f.model_copy(update={"spelling": "loose"}) if isinstance(f, Category | Labels) and f.name not in stated else f
        for f in schema.fields
    )
    return schema.model_copy(update={"fields": tuple(fields)})


def merged_spellings(columns: Mapping[str, Column], schema: Schema) -> list[Change]:
    """What loose spelling merged: how many other spellings of labels there were, in how many rows."""
    nulls, found = Nulls.of(schema.nulls), []
    for f in schema.fields:
        column = columns.get(f.name)
        if not isinstance(f, Category) or f.spelling == "exact" or not isinstance(column, Encoded):
            continue
        known = {loosely(text): text for text in f.labels}
        texts = [label(value, nulls) for value in column.values]
        others = {text: known[loosely(text)] for text in texts if text and known.get(loosely(text), text) != text}
        if others:
            cells = int(np.isin(column.codes, [place for place, text in enumerate(texts) if text in others]).sum())
            example = next(iter(others))
            detail = _("for example {one} as {other}").format(one=repr(example), other=repr(others[example]))
            found.append(Change("spelling", f.name, found=len(others), cells=cells, detail=detail))
    return found


def spellings(schema: Schema) -> list[Change]:
    """For each category that is spelt exactly: how many of its labels are spellings of another."""
    found = []
    for f in schema.fields:
        if not isinstance(f, Category) or f.spelling != "exact" or f.hashed:
            continue
        first: dict[str, str] = {}
        others = [(first[loose], text) for text in f.labels if first.setdefault(loose := loosely(text), text) != text]
        if others:
            detail = _("for example {one} and {other}; `clean.spelling: merge` makes them one")
            one, other = map(repr, others[0])
            found.append(Change("spellings", f.name, found=len(others), detail=detail.format(one=one, other=other)))
    return found


def may_be_numbers(table: Table, options: TableOptions, helpers: tuple[str, ...]) -> list[str]:
    """Columns that serve as numbers, as far as the recipe doesn't say otherwise."""
    stated = {name: f.kind for name, f in (*options.fields.items(), *options.targets.items())}
    used = options.inputs or tuple(name for name in table.columns if name not in {*options.drop, *helpers})
    return [name for name in (*used, *options.targets) if stated.get(name) in (None, "number")]


def leaks(columns: Mapping[str, Column], rows: Codes, schema: Schema) -> list[str]:
    """A note for each column that predicts a target almost alone, told from some of the training rows."""
    some = rows[np.unique(np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows))).astype(np.int64))]
    found = alone({name: take(column, some) for name, column in columns.items()}, schema)
    text = _("column {column!r} predicts {target!r} almost alone ({score:.1%} of the way from chance to certainty): "
             "is it known before the target is?")  # fmt: skip
    return [text.format(column=a.column, target=a.target, score=a.score) for a in found if a.suspicious]


def with_target_labels(schema: Schema, columns: dict[str, Column]) -> Schema:
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


def incomplete(lacking: Mapping[str, NDArray[np.bool_]], count: int) -> str:
    """A note on the rows of `count` that are left out, by the target that each lacks."""
    gone = {name: int(missing.sum()) for name, missing in lacking.items() if missing.any()}
    value = int(np.logical_or.reduce(list(lacking.values())).sum())
    if len(gone) == 1:
        told = _("{value} of {n} rows are left out: their target {name!r} is missing")
        return told.format(value=value, n=count, name=next(iter(gone)))
    parts = ", ".join(_("{name!r} in {n}").format(name=name, n=n) for name, n in gone.items())
    told = _("{value} of {n} rows are left out: a target is missing ({parts})")
    return told.format(value=value, n=count, parts=parts)


def emptied(columns: Mapping[str, Column], schema: Schema, origin: Origin) -> list[str]:
    """A note on each set of labels whose rows without one are dropped, as they may well mean that none holds."""
    told = _("{name!r}: {value} rows have no labels and count as missing; `missing: empty` says that none holds")
    lacking = {
        f.name: int((~present(f, columns, len(columns[f.name]), schema, origin)).sum())
        for f in schema.targets
        if isinstance(f, Labels) and f.missing == "drop" and not f.columns
    }
    return [told.format(name=name, value=count) for name, count in lacking.items() if count]


def doubts(pipeline: Pipeline, train: Batch, classes: Codes | None, rows: Indices) -> list[str]:
    """What a careful reader would ask about the fitted training data."""
    notes: list[str] = []
    inputs = train["inputs"]
    numbers = inputs.get("numbers") if isinstance(inputs, Mapping) else None
    if isinstance(numbers, torch.Tensor):
        same = (numbers == numbers[:1]).all(0).tolist()
        told = _("{name!r} is constant in training")
        notes += [told.format(name=f.name) for f, constant in zip(pipeline.schema.numbers, same) if constant]
    first = next((f for f in pipeline.schema.targets if isinstance(f, Category)), None)
    if first is not None and classes is not None:
        absent = sorted(set(range(len(first.labels))) - set(classes[rows.train].tolist()))
        if absent:
            listing = ", ".join(repr(first.labels[code]) for code in absent)
            notes.append(_("no training row has target {name!r} as {listing}").format(name=first.name, listing=listing))
    return notes


def extra(table: Table, schema: Schema, known: tuple[str, ...]) -> list[str]:
    """A note on columns that are there and not asked for."""
    names = {name for f in schema.fields for name in sources(f)} | set(known)
    found = [name for name in table.columns if name not in names]
    return [_("columns the model doesn't know are ignored: {names}").format(names=", ".join(found))] if found else []


def classes_of(columns: dict[str, Column], schema: Schema, origin: Origin = MEMORY) -> Codes | None:
    """(n,) codes of the first target that is a category; -1 where it is missing."""
    first = next((f for f in schema.targets if isinstance(f, Category)), None)
    if first is None or first.name not in columns:
        return None
    return read_codes(columns[first.name], first.name, coder(first, Nulls.of(schema.nulls)), origin)
