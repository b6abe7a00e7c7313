"""What a bundle is worth before and after: its quality, its size, its latency."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from reinforge.bundle import golden
from reinforge.bundle.bundle import Bundle
from reinforge.core.batch import rows
from reinforge.edge.description import load
from reinforge.errors import DataError
from reinforge.export.onnx import FILE, to_onnx
from reinforge.export.replay import timed
from reinforge.messages import _
from reinforge.workflow.evaluate import evaluate

# By the last part of a metric's name, the one that decides first. What stands after the first gap is better when low.
HIGH = ("accuracy", "exact-match", "return", "f1", "r2", "macro-f1")
LOW = ("mean-absolute-error", "root-mean-squared-error", "bits-per-byte", "perplexity", "loss")
# Metrics that lie between 0 and 1: a loss in them is told in points of a hundred; of others, relative to what it was.
_SHARES = ("accuracy", "exact-match", "f1", "r2", "macro-f1")
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Judged:
    """`metric`: the name of `quality`. `weights`: bytes of the weights' file, or of the ONNX graph, `bytes`: of the
    whole bundle; `milliseconds`: of the network, or the graph in onnxruntime, for one row, and for 32."""

    metric: str
    quality: float
    weights: int
    bytes: int
    milliseconds: float
    milliseconds_of_32: float


def judged(bundle: Bundle, data: object, episodes: int | None, as_onnx: bool = False) -> Judged:
    """Measure a bundle: on labelled `data`, or on its recipe's own test split or environment; `as_onnx`, size and
    latency of its export, with one thread. Raises DataError, and what `to_onnx` raises."""
    found = evaluate(bundle, data, episodes)
    metric, quality = deciding(found)
    files = bundle.folder.manifest.files if bundle.folder is not None else {}
    whole = sum(f.size for f in files.values())
    if as_onnx:
        return Judged(metric, quality, *_exported(bundle, whole))
    one, many = (_latency(bundle, count) for count in (1, 32))
    return Judged(metric, quality, files[WEIGHTS].size, whole, one, many)


def deciding(found: Mapping[str, object]) -> tuple[str, float]:
    """The metric that a variant is judged by, of all that were measured. Raises DataError where none is known."""
    numbers = {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
    for wanted in (*HIGH, *LOW):
        several = {name: value for name, value in numbers.items() if name.replace(".", "/").split("/")[-1] == wanted}
        if several:
            # Of several outputs their mean.
            return wanted, sum(several.values()) / len(several)
    raise DataError(
        _("nothing was measured that a smaller bundle could be judged by"), where=", ".join(numbers)[:200] or None
    )


def lost(before: Judged, after: Judged) -> float:
    """How much worse it became: of shares the difference, of other metrics relative to what it was; negative where it
    became better."""
    difference = before.quality - after.quality if before.metric in HIGH else after.quality - before.quality
    if before.metric in _SHARES:
        return difference
    return difference / max(abs(before.quality), 1e-12)


def _latency(bundle: Bundle, count: int) -> float:
    """Milliseconds of the network, without reading rows."""
    assert bundle.folder is not None
    records = golden.read(bundle.folder.bytes(golden.NAME, golden.MAX_BYTES))
    given = [records[index % len(records)]["row"] for index in range(count)]
    inputs = bundle.form.inputs(given)
    assert rows(inputs) == count
    with torch.inference_mode():
        return timed(lambda: bundle.forward(inputs), seconds=0.5)


def _exported(bundle: Bundle, whole: int) -> tuple[int, int, float, float]:
    """Bytes of the graph, those of the bundle, and milliseconds of onnxruntime."""
    with tempfile.TemporaryDirectory() as folder:
        there = to_onnx(bundle, Path(folder) / "onnx").folder
        times = load(there).values["latency"]["milliseconds by rows"]["onnxruntime"]
        return sum(f.stat().st_size for f in there.glob(f"{FILE}*")), whole, times["1"], times["32"]
