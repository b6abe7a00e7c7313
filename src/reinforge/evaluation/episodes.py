"""How well a policy acts: whole episodes in environments of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from reinforge.core import seeds
from reinforge.core.contracts import Clock
from reinforge.core.modes import evaluating
from reinforge.environments.build import build, is_native
from reinforge.environments.observations import tensors
from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.vector import Environments
from reinforge.errors import ComponentError
from reinforge.evaluation.seeds import interquartile_mean, stratified
from reinforge.messages import _
from reinforge.models.policy import Policy, decode

_MOST_COPIES = 256
_REPLICATES = 2000


@dataclass(frozen=True)
class Episodes:
    """Returns float64 (n,), lengths int64 (n,) of whole episodes, and what the environment says of their success at
    their last step, float64 (n,), NaN where it says nothing."""

    returns: np.ndarray[Any, Any]
    lengths: np.ndarray[Any, Any]
    successes: np.ndarray[Any, Any]

    def metrics(self) -> dict[str, float]:
        """Mean, interquartile mean, deviation, least and greatest return; mean length; number of episodes; the rate of
        success where environments state it."""
        returns, told = self.returns, self.successes[~np.isnan(self.successes)]
        return {
            "return": float(returns.mean()),
            "return_iqm": float(interquartile_mean(returns)),
            "return_std": float(returns.std()),
            "return_min": float(returns.min()),
            "return_max": float(returns.max()),
            "length": float(self.lengths.mean()),
            "episodes": float(len(returns)),
            **({"success": float(told.mean())} if len(told) else {}),
        }

    def intervals(self) -> dict[str, list[float]]:
        """95% bootstrap intervals over the episodes: [low, high] of the mean return and of its interquartile mean. They
        are about this one policy; how well the algorithm does follows from several seeds."""
        if len(self.returns) < 2:
            return {}
        drawn = np.random.default_rng(0).integers(len(self.returns), size=(_REPLICATES, len(self.returns)))
        mean = np.quantile(self.returns[drawn].mean(-1), [0.025, 0.975]).tolist()
        return {"return": mean, "return_iqm": stratified(self.returns[:, None], replicates=_REPLICATES).tolist()}


def play(
    policy: Policy, environments: Environments, episodes: int, generator: np.random.Generator | None = None
) -> Episodes:
    """Act from the beginning of `environments` until `episodes` whole episodes are done: the best action each time, or
    with a `generator` one drawn from the policy's own distribution.

    Each copy plays a fixed number of episodes, so long ones count as much as short ones. Raises ComponentError where
    the policy has no distribution.
    """
    if generator is not None and not policy.stochastic:
        raise ComponentError(
            _("a policy of action values has no distribution to draw actions from"), where=type(policy).__name__,
            remedy=_("Leave out --stochastic."),
        )  # fmt: skip
    copies = environments.count
    quota = np.full(copies, episodes // copies) + (np.arange(copies) < episodes % copies)
    returns: list[float] = []
    lengths: list[int] = []
    successes: list[float] = []
    total, length = np.zeros(copies), np.zeros(copies, dtype=np.int64)
    observation, start = environments.reset(), np.ones(copies, dtype=np.bool_)
    device, output = policy.low.device, policy.output
    state = policy.initial_state(copies)
    remembers = state is not None
    with torch.inference_mode():
        while len(returns) < episodes:
            inputs = tensors(observation, device)
            if remembers:
                inputs["start"] = torch.from_numpy(start).to(device)
            outputs, state = policy.act(inputs, state)
            action = decode(outputs, output) if generator is None else _drawn(policy, outputs, generator)
            step = environments.step(action.cpu().numpy())
            observation, start = step.observation, step.start
            total += np.where(step.valid, step.reward, 0)
            length += step.valid
            done = step.terminated | step.truncated
            if done.any():
                for index in np.flatnonzero(done & (quota > 0)).tolist():
                    returns.append(float(total[index]))
                    lengths.append(int(length[index]))
                    successes.append(np.nan if step.success is None else float(step.success[index]))
                    quota[index] -= 1
                total[done], length[done] = 0, 0
    return Episodes(np.array(returns), np.array(lengths), np.array(successes))


def _drawn(policy: Policy, outputs: dict[str, torch.Tensor], generator: np.random.Generator) -> torch.Tensor:
    """Actions in the environment's units, drawn from the policy."""
    return policy.scale(policy.sample(outputs, policy.noise(generator, len(outputs["action"]))))


class EpisodeEvaluator:
    """Episodes of the learner's model, with environments and seeds of its own; greedy unless `stochastic`.

    Each evaluation has fresh episodes, given by (seed, name, updates so far); a `seed` apart from training's is the
    caller's part. No global random state is touched.
    """

    def __init__(
        self, environment: EnvironmentOptions, *, episodes: int, seed: int, name: str = "evaluation",
        stochastic: bool = False,
    ) -> None:  # fmt: skip
        self.environment, self.episodes, self.seed, self.name = environment, episodes, seed, name
        self.stochastic = stochastic
        self._environments: Environments | None = None

    def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]:
        """The metrics of `Episodes`, of `learner.model`, or of the learner itself where it is the policy."""
        policy = learner if isinstance(learner, Policy) else learner.model
        assert isinstance(policy, Policy)
        return self.run(policy, str(clock.updates)).metrics()

    def run(self, policy: Policy, which: str) -> Episodes:
        """The episodes called `which`: the same name gives the same episodes."""
        with evaluating(policy), seeds.undisturbed():
            if self._environments is None:
                self._environments = build(self.environment, seed=self.seed, count=self._copies())
            self._environments.reseed(seeds.derive(self.seed, self.name, which))
            generator = np.random.default_rng(seeds.derive(self.seed, self.name, which, "actions"))
            return play(policy, self._environments, self.episodes, generator if self.stochastic else None)

    def _copies(self) -> int:
        # A vectorised environment costs hardly more for a hundred copies; single ones cost by the copy.
        return min(self.episodes, _MOST_COPIES if is_native(self.environment) else self.environment.count)
