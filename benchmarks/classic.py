"""Classic models as tensors beside scikit-learn's own estimators: seconds to fit, to predict many rows, and one.

Both are fitted to the same 4,000 rows of 30 numbers and must say the same before anything is timed. Every figure is the
least of interleaved runs, on one thread.

    python -m benchmarks.classic [--rows 20000] [--runs 5]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable

import numpy as np
import sklearn
import torch

from reinforge.core import seeds
from reinforge.core.batch import Batch
from reinforge.models.classic.classic import Classic
from reinforge.models.classic.estimators import estimator
from reinforge.models.classic.fitting import fit
from reinforge.models.classic.options import (
    BoostingOptions,
    ClassicOptions,
    ForestOptions,
    LinearOptions,
    TreeOptions,
)
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature

COLUMNS, TRAINED = 30, 4000
KINDS: tuple[ClassicOptions, ...] = (
    LinearOptions(), TreeOptions(), ForestOptions(trees=100), BoostingOptions(rounds=100)
)  # fmt: skip
SIGNATURE = Signature(
    inputs={"numbers": Input(form="numbers", shape=(COLUMNS,))}, outputs={"y": Output(form="category", size=2)}
)


def rows(count: int, seed: int) -> Batch:
    """Two classes that sums and products tell apart, and noise."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, COLUMNS, generator=g)
    y = (x[:, 0] - x[:, 1] * x[:, 2] + 0.5 * torch.randn(count, generator=g) > 0).long()
    return {"inputs": {"numbers": x}, "targets": {"y": y}, "valid": {}}


def least(works: tuple[Callable[[], object], Callable[[], object]], runs: int) -> list[float]:
    """The least seconds of each, interleaved."""
    times: list[list[float]] = [[], []]
    for _ in range(runs):
        for found, work in zip(times, works):
            began = time.perf_counter()
            work()
            found.append(time.perf_counter() - began)
    return [min(found) for found in times]


def main() -> int:
    """Compare, time, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    train, held = rows(TRAINED, 0), rows(asked.rows, 1)
    x, y = train["inputs"]["numbers"].numpy(), train["targets"]["y"].numpy()  # type: ignore[index, union-attr, call-overload]
    many = held["inputs"]["numbers"]  # type: ignore[index, call-overload]
    print(f"scikit-learn {sklearn.__version__}, torch {torch.__version__}, {platform.processor() or 'cpu'}")
    print(f"{'':10} {'fit':>17} {f'{asked.rows:,} rows':>19} {'one row':>19}   (ours / scikit-learn)")
    found = []
    for options in KINDS:
        model: Classic = REGISTRY.build("model", options, SIGNATURE)
        peer = estimator(
            options, SIGNATURE.outputs["y"], None, TRAINED, seed=seeds.derive(0, "fit", "y", 0) % 2**32
        )  # fmt: skip
        fit(model, train)
        peer.fit(x, y)
        with torch.inference_mode():
            said = model({"numbers": many})[0]["y"].double().softmax(1).numpy()
            if not np.allclose(said, peer.predict_proba(many.numpy()), atol=1e-5):
                print(f"{options}: other probabilities than scikit-learn's", file=sys.stderr)
                return 1
            fitted = least((lambda m=model: fit(m, train), lambda p=peer: p.fit(x, y)), 2)  # type: ignore[misc]
            batch = least(
                (lambda m=model: m({"numbers": many}), lambda p=peer: p.predict_proba(many.numpy())), asked.runs
            )  # type: ignore[misc]
            one = least(
                (lambda m=model: m({"numbers": many[:1]}), lambda p=peer: p.predict_proba(many[:1].numpy())),
                asked.runs * 20,
            )  # type: ignore[misc]
        kind = str(getattr(options, "kind", ""))
        print(
            f"{kind:10} {fitted[0]:7.3f} / {fitted[1]:5.3f} s {batch[0]:9.3f} / {batch[1]:5.3f} s "
            f"{1e3 * one[0]:8.3f} / {1e3 * one[1]:5.3f} ms"
        )
        found += [
            {"name": f"classic-{kind}-{what}", "ratio": theirs / ours, "ours": ours, "peer": theirs, "unit": "s"}
            for what, (ours, theirs) in (("fit", fitted), ("rows", batch), ("row", one))
        ]
    print(json.dumps({"name": "classic", "rows": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
