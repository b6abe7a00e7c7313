"""Seconds of `evaluate` on a million labelled rows: ours beside scikit-learn's metrics of the same outputs.

Ours reads a frame, prepares it, asks the model, measures eleven metrics and gives each its bootstrap interval; the peer
is handed the probabilities and only measures the same metrics, of which it has ten, without intervals. Both are
compared before anything is timed. Every figure is the median of interleaved runs.

    python -m benchmarks.evaluation [--rows 1000000] [--runs 3]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import sklearn
import torch
from sklearn import metrics as peer

import reinforge
from reinforge.bundle.bundle import Bundle
from reinforge.bundle.task import Reading
from reinforge.workflow.evaluate import evaluate


def frame(rows: int, seed: int) -> pl.DataFrame:
    """Eight numbers, a category of four labels, and a target of two classes."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(rows, 8))
    yes = x[:, 0] + x[:, 1] * x[:, 2] + draw.normal(size=rows) > 0
    columns = {f"x{i}": x[:, i] for i in range(8)}
    group = np.array(["a", "b", "c", "d"])[draw.integers(0, 4, rows)]
    return pl.DataFrame({**columns, "group": group, "y": np.where(yes, "yes", "no")})


def by_scikit_learn(truth: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Its metrics of the truth (rows,) and the probability of "yes" (rows,)."""
    said = (p >= 0.5).astype(np.int64)
    return {
        "accuracy": peer.accuracy_score(truth, said),
        "balanced-accuracy": peer.balanced_accuracy_score(truth, said),
        "precision": peer.precision_score(truth, said, average="macro"),
        "recall": peer.recall_score(truth, said, average="macro"),
        "f1": peer.f1_score(truth, said, average="macro"),
        "matthews": peer.matthews_corrcoef(truth, said),
        "roc-auc": peer.roc_auc_score(truth, p),
        "average-precision": peer.average_precision_score(truth, p),
        "log-loss": peer.log_loss(truth, p),
        "brier": peer.brier_score_loss(truth, p),
    }


def probabilities(bundle: Bundle, data: pl.DataFrame) -> np.ndarray:
    """Of "yes", by the bundle."""
    parts = []
    for start in range(0, len(data), 100_000):
        inputs = bundle.form.table_inputs(data[start : start + 100_000])
        with torch.inference_mode():
            logits = bundle.forward(inputs)["y"].double() / bundle.task.outputs.get("y", Reading()).temperature
        parts.append(logits.softmax(1)[:, 1].numpy())
    return np.concatenate(parts)


def main() -> int:
    """Compare, time, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = reinforge.train(
            data=frame(4000, 0), target="y", output=Path(folder) / "run",
            overrides=["learn.stop.epochs=5", "evaluate.threshold=none", "evaluate.baselines=false"],
        )  # fmt: skip
        bundle = run.bundle
    data = frame(asked.rows, 1)
    truth, p = (data["y"] == "yes").to_numpy().astype(np.int64), probabilities(bundle, data)
    first, stated = evaluate(bundle, data), by_scikit_learn(truth, p)
    for name, value in stated.items():
        if abs(first[name] - value) > 1e-5:
            print(f"{name}: {first[name]} here, {value} by scikit-learn", file=sys.stderr)
            return 1
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(asked.runs):
        for name, work in (("ours", lambda: evaluate(bundle, data)), ("peer", lambda: by_scikit_learn(truth, p))):
            began = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - began)
    ours, theirs = (statistics.median(times[name]) for name in ("ours", "peer"))
    spread = {name: f"{min(values):.2f} to {max(values):.2f} s" for name, values in times.items()}
    print(f"{asked.rows:,} rows, {len(first['intervals'])} metrics with intervals; {platform.processor() or 'cpu'}")
    print(
        f"evaluate {ours:.2f} s ({spread['ours']}); scikit-learn {sklearn.__version__}'s metrics alone {theirs:.2f} s"
    )
    print(json.dumps({"name": "evaluation", "ratio": theirs / ours, "ours": ours, "peer": theirs, "unit": "s"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
