"""PPO on CartPole-v1, 100,000 steps with equal hyperparameters: ours beside Stable-Baselines3, one thread.

Ours is the recipe `cartpole-ppo` through `reinforge.train`, bundle and report included, with the peer's weight of the
value's loss (its 0.5 of the square is our 1 of half the square); theirs the CartPole preset of
rl-baselines3-zoo (8 environments, 32 steps, one minibatch of 256, 20 epochs), saved at the end. Solved is a seed whose
artifact has a greedy mean of at least 475 over 100 fresh episodes.

    python -m benchmarks.ppo [--seeds 5] [--peer-seeds 5] [--compile]

Beside wall time it states the seconds of CPU, which neighbours on the machine disturb less.
Compiled, the first run of a machine pays for compilation (cold), later ones take it from the cache (warm): both are
stated, in a cache of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import reinforge
from benchmarks.dqn import FRESH, SOLVED, mean_return

STEPS = 100_000


class Trial(NamedTuple):
    """Seconds of wall time and of CPU to the artifact, and its greedy mean when it is loaded again."""

    seconds: float
    cpu: float
    score: float


def ours(seed: int, compiled: str, steps: int = STEPS) -> Trial:
    """A run to its bundle."""
    with tempfile.TemporaryDirectory() as folder:
        began, worked = time.perf_counter(), time.process_time()
        overrides = [f"seed={seed}", f"learn.compile={compiled}", f"learn.stop.steps={steps}",
                     "objective.value_weight=1"]  # fmt: skip
        run = reinforge.train("cartpole-ppo", overrides, output=Path(folder) / "run")
        seconds, cpu = time.perf_counter() - began, time.process_time() - worked
        model = reinforge.load(run.bundle_path).model

        def act(observation: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            with torch.inference_mode():
                outputs, _ = model({"observation": torch.from_numpy(observation)})
            return outputs["action"].argmax(-1).numpy()

        return Trial(seconds, cpu, mean_return(act, FRESH + seed))


def peer(seed: int, steps: int = STEPS) -> Trial:
    """A run to the saved model."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    with tempfile.TemporaryDirectory() as folder:
        began, worked = time.perf_counter(), time.process_time()
        model = PPO(
            "MlpPolicy", make_vec_env("CartPole-v1", 8, seed=seed), n_steps=32, batch_size=256, n_epochs=20,
            gae_lambda=0.8, gamma=0.98, ent_coef=0.0, learning_rate=lambda left: left * 1e-3,
            clip_range=lambda left: left * 0.2, seed=seed, device="cpu", verbose=0,
        )  # fmt: skip
        model.learn(steps)
        model.save(Path(folder) / "model")
        seconds, cpu = time.perf_counter() - began, time.process_time() - worked

    def act(observation: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.asarray(model.predict(observation, deterministic=True)[0])

    return Trial(seconds, cpu, mean_return(act, FRESH + seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peer-seeds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="measure the compiled engine too, cold and warm")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ours(10_000, "off", 2_000)  # imports and first calls
    peer(10_000, 2_000)
    trials: dict[str, list[Trial]] = {"ours": [], "peer": []}
    if arguments.compile:
        trials |= {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for seed in range(arguments.seeds):
            # Interleaved, so that all meet the same machine.
            for name in ("ours", "peer", "compiled") if arguments.compile else ("ours", "peer"):
                if name == "peer" and seed >= arguments.peer_seeds:
                    continue
                found = peer(seed) if name == "peer" else ours(seed, "off" if name == "ours" else "on")
                if name == "compiled":
                    name = "warm" if seed else "cold"
                trials[name].append(found)
                print(
                    f"{name} seed {seed}: {found.seconds:.2f} s, CPU {found.cpu:.2f} s, return {found.score:.1f}",
                    flush=True,
                )
                torch.compiler.reset()
    medians = {name: statistics.median(t.seconds for t in found) for name, found in trials.items() if found}
    cpu = {name: statistics.median(t.cpu for t in found) for name, found in trials.items() if found}
    for name, found in trials.items():
        if found:
            solved, most = sum(t.score >= SOLVED for t in found), sum(t.score >= 499.5 for t in found)
            print(
                f"{name}: median {medians[name]:.2f} s, {min(t.seconds for t in found):.2f} to "
                f"{max(t.seconds for t in found):.2f} s; solved {solved}, at 500 {most} of {len(found)}; "
                f"{medians['peer'] / medians[name]:.2f}x the peer, by CPU {cpu['peer'] / cpu[name]:.2f}x"
            )
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "gymnasium", "stable-baselines3"))
    print(f"{versions}, python {platform.python_version()} | 1 thread | {platform.processor()}")
    print("python -m benchmarks.ppo " + " ".join(sys.argv[1:]))
    by_cpu = {"ratio_cpu": round(cpu["peer"] / cpu["ours"], 2)}
    row = {"name": "ppo", "ratio": round(medians["peer"] / medians["ours"], 2), "ours": round(medians["ours"], 2)}
    print(json.dumps({**row, **by_cpu, "peer": round(medians["peer"], 2), "unit": "s", "bar": 3.0}))


if __name__ == "__main__":
    main()
