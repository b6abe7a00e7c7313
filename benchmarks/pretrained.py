"""What pretraining brings at 200 labelled rows: the recipe text-pretrained beside the same network with new weights.

Both are trained by the same recipe on the same rows, the new network at several multiples of the learning rate, of
which the one with the best figure on the test counts: a choice in its favour. A seed draws rows, split and head.

    python -m benchmarks.pretrained [--seeds 3] [--factors 1 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

import reinforge
from reinforge.recipe import load

RECIPE, METRIC, BAR = "text-pretrained", "accuracy", 0.10
NEW = "model.encoders.text.weights=false"


def accuracy(seed: int, folder: Path, *overrides: str) -> tuple[float, float]:
    """On the test rows; and seconds of training, evaluations counted."""
    quick = ["evaluate.baselines=false", "evaluate.replicates=0", f"seed={seed}"]
    run = reinforge.train(RECIPE, [*quick, *overrides], output=folder)
    return run.metrics[f"test/{METRIC}"], float(run.status["clock"]["seconds"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--factors", type=float, nargs="+", default=[1.0, 5.0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    rate = load(RECIPE).learn.lr
    ours, peer, seconds = [], [], []
    print(f"{'seed':>4} {'pretrained':>11} {'new':>8} {'gap':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(asked.seeds):
            own, took = accuracy(seed, Path(folder) / f"{seed}")
            new = [
                accuracy(seed, Path(folder) / f"{seed}-{factor}", NEW, f"learn.lr={rate * factor}")[0]
                for factor in asked.factors
            ]
            ours, peer, seconds = [*ours, own], [*peer, max(new)], [*seconds, took]
            told = ", ".join(f"{value:.4f} at {factor:g}x" for value, factor in zip(new, asked.factors))
            print(f"{seed:4} {own:11.4f} {max(new):8.4f} {own - max(new):+7.4f}   ({told})", flush=True)
    gap = statistics.mean(ours) - statistics.mean(peer)
    least = min(own - new for own, new in zip(ours, peer))
    print(
        f"mean {statistics.mean(ours):.4f} against {statistics.mean(peer):.4f}: {100 * gap:+.1f} points (least "
        f"{100 * least:+.1f}; at least {100 * BAR:+.0f}): {'met' if least >= BAR else 'missed'}; "
        f"training took {statistics.median(seconds):.1f} s (most {max(seconds):.1f})"
    )
    print(f"torch {torch.__version__}, transformers {transformers.__version__}", end=", ")
    print(f"python {platform.python_version()} | {asked.threads} threads | {platform.processor()}")
    print("python -m benchmarks.pretrained " + " ".join(sys.argv[1:]))
    row = {"name": "pretrained against new weights", "ratio": round(statistics.mean(ours) / statistics.mean(peer), 4)}
    row |= {"ours": round(statistics.mean(ours), 4), "peer": round(statistics.mean(peer), 4), "unit": METRIC}
    print(json.dumps({"name": "pretrained", "rows": [row]}))


if __name__ == "__main__":
    main()
