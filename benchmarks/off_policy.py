"""SAC and TD3 on HalfCheetah-v5, environment steps per second with equal networks: ours beside Stable-Baselines3, one
thread.

Networks of 256-256, batches of 256, one update per environment step, after the same random steps. Two runs of each, of
different length, are subtracted: what begins and ends a run is in neither figure. Ours steps 4 copies together and does
their 4 updates after (the same updates per step); the peer steps one, as its preset does.

    python -m benchmarks.off_policy [--steps 2000] [--rounds 3] [--precision fp32 bf16] [--compile off]

Ours is measured in each precision: bf16 has bf16 weights beside fp32 masters. Beside wall time it states the CPU's,
which neighbours on the machine disturb less.
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
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

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


class Spent(NamedTuple):
    """Seconds of wall time and of CPU."""

    wall: float
    cpu: float


def _now() -> Spent:
    return Spent(time.perf_counter(), time.process_time())


def ours(kind: str, precision: str, compiled: str, steps: int) -> Spent:
    """What a run of so many environment steps takes."""
    with tempfile.TemporaryDirectory() as folder:
        began = _now()
        overrides = [f"{key}={value}" for key, value in EVERY.items()]
        overrides += [f"learn.stop.steps={steps}", f"learn.precision={precision}", f"learn.compile={compiled}"]
        reinforge.train("halfcheetah-sac", [*OURS[kind], *overrides], output=Path(folder) / "run")
        return _since(began)


def _since(began: Spent) -> Spent:
    now = _now()
    return Spent(now.wall - began.wall, now.cpu - began.cpu)


def peer(kind: str, steps: int) -> Spent:
    """The same of the peer."""
    import stable_baselines3 as sb3

    began = _now()
    make = {"sac": sb3.SAC, "td3": sb3.TD3}[kind]
    more = {"policy_kwargs": {"net_arch": [256, 256]}, "batch_size": 256, "train_freq": 1, "gradient_steps": 1}
    model = make("MlpPolicy", "HalfCheetah-v5", learning_starts=START, buffer_size=100_000, device="cpu", **more)
    model.learn(steps)
    return _since(began)


def rate(run: Callable[[int], Spent], steps: int) -> Spent:
    """Environment steps per second, of wall time and of CPU, between two lengths of a run."""
    short, whole = run(SHORT), run(SHORT + steps)
    return Spent(steps / (whole.wall - short.wall), steps / (whole.cpu - short.cpu))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=("fp32", "bf16"))
    parser.add_argument("--kinds", nargs="+", default=["sac", "td3"], choices=("sac", "td3"))
    parser.add_argument("--compile", default="off", choices=("off", "on"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for kind in arguments.kinds:
        trials: dict[str, Callable[[int], Spent]] = {
            precision: partial(ours, kind, precision, arguments.compile) for precision in arguments.precision
        }
        trials["peer"] = partial(peer, kind)
        found: dict[str, list[Spent]] = {name: [] for name in trials}
        for _ in range(arguments.rounds):
            # Interleaved, so that all meet the same machine.
            for name, run in trials.items():
                found[name].append(rate(run, arguments.steps))
        medians = {
            name: Spent(statistics.median(t.wall for t in values), statistics.median(t.cpu for t in values))
            for name, values in found.items()
        }
        theirs = medians["peer"]
        for precision in arguments.precision:
            mine = medians[precision]
            ratio = round(mine.wall / theirs.wall, 2)
            print(
                f"{kind} in {precision}: ours {mine.wall:.0f} steps/s, peer {theirs.wall:.0f} steps/s: {ratio}x; "
                f"per second of CPU {mine.cpu:.0f} and {theirs.cpu:.0f}: {mine.cpu / theirs.cpu:.2f}x",
                flush=True,
            )
            row = {"name": f"off-policy/{kind}/{precision}", "ratio": ratio, "unit": "steps/s", "bar": 2.0}
            row |= {"ratio_cpu": round(mine.cpu / theirs.cpu, 2)}
            rows.append({**row, "ours": round(mine.wall, 1), "peer": round(theirs.wall, 1)})
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "gymnasium", "stable-baselines3", "mujoco"))
    print(f"{versions}, python {platform.python_version()} | 1 thread | {platform.processor()}")
    print("python -m benchmarks.off_policy " + " ".join(sys.argv[1:]))
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
