"""A generated table with a known answer: y is a weighted sum of standard normal features, and noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reinforge.core.seeds import derive
from reinforge.data.options import FieldOptions, LinearOptions, TableOptions
from reinforge.data.pipeline import Pipeline
from reinforge.data.prepared import Prepared, prepare_table


def generate(options: LinearOptions, seed: int = 0) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Columns x1, x2, ... and y, each (rows,) float64."""
    chosen = derive(seed, "linear") if options.seed is None else options.seed
    generator = np.random.RandomState(chosen % 2**32)
    features = generator.standard_normal((options.rows, len(options.weights))) + options.shift
    noise = generator.standard_normal(options.rows) * options.noise
    y = features @ np.array(options.weights) + options.bias + noise
    return {**{f"x{index}": features[:, index - 1].copy() for index in range(1, len(options.weights) + 1)}, "y": y}


def prepare_linear(
    options: LinearOptions,
    *,
    seed: int = 0,
    data: object = None,
    pipeline: Pipeline | None = None,
    base: Path | None = None,
) -> Prepared:
    """Generate and prepare the table; `data` of the same columns may stand in for it."""
    columns = generate(options, seed) if data is None else data
    field = FieldOptions(kind="number", scale=options.scale)
    names = [f"x{index}" for index in range(1, len(options.weights) + 1)]
    table = TableOptions(
        targets={"y": field}, inputs=tuple(names), fields=dict.fromkeys(names, field), split=options.split
    )
    return prepare_table(table, seed=seed, data=columns, pipeline=pipeline, base=base)
