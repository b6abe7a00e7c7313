"""Rows per second of a fitted pipeline: ours beside the same work written by hand in polars expressions.

A million rows in a polars frame: eight numbers (one clipped, one logarithmic, two with indicators) of which a tenth is
missing, a date as text, and three categories of 5, 100 and 5,000 labels; out come the two tensors that a model takes.
Both know the fitted statistics beforehand; what comes out is compared before anything is timed. Every figure is the
median of interleaved runs. Ours also checks every value (infinities, ranges, what the schema refuses), and names row
and column of a bad one.

    python -m benchmarks.pipeline [--rows 1000000] [--runs 7]
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import polars as pl
import torch
from torch import Tensor

from reinforge.data.pipeline import Pipeline
from reinforge.data.readers import read
from reinforge.data.table import Table
from reinforge.data.values import Column
from reinforge.schema.fields import Category, Date, Number
from reinforge.schema.schema import Schema

BAR = 1.5
LABELS = {"small": 5, "middle": 100, "large": 5_000}
FIELDS = (
    Number(name="n0", outliers="clip"),
    Number(name="n1", transform="log"),
    Number(name="n2", indicator=True),
    Number(name="n3", indicator=True, scale="range"),
    Number(name="n4", scale="robust"),
    *(Number(name=f"n{i}") for i in range(5, 8)),
    Date(name="day"),
    *(Category(name=name) for name in LABELS),
)
Blocks = tuple[Tensor, Tensor]


def table(rows: int) -> pl.DataFrame:
    """The raw columns."""
    draw = np.random.default_rng(0)
    columns: dict[str, pl.Series] = {}
    for i in range(8):
        values = draw.normal(50, 20, rows) if i != 1 else draw.lognormal(3, 2, rows)
        values[draw.random(rows) < 0.1] = np.nan
        columns[f"n{i}"] = pl.Series(values, nan_to_null=True)
    days = pl.Series(draw.integers(10_000, 20_000, rows)).cast(pl.Int32).cast(pl.Date)
    columns["day"] = days.cast(pl.String)
    for name, count in LABELS.items():
        names = np.array([f"label {i}" for i in range(count)])
        columns[name] = pl.Series(names[draw.integers(0, count, rows)])
    return pl.DataFrame(columns)


def by_hand(pipeline: Pipeline) -> Callable[[pl.DataFrame], Blocks]:
    """The same in polars expressions, with the pipeline's own statistics."""
    arrays = pipeline.arrays()
    kinds = [step.kind for step in pipeline.blocks["numbers"].operations]  # type: ignore[attr-defined]
    place = {kind: f"inputs.0.{index}." for index, kind in enumerate(kinds)}
    low, high = arrays[place["clip"] + "low"].tolist(), arrays[place["clip"] + "high"].tolist()
    fill = arrays[place["impute"] + "fill"].tolist()
    shift, scale = arrays[place["scale"] + "shift"].tolist(), arrays[place["scale"] + "scale"].tolist()
    numbers = [f.name for f in FIELDS if isinstance(f, Number)]
    day = pl.col("day").str.to_date("%Y-%m-%d")
    cycles = ((day.dt.month() - 1).cast(pl.Float64) / 12, (day.dt.weekday() - 1).cast(pl.Float64) / 7)
    raw = [
        *(pl.col(name) for name in numbers),
        day.cast(pl.Int32).cast(pl.Float64),
        *(part for cycle in cycles for part in ((cycle * 2 * math.pi).sin(), (cycle * 2 * math.pi).cos())),
    ]
    made = []
    for index, column in enumerate(raw):
        if math.isfinite(low[index]):
            column = column.clip(low[index], high[index])
        column = column.fill_null(fill[index])
        if index == 1:
            column = column.abs().log1p() * column.sign()
        made.append(((column - shift[index]) / scale[index]).cast(pl.Float32).alias(f"_{index}"))
    made += [pl.col(name).is_null().cast(pl.Float32).alias(f"_{name}") for name in ("n2", "n3")]
    codes = [
        pl.col(f.name)
        .replace_strict(list(f.labels), [2 + i for i in range(len(f.labels))], default=0, return_dtype=pl.Int64)
        .fill_null(1)
        for f in pipeline.schema.categories
    ]

    def transform(frame: pl.DataFrame) -> Blocks:
        return frame.select(made).to_torch(), frame.select(codes).to_torch()  # type: ignore[return-value]

    return transform


def ours(pipeline: Pipeline) -> Callable[[pl.DataFrame], Blocks]:
    """From the same frame through the pipeline."""
    schema = pipeline.schema

    def transform(frame: pl.DataFrame) -> Blocks:
        found = pipeline.transform(read_columns(frame, schema), targets=False)["inputs"]
        return found["numbers"], found["categories"]  # type: ignore[return-value]

    return transform


def read_columns(frame: pl.DataFrame, schema: Schema) -> dict[str, Column]:
    """The frame's columns as the pipeline takes them; a digest of the frame is not part of the work."""
    return Table(dict(zip(frame.columns, frame.get_columns()))).plain(schema, targets=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    frame, schema = table(arguments.rows), Schema(fields=FIELDS)
    start = time.perf_counter()
    pipeline = Pipeline.fit(read(frame).plain(schema), schema)
    fitting = time.perf_counter() - start
    trials = {"ours": ours(pipeline), "by_hand": by_hand(pipeline)}
    first, second = (trial(frame) for trial in trials.values())
    torch.testing.assert_close(first[0], second[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(first[1], second[1])
    seconds: dict[str, list[float]] = {name: [] for name in trials}
    for run in range(arguments.runs):
        for name in sorted(trials, reverse=bool(run % 2)):
            start = time.perf_counter()
            trials[name](frame)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name:8} {medians[name]:7.3f} s, {min(values):.3f} to {max(values):.3f}")
    ratio = medians["ours"] / medians["by_hand"]
    print(f"ours takes {ratio:.2f}x the time by hand (bar: {BAR}); fitting took {fitting:.2f} s")
    print(
        f"{arguments.rows:,} rows | polars {pl.__version__}, {pl.thread_pool_size()} threads | numpy {np.__version__}"
        f" | torch {torch.__version__} | python {platform.python_version()}"
    )
    print("python -m benchmarks.pipeline " + " ".join(sys.argv[1:]))
    row = {"name": "pipeline", "ratio": round(ratio, 3), "ours": round(medians["ours"], 4)}
    print(json.dumps({**row, "peer": round(medians["by_hand"], 4), "unit": "s", "bar": BAR}))


if __name__ == "__main__":
    main()
