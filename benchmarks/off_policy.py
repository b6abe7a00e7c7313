"""SAC and TD3 on HalfCheetah-v5, environment steps per second with equal networks: ours beside Stable-Baselines3, one
thread.

Networks of 256-256, batches of 256, one update per environment step, after the same random steps. Both take turns of a
few updates in one process, so that they meet the same machine; what begins and ends a run is in neither figure. Ours
steps 4 copies together and does their 4 updates after (the same updates per step); the peer steps one, as its preset
does. Rounded is fp32 but for what goes into products (`learn.products`), where the processor has AMX or AVX-512 BF16;
in bf16 ours has bf16 weights beside fp32 masters. Medians over the turns, of wall time and of CPU time, which
neighbours on the machine disturb less.

    python -m benchmarks.off_policy [--turns 20] [--precision fp32 rounded bf16] [--kinds sac td3]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
import warnings
from importlib.metadata import version
from typing import Any, NamedTuple

import torch

from benchmarks.parts import PRECISIONS, REPLAY, engine
from reinforge.core.contracts import Clock

# Updates, and so environment steps, of a turn; turns that are not counted.
TURN, WARM = 32, 2


class Spent(NamedTuple):
    """Seconds of wall time and of CPU."""

    wall: float
    cpu: float


def _now() -> Spent:
    return Spent(time.perf_counter(), time.process_time())


def _since(began: Spent) -> Spent:
    now = _now()
    return Spent(now.wall - began.wall, now.cpu - began.cpu)


class Peer:
    """The peer in the middle of its training."""

    def __init__(self, kind: str) -> None:
        import stable_baselines3 as sb3

        self._model = {"sac": sb3.SAC, "td3": sb3.TD3}[kind](
            "MlpPolicy", "HalfCheetah-v5", learning_starts=REPLAY.learning_starts, buffer_size=100_000, device="cpu",
            policy_kwargs={"net_arch": [256, 256]}, batch_size=256, train_freq=1, gradient_steps=1,
        )  # fmt: skip
        self._model.learn(REPLAY.learning_starts)

    def turn(self) -> Spent:
        """So many steps, with an update after each."""
        began = _now()
        # Ours sets what computes products for itself alone: the peer has torch as it comes.
        ours, torch.backends.mkldnn.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision, "none"
        with torch.enable_grad():
            self._model.learn(TURN, reset_num_timesteps=False)
        torch.backends.mkldnn.matmul.fp32_precision = ours
        return _since(began)


def turns(kind: str, precision: str, count: int) -> tuple[list[Spent], list[Spent]]:
    """What each turn took, ours and the peer's."""
    ours: list[Spent] = []
    theirs: list[Spent] = []
    other, made = Peer(kind), engine(kind, precision, TURN * (count + WARM))
    after, began = made.objective.after_update, _now()

    def watched(learner: Any, clock: Clock) -> None:
        nonlocal began
        after(learner, clock)
        if clock.updates % TURN == 0:
            ours.append(_since(began))
            theirs.append(other.turn())
            began = _now()

    made.objective.after_update = watched  # type: ignore[method-assign]
    made.run()
    return ours[WARM:], theirs[WARM:]


def _rate(spent: list[Spent]) -> Spent:
    """Environment steps per second."""
    return Spent(TURN / statistics.median(s.wall for s in spent), TURN / statistics.median(s.cpu for s in spent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--precision", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--kinds", nargs="+", default=["sac", "td3"], choices=("sac", "td3"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = []
    for kind in arguments.kinds:
        for precision in arguments.precision:
            mine, theirs = (_rate(spent) for spent in turns(kind, precision, arguments.turns))
            ratio, by_cpu = round(mine.wall / theirs.wall, 2), round(mine.cpu / theirs.cpu, 2)
            print(
                f"{kind} in {precision}: ours {mine.wall:.0f} steps/s, peer {theirs.wall:.0f}: {ratio}x; per second of "
                f"CPU {mine.cpu:.0f} and {theirs.cpu:.0f}: {by_cpu}x",
                flush=True,
            )
            row = {"name": f"off-policy/{kind}/{precision}", "ratio": ratio, "ratio_cpu": by_cpu, "unit": "steps/s"}
            rows.append({**row, "ours": round(mine.wall, 1), "peer": round(theirs.wall, 1), "bar": 2.0})
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "gymnasium", "stable-baselines3", "mujoco"))
    print(f"{versions}, python {platform.python_version()} | 1 thread | {platform.processor()}")
    print("python -m benchmarks.off_policy " + " ".join(sys.argv[1:]))
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
