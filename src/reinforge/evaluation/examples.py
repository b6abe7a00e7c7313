"""Single rows and groups of rows that a model is worst at."""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from reinforge.bundle.task import Reading
from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.data.table import Table
from reinforge.evaluation.findings import Example, Measure, Slice
from reinforge.evaluation.intervals import interval
from reinforge.evaluation.metrics.metric import Metric
from reinforge.evaluation.supervised import Judged, decide, read
from reinforge.schema.fields import Category, Image, Number, Text, Vector, sources
from reinforge.schema.schema import Schema

Array = np.ndarray[Any, Any]

WORST = 8
# Groups are looked at from so many rows on, and so many of the worst are told.
FEWEST_ROWS = 10
MOST_SLICES = 12
_MOST_GROUPS = 200
_MOST_VALUES = 50
_REPLICATES = 300
_TEXT = 400
_SIDE = 96
# By what groups are compared: means over rows, which few rows define too.
COMPARED = {
    "category": "accuracy", "labels": "labels-micro-f1", "ordinal": "rank-mae", "number": "mae", "count": "count-mae",
    "span": "token-f1",
}  # fmt: skip


def worst(
    judged: Judged, form: str, reading: Reading, labels: Sequence[str], schema: Schema, table: Table,
    numbers: Sequence[int], batch: Batch,
) -> tuple[Example, ...]:  # fmt: skip
    """The rows with the highest cost: improbability of what is true, or distance from it. Rows that are right are none
    of them. `table` holds the held-out rows as they were read, `numbers` their places in the data."""
    told = _told(judged, form, reading, labels)
    order = (
        torch.where(told.wrong, told.cost.nan_to_num(torch.inf), -torch.inf).argsort(descending=True)[:WORST].tolist()
    )
    inputs = batches.section(batch, "inputs")
    pictures = [f.name for f in schema.inputs if isinstance(f, Image)]
    legible = [f for f in schema.inputs if not isinstance(f, (Image, Vector))]
    read = [sources(f)[0] if isinstance(f, Text) else f.name for f in legible]
    texts = [name for name in dict.fromkeys(read) if name in table.columns]
    numeric = {f.name for f in schema.inputs if isinstance(f, Number)}
    found = []
    for index in order:
        if not bool(told.wrong[index]):
            break
        row = int(judged.rows[index])
        shown = table.rows([row], texts)[0] if texts else {}
        found.append(
            Example(
                row=int(numbers[row]), said=told.said(index), truth=told.truth(index),
                cost=_finite(float(told.cost[index])),
                sure=None if told.sure is None else _finite(float(told.sure[index])),
                inputs={name: _rounded(value) if name in numeric else _short(value) for name, value in shown.items()},
                images={name: picture(inputs[name][row]) for name in pictures if name in inputs},
            )
        )  # fmt: skip
    return tuple(found)


def slices(
    judged: Judged, form: str, reading: Reading, metrics: Mapping[str, Metric], schema: Schema, table: Table, seed: int
) -> tuple[Slice, ...]:
    """Rows with one value of a category, or in one quarter of a number: the groups that the model is worse at than at
    all rows, the worst first."""
    name = COMPARED.get(form, "")
    metric = metrics.get(name)
    if metric is None:
        return ()
    output, best = read(judged.output, metric, reading), getattr(metric, "best", "high")
    found = []
    overall = metric(output, judged.target)
    limit = overall if best == "high" else -overall
    for column, value, here in list(_groups(schema, table, judged.rows.numpy()))[:_MOST_GROUPS]:
        rows = torch.from_numpy(np.flatnonzero(here))
        if FEWEST_ROWS <= len(rows) < len(output):
            measured = metric(output[rows], judged.target[rows])
            order = measured if best == "high" else -measured
            if math.isfinite(order) and order < limit:
                found.append((order, column, value, rows))
    found.sort(key=lambda each: each[0])
    told = []
    for _order, column, value, rows in found[:MOST_SLICES]:
        chosen, target = output[rows], judged.target[rows]
        around = interval(metric, chosen, target, replicates=_REPLICATES, seed=seed)
        told.append(
            Slice(
                column=column, value=value, rows=len(rows),
                measure=Measure(
                    name=name, value=metric(chosen, target), low=around.low if around else None,
                    high=around.high if around else None, best=best,
                ),
            )
        )  # fmt: skip
    return tuple(told)


