"""Where the time of reinforcement learning goes: CPU time per update by part, of PPO on CartPole-v1 and of SAC and TD3
on HalfCheetah-v5 as `benchmarks.ppo` and `benchmarks.off_policy` run them, on one thread.

    python -m benchmarks.parts [--kinds ppo sac td3] [--precision fp32 rounded bf16] [--updates 400]

"rest" is the engine's own: minibatches, counts, sums of terms, zeroing, the clock, the log.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, ParamSpec, TypeVar

import torch

from reinforge.core.contracts import Clock
from reinforge.engine.loop import Engine
from reinforge.environments.build import signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.models.policy_options import ActorCriticOptions, DeterministicOptions, SquashedGaussianOptions
from reinforge.objectives.options import PPOOptions, SACOptions, TD3Options
from reinforge.recipe.sections import Learn, Stop
from reinforge.registry import REGISTRY
from reinforge.sources.options import ReplayOptions, RolloutOptions

P = ParamSpec("P")
R = TypeVar("R")
CARTPOLE = EnvironmentOptions(id="CartPole-v1", count=8)
CHEETAH = EnvironmentOptions(id="HalfCheetah-v5", count=4)
REPLAY = ReplayOptions(capacity=100_000, learning_starts=500, updates_per_round=4)
WIDE = (256, 256)
PRECISIONS = ("fp32", "rounded", "bf16")
WARM = 40
KINDS: dict[str, tuple[EnvironmentOptions, Any, Any, Any]] = {
    "ppo": (
        CARTPOLE,
        ActorCriticOptions(sizes=(64, 64)),
        PPOOptions(gamma=0.98, gae_lambda=0.8, epochs=20, minibatches=1, value_weight=1.0),
        RolloutOptions(steps=32),
    ),
    "sac": (CHEETAH, SquashedGaussianOptions(sizes=WIDE), SACOptions(critic_sizes=WIDE), REPLAY),
    "td3": (CHEETAH, DeterministicOptions(sizes=WIDE), TD3Options(critic_sizes=WIDE), REPLAY),
}


class Watch:
    """Seconds of CPU by part, since it began."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """From now on."""
        self.seconds: dict[str, float] = defaultdict(float)
        self.began = time.process_time()

    def over(self, part: str, function: Callable[P, R]) -> Callable[P, R]:
        """The function, watched."""

        def watched(*arguments: P.args, **more: P.kwargs) -> R:
            began = time.process_time()
            try:
                return function(*arguments, **more)
            finally:
                self.seconds[part] += time.process_time() - began

        return watched


def engine(kind: str, precision: str, updates: int) -> Engine:
    """As the recipes build it; "rounded" is fp32 with `products: rounded`."""
    environment, model, objective, source = KINDS[kind]
    found = signature(environment)
    torch.manual_seed(0)
    learn = Learn.model_validate(
        {"batch": 256, "lr": 3e-4, "clip": 0.5 if kind == "ppo" else None, "threads": 1,
         "precision": "fp32" if precision == "rounded" else precision,
         "products": "rounded" if precision == "rounded" else "exact", "compile": "off", "stop": Stop(updates=updates)}
    )  # fmt: skip
    return Engine(
        REGISTRY.build("objective", objective, found), REGISTRY.build("model", model, found),
        REGISTRY.build("source", source, environment=environment, seed=0, batch=256), learn=learn, seed=0,
    )  # fmt: skip


def watch(made: Engine) -> Watch:
    """Watch the engine's parts from now on."""
    parts, found = made.updater, Watch()
    made.source.next = found.over("collect", made.source.next)  # type: ignore[method-assign]
    made.objective.prepare = found.over("prepare", made.objective.prepare)  # type: ignore[method-assign]
    made.objective.after_update = _anew(found, made.objective.after_update)  # type: ignore[method-assign]
    parts._apply = found.over("optimise", parts._apply)  # type: ignore[method-assign]
    for step in parts.steps:
        assert step.step.by_hand is not None
        step.step = dataclasses.replace(step.step, by_hand=_both(found, step.step.name, step.step.by_hand))
    return found


def _anew(found: Watch, after: Callable[[Any, Clock], None]) -> Callable[[Any, Clock], None]:
    """First calls, and filling the buffer, are left out."""
    watched = found.over("targets", after)

    def begun(learner: Any, clock: Clock) -> None:
        watched(learner, clock)
        if clock.updates == WARM:
            found.begin()

    return begun


def _both(found: Watch, name: str, by_hand: Callable[..., Any]) -> Callable[..., Any]:
    losses = found.over(f"{name}: loss", by_hand)

    def watched(*arguments: Any) -> Any:
        loss, pull = losses(*arguments)
        return loss, found.over(f"{name}: gradients", pull)

    return watched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=PRECISIONS)
    parser.add_argument("--updates", type=int, default=400)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for kind in arguments.kinds:
        for precision in arguments.precision:
            made = engine(kind, precision, WARM + arguments.updates)
            found = watch(made)
            made.run()
            total = time.process_time() - found.began
            parts = {**found.seconds, "rest": total - sum(found.seconds.values())}
            each = {name: round(seconds / arguments.updates * 1e6) for name, seconds in parts.items()}
            print(f"{kind} in {precision}: {total / arguments.updates * 1e6:.0f} us of CPU per update", flush=True)
            for name, us in sorted(each.items(), key=lambda item: -item[1]):
                print(f"    {name:24} {us:6} us  {us * arguments.updates / total / 1e4:4.1f}%")
            rows.append({"name": f"parts/{kind}/{precision}", "us": each, "unit": "us of CPU per update"})
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "gymnasium", "mujoco"))
    print(f"{versions}, python {platform.python_version()} | 1 thread | {platform.processor()}")
    print("python -m benchmarks.parts " + " ".join(sys.argv[1:]))
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
