"""What a person is asked for when he tries a model: each input with its range, its labels, and a usual value, from the
sketches of the training data. No row of these is ever shown."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from reinforge.bundle.bundle import Bundle
from reinforge.schema.fields import Box, Category, Date, Field, Image, Labels, Number, Text, may_be_missing, readers_of
from reinforge.storage.strict_json import Json

_MEDIAN, _LOW, _HIGH = 10, 0, 20
_LARGEST_BOX = 4096


def asked(bundle: Bundle) -> list[Json]:
    """By input: {"name", "kind", "usual", "optional"} and, where they are known, "low", "high", "integer", "labels",
    "shape"."""
    reference = bundle.reference if isinstance(bundle.reference, dict) else {}
    sketches = reference.get("fields", {})
    optional = bundle.schema.absent == "null"
    found: list[Json] = []
    for name, readers in readers_of(bundle.schema.inputs).items():
        may_miss = optional or all(may_be_missing(field) for field in readers)
        sketch = sketches.get(name, {}) if isinstance(sketches, dict) else {}
        found.append({"name": name, "optional": may_miss, **_asked(readers[0], sketch)})
    return found


def example(bundle: Bundle) -> Json:
    """A row of usual values; None where there are none that could be named."""
    row = {one["name"]: one["usual"] for one in asked(bundle)}
    return row if row and all(value is not None for value in row.values()) else None


def _asked(field: Field, sketch: Json) -> dict[str, Json]:
    quantiles = sketch.get("quantiles") if isinstance(sketch, dict) else None
    quantiles = quantiles if isinstance(quantiles, list) and len(quantiles) == _HIGH + 1 else None
    match field:
        case Number():
            low, high = (quantiles[_LOW], quantiles[_HIGH]) if quantiles else (field.low, field.high)
            middle = _rounded(quantiles[_MEDIAN]) if quantiles else 0.0
            usual = round(middle) if field.integer else middle
            return {"kind": "number", "usual": usual, "low": low, "high": high, "integer": field.integer}
        case Category():
            labels = list(field.labels)
            counts = sketch.get("labels") if isinstance(sketch, dict) else None
            common = [*counts, *labels] if isinstance(counts, dict) else labels
            return {"kind": "category", "usual": common[0] if common else None, "labels": labels[:500]}
        case Labels() if field.columns:
            return {"kind": "number", "usual": 0, "low": 0, "high": 1, "integer": True}
        case Labels():
            return {"kind": "labels", "usual": list(field.labels[:1]), "labels": list(field.labels)[:500]}
        case Date():
            day = quantiles[_MEDIAN] if quantiles else 0.0
            moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=math.floor(day))
            return {"kind": "date", "usual": moment.date().isoformat()}
        case Text():
            return {"kind": "text", "usual": None}
        case Image():
            return {"kind": "image", "usual": None}
        case Box():
            size = math.prod(field.shape)
            zeros = _filled(0, field.shape) if size <= _LARGEST_BOX else None
            return {"kind": "box", "usual": zeros, "shape": list(field.shape)}
    return {"kind": "text", "usual": None}


def _rounded(value: float) -> float:
    """To four significant digits: a usual value, and nobody's own."""
    return float(f"{value:.4g}")


def _filled(value: Json, shape: tuple[int, ...]) -> Json:
    for side in reversed(shape):
        value = [value] * side
    return value
