"""reference.json: small sketches of the training data per field, against which drift is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from reinforge.data.table import Table
from reinforge.data.values import Encoded, Nulls, label, read_numbers
from reinforge.schema.fields import Category, Number
from reinforge.storage.strict_json import Json

QUANTILES = tuple(round(0.05 * i, 2) for i in range(21))
MOST_LABELS = 100


def sketch(table: Table, schema: Any) -> Json:
    """A sketch of every numeric and categorical field that the table has: {"rows", "fields": {name: ...}}."""
    fields: dict[str, Json] = {}
    nulls = Nulls.of(schema.nulls)
    columns = table.plain(schema)
    for field in schema.fields:
        if field.name not in columns:
            continue
        column = columns[field.name]
        if isinstance(field, Number):
            fields[field.name] = numbers(read_numbers(column, field.name, nulls, table.origin))
        elif isinstance(field, Category):
            values = [column.values[code] for code in column.codes] if isinstance(column, Encoded) else list(column)
            fields[field.name] = labels(label(value, nulls) for value in values)
    return {"rows": len(table), "fields": fields}


def numbers(values: np.ndarray[Any, Any]) -> Json:
    """Counts, moments and 21 quantiles of (n,) numbers; NaN is missing."""
    there = values[np.isfinite(values)].astype(np.float64)
    found: dict[str, Json] = {"kind": "number", "count": int(values.size), "missing": int(values.size - there.size)}
    if there.size:
        found |= {"mean": float(there.mean()), "deviation": float(there.std())}
        found["quantiles"] = [float(q) for q in np.quantile(there, QUANTILES)]
    return found


def labels(values: Iterable[str | None]) -> Json:
    """Counts of the hundred most frequent labels, and of all others together."""
    counts = Counter(values)
    missing = counts.pop(None, 0)
    top = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0] or ""))[:MOST_LABELS])
    total = sum(counts.values())
    rest = total - sum(top.values())
    return {"kind": "category", "count": total + missing, "missing": missing, "labels": top, "others": rest}
