"""reference.json: small sketches of the training data per field, against which drift is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from reinforge.data.operations.dates import DAY, MISSING, read_moments
from reinforge.data.operations.labels import label_set
from reinforge.data.table import Table
from reinforge.data.values import Nulls, label, read_list, read_numbers
from reinforge.schema.fields import Category, Date, Labels, Number, Vector, sources
from reinforge.storage.strict_json import Json

QUANTILES = tuple(round(0.05 * i, 2) for i in range(21))
MOST_LABELS = 100


def sketch(table: Table, schema: Any) -> Json:
    """A sketch of the table's numbers, dates (as days since 1970), categories and sets of labels: {"rows", "fields":
    {name: ...}}."""
    fields: dict[str, Json] = {}
    nulls = Nulls.of(schema.nulls)
    columns = table.plain(schema)
    for field in schema.fields:
        if any(name not in columns for name in sources(field)):
            continue
        match field:
            case Number():
                fields[field.name] = numbers(read_numbers(columns[field.name], field.name, nulls, table.origin))
            case Vector():
                for name in field.columns:
                    fields[name] = numbers(read_numbers(columns[name], name, nulls, table.origin))
            case Date():
                moments = read_moments(columns[field.name], field, nulls, table.origin)
                fields[field.name] = numbers(np.where(moments == MISSING, np.nan, moments / DAY))
            case Category():
                fields[field.name] = labels(
                    read_list(columns[field.name], field.name, partial(label, nulls=nulls), table.origin)
                )
            case Labels() if not field.columns:
                read = partial(label_set, nulls=nulls, separator=field.separator)
                sets = read_list(columns[field.name], field.name, read, table.origin)
                fields[field.name] = labels(text for found in sets for text in (found or (None,)))
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