def picture(pixels: Tensor) -> str:
    """An image (channels, height, width), uint8 or floats from 0 to 1, as base64 of a PNG, at most 96 pixels wide."""
    from PIL import Image as Pillow

    pixels = pixels.cpu()
    if pixels.dtype != torch.uint8:
        pixels = (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8)
    array = pixels[0].numpy() if pixels.shape[0] != 3 else pixels.permute(1, 2, 0).numpy()
    image = Pillow.fromarray(np.ascontiguousarray(array))
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


@dataclass(frozen=True)
class _Told:
    """By row: its cost and whether it is wrong; in words what was said and what is true; how sure the model was."""

    cost: Tensor
    wrong: Tensor
    said: Callable[[int], str]
    truth: Callable[[int], str]
    sure: Tensor | None = None


def _told(judged: Judged, form: str, reading: Reading, labels: Sequence[str]) -> _Told:
    output, target = judged.output, judged.target

    def name(code: int) -> str:
        return labels[code] if code < len(labels) else str(code)

    if form == "category":
        logits = output.double() / reading.temperature
        decided = decide(output, "category", reading).argmax(1)
        cost = torch.nn.functional.cross_entropy(logits, target, reduction="none")
        sure = logits.softmax(1).gather(1, decided[:, None])[:, 0]
        return _Told(cost, decided != target, lambda i: name(int(decided[i])), lambda i: name(int(target[i])), sure)
    if form == "labels":
        holds, decided = target > 0.5, decide(output, "labels", reading) > 0
        loss = torch.nn.functional.binary_cross_entropy_with_logits
        cost = loss(output.double() / reading.temperature, target.double(), reduction="none").mean(1)

        def listed(which: Tensor) -> str:
            return ", ".join(name(code) for code in which.nonzero()[:, 0].tolist()) or "–"

        return _Told(cost, (holds != decided).any(1), lambda i: listed(decided[i]), lambda i: listed(holds[i]))
    if form == "ordinal":
        cost = (output - target).abs().double()
        return _Told(cost, cost > 0, lambda i: name(int(output[i])), lambda i: name(int(target[i])))
    if form == "span":
        cost = (output - target).abs().sum(1).double()
        return _Told(cost, cost > 0, lambda i: _numbers(output[i] + 1), lambda i: _numbers(target[i] + 1))
    truth = target.view_as(output).double()
    cost = (output.double() - truth).abs().flatten(1).mean(1)
    return _Told(cost, cost > 0, lambda i: _numbers(output[i]), lambda i: _numbers(truth[i]))


def _numbers(values: Tensor) -> str:
    shown = [f"{value:.5g}" for value in values.flatten().tolist()[:6]]
    return ", ".join(shown) + ("…" if values.numel() > len(shown) else "")


def _groups(schema: Schema, table: Table, rows: Array) -> Iterator[tuple[str, str, Array]]:
    """Column, value and which rows hold it, those columns first that the schema names first."""
    for field in schema.inputs:
        if field.name not in table.columns:
            continue
        series = table.column(field.name).gather(rows)
        if isinstance(field, Category):
            counts = series.value_counts(sort=True).head(_MOST_VALUES)
            for value in counts.to_series(0).to_list():
                same = series.is_null() if value is None else series == value
                yield field.name, "–" if value is None else _short(value), same.fill_null(False).to_numpy()
        elif isinstance(field, Number):
            values = series.cast(pl.Float64, strict=False)
            known = values.drop_nulls().drop_nans()
            quarters = (known.quantile(q, "nearest") for q in (0.0, 0.25, 0.5, 0.75, 1.0))
            edges = sorted({edge for edge in quarters if edge is not None})
            for low, high in itertools.pairwise(edges):
                inside = (values >= low) & ((values < high) if high != edges[-1] else (values <= high))
                text = f"{low:.4g} – {high:.4g}"
                yield field.name, text, inside.fill_null(False).to_numpy()


def _short(value: object) -> str:
    text = "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"


def _rounded(value: object) -> str:
    """A number as files write it, with as many digits as tell rows apart."""
    try:
        return _short(value) if value is None else f"{float(str(value)):.6g}"
    except ValueError:
        return _short(value)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 1e300
