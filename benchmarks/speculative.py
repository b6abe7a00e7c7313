"""Speculative decoding beside the same model alone, on bundles that were trained: texts one at a time.

    python -m benchmarks.speculative [BUNDLE DRAFT] [--updates N] [--runs N] [--tokens N] [--proposals N ...]

Without bundles it trains a pair on the data of the recipe `poems`, `--updates` each: depth 6, and depth 1 taught by it.
Both write on from the beginnings of eight of the bundle's golden texts, `--tokens` each, at temperature 0 and at 1;
runs are interleaved, figures are medians. At 0 the texts must be the same (in half precision a tie may fall the
other way: how many differ is printed). "ratio" is with the draft to without. `bound` is what the share of accepted
proposals allows where judging costs one step of the model, and the draft nothing. The last line is JSON.
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

import torch

import reinforge
from reinforge.bundle.loading import load
from reinforge.inference.engine import GenerationEngine
from reinforge.inference.requests import Request
from reinforge.inference.sampling import Sampling
from reinforge.inference.speculative import SpeculativeEngine
from reinforge.workflow.generate import writer_of


def trained(folder: Path, updates: int) -> tuple[Path, Path]:
    """A large model, and a small one that it taught."""
    changes = {
        "model": {"kind": "decoder", "depth": 6, "context": 256}, "source.block": 256, "learn.batch": 8,
        "learn.stop.updates": updates, "evaluate.every": updates,
    }  # fmt: skip
    reinforge.train("poems", changes, output=folder / "large")
    taught = {"model.depth": 1, "objective": {"kind": "distillation", "teacher": str(folder / "large")}}
    reinforge.train("poems", changes | taught, output=folder / "small")
    return folder / "large", folder / "small"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", metavar="BUNDLE DRAFT")
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--proposals", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processor", action="store_true", help="processor time, which neighbours disturb less")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.processor else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        large, small = arguments.bundles or trained(Path(folder), arguments.updates)
        loaded, (draft, _pipeline) = load(large), writer_of(load(small))
        golden = (loaded.path / "golden.jsonl").read_text("utf-8").splitlines()
    beginnings = [json.loads(line)["row"]["text"] for line in golden[:8]]
    model, pipeline = writer_of(loaded)
    prompts = [tuple(pipeline.opened(text[:24]).tolist()) for text in beginnings]
    engines = {"alone": GenerationEngine(model, slots=1)}
    engines |= {f"{n} proposals": SpeculativeEngine(model, draft, proposals=n, slots=1) for n in arguments.proposals}
    rows = []
    for temperature in (0.0, 1.0):
        took: dict[str, list[float]] = {name: [] for name in engines}
        written: dict[str, list[tuple[int, ...]]] = {}
        for run in range(arguments.runs + 1):
            for name, engine in engines.items():
                engine.flush()
                start = clock()
                found = [
                    engine.run([Request(each, Sampling(arguments.tokens, temperature), run)])[0] for each in prompts
                ]
                if run:
                    took[name].append((clock() - start) / sum(len(each.tokens) for each in found))
                written[name] = [each.tokens for each in found]
        alone = 1 / statistics.median(took["alone"])
        print(f"temperature {temperature:g}: alone {alone:,.0f} tokens/s")
        for name, engine in engines.items():
            if not isinstance(engine, SpeculativeEngine):
                continue
            rate = 1 / statistics.median(took[name])
            share = sum(engine.accepted.values()) / sum(engine.proposed.values())
            bound = 1 + sum(share ** (place + 1) for place in range(engine.proposals))
            other = sum(one != two for one, two in zip(written["alone"], written[name]))
            differ = f", {other} of {len(prompts)} texts differ" if not temperature else ""
            told = f"{share:.0%} accepted (bound {bound:.2f}x){differ}"
            print(f"  {name}: {rate:,.0f} tokens/s, {rate / alone:.2f}x, {told}")
            rows.append({
                "name": f"speculative, temperature {temperature:g}, {name}", "ratio": round(rate / alone, 2),
                "ours": round(rate), "peer": round(alone), "unit": "tokens/s", "accepted": round(share, 3),
            })  # fmt: skip
    sizes = [sum(p.numel() for p in each.parameters()) / 1e6 for each in (model, draft)]
    kind = str(model.embedding.weight.dtype).removeprefix("torch.")
    print(f"{sizes[0]:.1f}M and {sizes[1]:.1f}M parameters, {kind}, {arguments.threads} threads | torch "
          f"{torch.__version__}, python {platform.python_version()}")  # fmt: skip
    print("python -m benchmarks.speculative " + " ".join(sys.argv[1:]))
    print(json.dumps({"name": "speculative", "rows": rows}))


if __name__ == "__main__":
    main()
