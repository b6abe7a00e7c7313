"""DQN on CartPole-v1 to a solved policy: ours beside Stable-Baselines3, one thread, from nothing to a shipped artifact.

Ours is the recipe `cartpole-dqn` through `reinforge.train`, bundle and report included; theirs the CartPole preset of
rl-baselines3-zoo, saved at the end. Both stop at the same goal, a little easier than the recipe's own: a greedy mean of
at least 490 over 100 episodes, looked for in time that counts. (The peer looks every 2,048 environment steps and
through our vectorised episodes, which cost it a tenth of what its own evaluation would.) Solved is a seed whose
artifact has a greedy mean of at least 475 over 100 fresh episodes; another is charged the time of the full budget, at
its own pace.

    python -m benchmarks.dqn [--seeds 10] [--peer-seeds 5]
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
from typing import Any

import numpy as np
import torch

import reinforge
from reinforge.environments.build import build
from reinforge.environments.options import EnvironmentOptions

EPISODES, GOAL, SOLVED = 100, 490.0, 475.0
PEER_STEPS, PEER_EVERY = 50_000, 2_048
BUDGETS = {"ours": 10_000, "peer": PEER_STEPS}  # updates, as the recipe says; environment steps
CARTPOLE = EnvironmentOptions(id="CartPole-v1")
# Apart from all that training and its evaluations draw from.
FRESH = 77_000_000

Act = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


def mean_return(act: Act, seed: int) -> float:
    """The mean return of EPISODES whole episodes, one in each copy of the environment."""
    environments = build(CARTPOLE, seed=seed, count=EPISODES)
    observation = environments.reset()["observation"]
    total, going = np.zeros(EPISODES), np.ones(EPISODES, dtype=np.bool_)
    while going.any():
        step = environments.step(act(observation))
        total += step.reward * going
        going &= ~(step.terminated | step.truncated)
        observation = step.observation["observation"]
    return float(total.mean())


def ours(seed: int) -> tuple[float, float, int]:
    """Seconds to the bundle, the greedy mean of the bundle loaded again, and updates."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        overrides = [f"seed={seed}", f"learn.stop.goal.at_least={GOAL}", "evaluate.clip=false"]
        run = reinforge.train("cartpole-dqn", overrides, output=Path(folder) / "run")
        seconds = time.perf_counter() - began
        model = reinforge.load(run.bundle_path).model

        def act(observation: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            with torch.inference_mode():
                outputs, _ = model({"observation": torch.from_numpy(observation)})
            return outputs["action"].argmax(-1).numpy()

        updates = max(int(row.get("updates", 0)) for row in run.log())
        return seconds, mean_return(act, FRESH + seed), updates


def peer(seed: int) -> tuple[float, float, int]:
    """Seconds to the saved model, its greedy mean, and environment steps."""
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback

    def play(model: DQN, seed: int) -> float:
        return mean_return(lambda observation: np.asarray(model.predict(observation, deterministic=True)[0]), seed)

    class Goal(BaseCallback):
        def _on_step(self) -> bool:
            # To stop ends the rollout before its updates, so the model keeps the weights that were measured.
            due = self.n_calls % PEER_EVERY == 0
            return not due or play(self.model, 1_000_000 * (seed + 1) + self.n_calls) < GOAL  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        model = DQN(
            "MlpPolicy", "CartPole-v1", learning_rate=2.3e-3, batch_size=64, buffer_size=100_000, learning_starts=1000,
            gamma=0.99, target_update_interval=10, train_freq=256, gradient_steps=128, exploration_fraction=0.16,
            exploration_final_eps=0.04, policy_kwargs={"net_arch": [256, 256]}, seed=seed, device="cpu", verbose=0,
        )  # fmt: skip
        model.learn(PEER_STEPS, callback=Goal())
        model.save(Path(folder) / "model")
        seconds = time.perf_counter() - began
        return seconds, play(model, FRESH + seed), model.num_timesteps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--peer-seeds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ours(10_000)  # imports and first calls, which the peer's are spared too
    results: dict[str, list[tuple[float, float, int]]] = {"ours": [], "peer": []}
    for seed in range(max(arguments.seeds, arguments.peer_seeds)):
        # Interleaved, so that both meet the same machine.
        for name, trial, seeds in (("ours", ours, arguments.seeds), ("peer", peer, arguments.peer_seeds)):
            if seed < seeds:
                seconds, score, amount = trial(seed)
                if score < SOLVED:
                    seconds *= max(BUDGETS[name] / amount, 1.0)
                results[name].append((seconds, score, amount))
                unit = "updates" if name == "ours" else "steps"
                print(f"{name} seed {seed}: {seconds:6.2f} s, return {score:6.1f}, {amount} {unit}", flush=True)
    medians = {}
    for name, trials in results.items():
        times = [seconds for seconds, _, _ in trials]
        if not times:
            continue
        medians[name] = statistics.median(times)
        solved = sum(score >= SOLVED for _, score, _ in trials)
        print(
            f"{name}: solved {solved} of {len(trials)}; median {medians[name]:.2f} s,"
            f" {min(times):.2f} to {max(times):.2f} s; worst return {min(score for _, score, _ in trials):.1f}"
        )
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "gymnasium", "stable-baselines3"))
    print(f"{versions}, python {platform.python_version()} | 1 thread | {platform.processor()}")
    print("python -m benchmarks.dqn " + " ".join(sys.argv[1:]))
    ratio = medians["peer"] / medians["ours"] if "peer" in medians else None
    row = {"name": "dqn", "ratio": ratio and round(ratio, 2), "ours": round(medians["ours"], 2)}
    row |= {"peer": round(medians["peer"], 2) if ratio else None, "unit": "s"}
    row["solved"] = sum(score >= SOLVED for _, score, _ in results["ours"])
    print(json.dumps({**row, "bar": 6.0}))


if __name__ == "__main__":
    main()
