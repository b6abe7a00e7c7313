"""Steps per second of environments: copies written together, and copies in processes, each beside Gymnasium's own way.

    python -m benchmarks.environments [--rounds 7] [--seconds 0.5]

`grid world`: 256 copies of `reinforge/GridWorld-v0` as one vector, beside the same environment in Gymnasium's
SyncVectorEnv (64 copies, which is kinder to it); bare, and through the adapter that checks every observation and takes
the end of every episode. `processes`: HalfCheetah-v5 in 8 copies, `vectorization: processes` beside AsyncVectorEnv with
its shared memory. Actions are drawn ahead. Rounds alternate; figures are medians over rounds, with their range. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from reinforge.environments.build import build
from reinforge.environments.catalogue import register_own
from reinforge.environments.options import EnvironmentOptions

GRID = "reinforge/GridWorld-v0"
CHEETAH = "HalfCheetah-v5"


def rate(step: Callable[[Any], object], actions: Any, seconds: float) -> float:
    """Environment steps per second of `step`, over and over the actions (time, n, ...), for so many seconds."""
    done, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        for action in actions:
            step(action)
        done += actions.shape[0] * actions.shape[1]
    return done / spent


def grid_world(seconds: float, options: dict[str, Any]) -> tuple[dict[str, Callable[[], float]], str, str]:
    """What to measure of the grid world."""
    register_own()
    generator = np.random.default_rng(0)
    bare = gym.make_vec(GRID, num_envs=256, **options)
    bare.reset(seed=0)
    adapted = build(EnvironmentOptions(id=GRID, count=256, options=options), seed=0)
    adapted.reset()
    peer = SyncVectorEnv([lambda: gym.make(GRID, disable_env_checker=True, **options)] * 64)
    peer.reset(seed=0)
    many, few = generator.integers(4, size=(100, 256)), generator.integers(4, size=(4, 64))
    measured = {
        "bare": lambda: rate(bare.step, many, seconds),
        "ours": lambda: rate(adapted.step, many, seconds),
        "peer": lambda: rate(peer.step, few, seconds),
    }
    return measured, f"grid world {options or 'whole'}", "SyncVectorEnv"


def processes(seconds: float) -> tuple[dict[str, Callable[[], float]], str, str]:
    """What to measure of copies in processes."""
    ours = build(EnvironmentOptions(id=CHEETAH, count=8, vectorization="processes"), seed=0)
    ours.reset()
    peer = AsyncVectorEnv([lambda: gym.make(CHEETAH, disable_env_checker=True)] * 8)
    peer.reset(seed=0)
    one = build(EnvironmentOptions(id=CHEETAH, count=8), seed=0)
    one.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 8, 6)).astype(np.float32)
    measured = {
        "one process": lambda: rate(one.step, actions, seconds),
        "ours": lambda: rate(ours.step, actions, seconds),
        "peer": lambda: rate(peer.step, actions, seconds),
    }
    return measured, "processes, HalfCheetah-v5, 8 copies", "AsyncVectorEnv"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5)
    given = parser.parse_args()
    print(
        f"Python {platform.python_version()}, numpy {np.__version__}, gymnasium {gym.__version__}, {platform.machine()}"
    )
    rows = []
    for measured, name, other in (
        grid_world(given.seconds, {}),
        grid_world(given.seconds, {"view": 5}),
        grid_world(given.seconds, {"observe": "cell", "level": 0}),
        processes(given.seconds),
    ):
        found: dict[str, list[float]] = {key: [] for key in measured}
        for _ in range(given.rounds):
            for key, run in measured.items():
                found[key].append(run())
        middle = {key: statistics.median(values) for key, values in found.items()}
        print(f"\n{name}")
        for key, values in found.items():
            title = other if key == "peer" else key
            print(f"  {title:<16} {middle[key]:>12,.0f} steps/s   {min(values):,.0f} to {max(values):,.0f}")
        ratio = middle["ours"] / middle["peer"]
        print(f"  ours / {other}: {ratio:.2f}")
        rows.append({"name": name, "ratio": ratio, **middle, "unit": "steps/s"})
    print(json.dumps({"name": "environments", "rows": rows}))


if __name__ == "__main__":
    main()
