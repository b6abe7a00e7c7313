"""From a graph's outputs to predictions, as `Bundle.predict` gives them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reinforge.data.operations.numbers import Log, Scale
from reinforge.edge.description import MEMORY, Description
from reinforge.edge.tokens import Tokens

Array = np.ndarray[Any, Any]
Prediction = dict[str, Any]
Column = Callable[[Array, Mapping[str, Sequence[str]]], list[Prediction]]
# As the heads have it: exp of it is the largest rate that 32 bits hold, nearly.
_LARGEST_LOG = np.float32(88.0)


class Targets:
    """A table's targets, or the one of a tensor: {name: {"label", "probabilities"}}, {"value"}, ..."""

    def __init__(self, description: Description) -> None:
        self.columns = {target.name: _column(target, description) for target in description.readout["targets"]}

    def __call__(self, outputs: Mapping[str, Array], texts: Any) -> list[Prediction]:
        found = {name: read(outputs[name], texts or {}) for name, read in self.columns.items()}
        return [dict(zip(found, row)) for row in zip(*found.values())]


def _column(target: Any, description: Description) -> Column:
    match target.kind:
        case "category":
            return lambda output, _texts: labelled(output, target)
        case "labels":
            return lambda output, _texts: label_sets(output, target)
        case "span":
            (field,) = (f for f in description.reading["others"] if f.name == target.of)
            tokenizer = Tokens(vars(field.tokenizer))
            return lambda output, texts: spans(output, texts[target.of], tokenizer, field.length, target.longest)
        case "count":
            return lambda output, _texts: _values(np.exp(np.minimum(output[:, 0], _LARGEST_LOG)).astype(np.float64))
    steps = [_step(step) for step in target.steps]

    def numbers(output: Array, _texts: object) -> list[Prediction]:
        block = output.astype(np.float64).reshape(len(output), -1)
        for step in reversed(steps):
            block = step.invert(block)
        if target.kind == "number":
            return _values(block[:, 0])
        return [{"value": {n: _finite(v) for n, v in zip(target.columns, row)}} for row in block.tolist()]

    return numbers


def _step(step: Any) -> Log | Scale:
    if step.kind == "log":
        return Log(np.array(step.columns, np.int64))
    return Scale(np.array(step.shift, np.float64), np.array(step.scale, np.float64))


def labelled(logits: Array, target: Any) -> list[Prediction]:
    """{"label", "probabilities"} of logits (rows, classes)."""
    scaled = logits / np.float32(target.temperature)
    with np.errstate(invalid="ignore"):
        raised = np.exp(scaled - scaled.max(-1, keepdims=True))
        probabilities = raised / raised.sum(-1, keepdims=True)
    if target.threshold is None or len(target.labels) != 2:
        chosen = probabilities.argmax(-1)
    else:
        chosen = (probabilities[:, 1] >= np.float32(target.threshold)).astype(np.int64)
    return [
        {"label": target.labels[index], "probabilities": dict(zip(target.labels, row))}
        if math.isfinite(row[0])
        else {"label": None, "probabilities": dict.fromkeys(target.labels)}
        for index, row in zip(chosen.tolist(), probabilities.tolist())
    ]


def label_sets(logits: Array, target: Any) -> list[Prediction]:
    """{"labels", "probabilities"} of logits (rows, labels)."""
    thresholds = target.thresholds or (0.5,) * len(target.labels)
    with np.errstate(over="ignore"):
        rows = (1 / (1 + np.exp(-(logits / np.float32(target.temperature))))).tolist()
    return [
        {
            "labels": [label for label, p, least in zip(target.labels, row, thresholds) if p >= least],
            "probabilities": {label: _finite(p) for label, p in zip(target.labels, row)},
        }
        for row in rows
    ]


def spans(
    logits: Array, texts: Sequence[str], tokenizer: Tokens, length: int | None, longest: int | None
) -> list[Prediction]:
    """{"span": [start, end], "text"} of the likeliest first and last token: logits (rows, 2, time)."""
    shifted = logits - logits.max(-1, keepdims=True)
    scores = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    found: list[Prediction] = []
    for row, text in zip(scores, texts):
        (first, last), places = _best(row[0], row[1], longest), tokenizer.offsets(text, length)
        known = 0 <= first <= last < len(places)
        start, end = (places[first][0], places[last][1]) if known else (0, 0)
        found.append({"span": [start, end], "text": text[start:end]} if known else {"span": None, "text": None})
    return found


def _best(first: Array, last: Array, longest: int | None) -> tuple[int, int]:
    """The i <= j < i + longest of greatest first[i] + last[j]."""
    # Of equal starts the last, and with a limit the first: as `models.span.best_span` has it.
    if longest is None or longest >= len(first):
        starts = [end - int(first[end::-1].argmax()) for end in range(len(last))]
    else:
        begins = [max(0, end - longest + 1) for end in range(len(last))]
        starts = [begin + int(first[begin : end + 1].argmax()) for end, begin in enumerate(begins)]
    end = int((first[starts] + last).argmax())
    return starts[end], end


class Actions:
    """A policy's actions, with its memory where it has one."""

    def __init__(self, description: Description) -> None:
        self.action = description.readout["action"]
        self.first = np.array(self.action.first, np.int64)
        self.state = [port.name for port in description.outputs if port.name.startswith(MEMORY)]

    def __call__(self, outputs: Mapping[str, Array], _beside: object) -> list[Prediction]:
        scores = outputs[self.action.output]
        known: Any = np.isfinite(scores).all(-1).tolist()
        match self.action.kind:
            case "discrete":
                chosen = (scores.argmax(-1) + self.first).tolist()
            case "multi-discrete":
                parts = np.split(scores, np.cumsum(self.action.sizes)[:-1], -1)
                chosen = (np.stack([part.argmax(-1) for part in parts], -1) + self.first).tolist()
            case _:
                low, high = (np.array(bound, np.float32) for bound in (self.action.low, self.action.high))
                chosen = np.clip(scores, low, high).tolist()
        actions: list[Prediction] = [{"action": a if ok else None} for a, ok in zip(chosen, known)]
        if self.state:
            held = {_memory(name): outputs[name].tolist() for name in self.state}
            for index, told in enumerate(actions):
                told["memory"] = {name: values[index] for name, values in held.items()}
        return [{"action": told} for told in actions]


def _memory(name: str) -> str:
    return name.removeprefix(MEMORY).removesuffix(" after")


def _values(values: Array) -> list[Prediction]:
    return [{"value": _finite(value)} for value in values.tolist()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
