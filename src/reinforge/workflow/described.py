"""What a prepared table holds, as data for its card: whole for `prepare`, bounded for a report."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import torch

from reinforge.core.batch import section
from reinforge.data.options import TableOptions
from reinforge.data.prepared import Prepared
from reinforge.data.profile import profile
from reinforge.evaluation.data_card import DataCard, Picture
from reinforge.evaluation.examples import picture
from reinforge.evaluation.report_html import number
from reinforge.recipe.recipe import Recipe
from reinforge.schema.fields import Category, Image

Classes = dict[str, dict[str, dict[str, int]]]

# Of each image column, so many pictures are shown.
PICTURES = 12
# What a report describes of more: rows spread evenly, and the first columns.
ROWS, COLUMNS = 50_000, 200


def sides_of(prepared: Prepared) -> dict[str, int]:
    """Rows by side of the split, without empty ones."""
    rows = prepared.rows
    sides = {"train": rows.train, "validation": rows.validation, "test": rows.test}
    return {side: len(index) for side, index in sides.items() if len(index)}


def classes_of(prepared: Prepared) -> Classes:
    """By target that is a category, label and side, how many rows."""
    batches = {"train": prepared.train, "validation": prepared.validation, "test": prepared.test}
    classes: Classes = {}
    for target in (f for f in prepared.schema.targets if isinstance(f, Category)):
        classes[target.name] = {label: {} for label in target.labels}
        for side, batch in batches.items():
            if batch is None:
                continue
            codes, valid = section(batch, "targets")[target.name], section(batch, "valid").get(target.name)
            codes = codes if valid is None else codes[valid]
            counts = torch.bincount(codes.flatten(), minlength=len(target.labels)).tolist()
            for label, count in zip(target.labels, counts):
                classes[target.name][label][side] = count
    return classes


def source_of(recipe: Recipe) -> str:
    """Where the data came from, as the recipe says it; nothing for data in memory."""
    where = recipe.data.path if isinstance(recipe.data, TableOptions) else recipe.data.model_dump()["kind"]
    return ", ".join(map(str, where)) if isinstance(where, (list, tuple)) else str(where or "")


def card_of(recipe: Recipe, prepared: Prepared, *, bounded: bool = False) -> DataCard:
    """The data card of a prepared table; `bounded`: of many rows and columns only so many, as for a report."""
    training, schema, left = prepared.training, prepared.schema, 0
    if bounded and len(training) > ROWS:
        training = training.take(np.unique(np.linspace(0, len(training) - 1, ROWS).astype(np.int64)))
    if bounded and len(schema.fields) > COLUMNS:
        kept = (*schema.inputs[: max(1, COLUMNS - len(schema.targets))], *schema.targets)
        left = len(schema.fields) - len(kept)
        schema = schema.model_copy(update={"fields": kept})
    return DataCard(
        recipe.name, source_of(recipe), prepared.digest, sides_of(prepared), classes_of(prepared),
        profile(training, schema), prepared.changes, prepared.notes, version("reinforge"), left,
        _pictures(prepared),
    )  # fmt: skip


def _pictures(prepared: Prepared) -> dict[str, tuple[Picture, ...]]:
    """Of each image column some pictures, spread over the training rows, with the first target of their row."""
    inputs, target = section(prepared.train, "inputs"), prepared.schema.targets[0]
    count = len(prepared.training)
    chosen = np.unique(np.linspace(0, count - 1, min(count, PICTURES)).astype(np.int64)).tolist()
    truths = [_short(row.get(target.name)) for row in prepared.training.rows(chosen, [target.name])]
    return {
        f.name: tuple(Picture(picture(inputs[f.name][row]), truth) for row, truth in zip(chosen, truths))
        for f in prepared.schema.inputs
        if isinstance(f, Image) and f.name in inputs
    }


def _short(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "" if value is None else number(value) if isinstance(value, float) else str(value)
