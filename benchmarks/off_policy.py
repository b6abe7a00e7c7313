"""SAC and TD3 on HalfCheetah-v5, environment steps per second with equal networks: ours beside Stable-Baselines3, one
thread.

Networks of 256-256, batches of 256, one update per environment step, after the same random steps. Two runs of each, of
different length, are subtracted: what begins and ends a run is in neither figure. Ours steps 4 copies together and does
their 4 updates after (the same updates per step); the peer steps one, as its preset does.

    python -m benchmarks.off_policy [--steps 2000] [--rounds 3] [--precision fp32] [--compile off]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

import reinforge

START, SHORT = 500, 700
EVERY = {
    "source.learning_starts": START, "source.capacity": 100_000, "evaluate.every": 10**6, "evaluate.episodes": 1,
    "evaluate.clip": "false", "learn.threads": 1,
}  # fmt: skip
OURS = {
    "sac": ["objective={kind: sac, critic_sizes: [256, 256]}", "model={kind: squashed-gaussian, sizes: [256, 256]}"],
    "td3": ["objective={kind: td3, critic_sizes: [256, 256]}", "model={kind: deterministic, sizes: [256, 256]}"],
}


def ours(kind: str, steps: int, precision: str, compiled: str) -> float:
    """Seconds of a run of so many environment steps."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        overrides = [f"{key}={value}" for key, value in EVERY.items()]
        overrides += [f"learn.stop.steps={steps}", f"learn.precision={precision}", f"learn.compile={compiled}"]
        reinforge.train("halfcheetah-sac", [*OURS[kind], *overrides], output=Path(folder) / "run")
        return time.perf_counter() - began


def peer(kind: str, steps: int) -> float:
    """The same of the peer."""
    import stable_baselines3 as sb3

    began = time.perf_counter()
    make = {"sac": sb3.SAC, "td3": sb3.TD3}[kind]
    more = {"policy_kwargs": {"net_arch": [256, 256]}, "batch_size": 256, "train_freq": 1, "gradient_steps": 1}
    model = make("MlpPolicy", "HalfCheetah-v5", learning_starts=START, buffer_size=100_000, device="cpu", **more)
    model.learn(steps)
    return time.perf_counter() - began


def rate(run: Callable[[int], float], steps: int) -> float:
    """Environment steps per second between two lengths of a run."""
    short = run(SHORT)
    return steps / (run(SHORT + steps) - short)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--compile", default="off", choices=("off", "on"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for kind in ("sac", "td3"):
        found: dict[str, list[float]] = {"ours": [], "peer": []}
        for _ in range(arguments.rounds):
            # Interleaved, so that both meet the same machine.
            found["ours"].append(
                rate(lambda n, k=kind: ours(k, n, arguments.precision, arguments.compile), arguments.steps)  # type: ignore[misc]
            )
            found["peer"].append(rate(lambda n, k=kind: peer(k, n), arguments.steps))  # type: ignore[misc]
        medians = {name: statistics.median(values) for name, values in found.items()}
        ratio = medians["ours"] / medians["peer"]
        print(
            f"{kind}: ours {medians['ours']:.0f} steps/s, peer {medians['peer']:.0f} steps/s: {ratio:.2f}x", flush=True
        )
        row = {"name": f"off-policy/{kind}", "ratio": round(ratio, 2), "unit": "steps/s", "bar": 2.0}
        rows.append({**row, "ours": round(medians["ours"], 1), "peer": round(medians["peer"], 1)})
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "gymnasium", "stable-baselines3", "mujoco"))
    print(f"{versions}, python {platform.python_version()} | 1 thread | {platform.processor()}")
    print("python -m benchmarks.off_policy " + " ".join(sys.argv[1:]))
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
