"""From a head's output to predictions as JSON can say them; null stands for what is no finite number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reinforge.bundle.task import Reading
from reinforge.core.ragged import Ragged
from reinforge.data.blocks import TokensBlock
from reinforge.data.operations.spans import offsets

Prediction = dict[str, Any]  # by output; JSON values


def labelled(logits: Tensor, labels: Sequence[str], reading: Reading) -> list[Prediction]:
    """{"label", "probabilities"} of logits (rows, classes)."""
    probabilities = (logits.float() / reading.temperature).softmax(-1)
    if reading.threshold is None or len(labels) != 2:
        chosen = probabilities.argmax(-1)
    else:
        chosen = (probabilities[:, 1] >= reading.threshold).long()
    # Logits that are too large for their type have no softmax: then nothing is known, and no label is made up.
    return [
        {"label": labels[index], "probabilities": dict(zip(labels, row))}
        if math.isfinite(row[0])
        else {"label": None, "probabilities": dict.fromkeys(labels)}
        for index, row in zip(chosen.tolist(), probabilities.tolist())
    ]


def label_sets(logits: Tensor, labels: Sequence[str], reading: Reading) -> list[Prediction]:
    """{"labels", "probabilities"} of logits (rows, labels): each label by itself."""
    thresholds = reading.thresholds or (0.5,) * len(labels)
    rows = (logits.float() / reading.temperature).sigmoid().tolist()
    return [
        {
            "labels": [label for label, p, least in zip(labels, row, thresholds) if p >= least],
            "probabilities": {label: finite(p) for label, p in zip(labels, row)},
        }
        for row in rows
    ]


def numbers(values: np.ndarray[Any, Any]) -> list[Prediction]:
    """{"value"} of (rows,)."""
    return [{"value": finite(value)} for value in values.tolist()]


def vectors(values: np.ndarray[Any, Any], names: Sequence[str]) -> list[Prediction]:
    """{"value": {name: number}} of (rows, names)."""
    return [{"value": {name: finite(value) for name, value in zip(names, row)}} for row in values.tolist()]


def spans(tokens: Tensor, texts: Ragged, block: TokensBlock) -> list[Prediction]:
    """{"span": [start, end], "text"} of first and last tokens (rows, 2), by the characters of their texts."""
    found: list[Prediction] = []
    for row, (first, last) in enumerate(tokens.tolist()):
        text = decoded(texts.row(row))
        places = offsets(block.tokenizer, text, block.field.length)
        known = 0 <= first <= last < len(places)
        start, end = (int(places[first, 0]), int(places[last, 1])) if known else (0, 0)
        found.append({"span": [start, end], "text": text[start:end]} if known else {"span": None, "text": None})
    return found


def encoded(texts: Sequence[str]) -> Ragged:
    """Texts as code points: Ragged int32."""
    raw = [np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.int32) for text in texts]
    return Ragged.from_rows([torch.from_numpy(points.copy()) for points in raw])


def decoded(points: Tensor) -> str:
    """The text of (characters,) code points."""
    return points.numpy().astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def finite(value: float) -> float | None:
    """The value, or None where it is NaN or infinite."""
    return value if math.isfinite(value) else None
