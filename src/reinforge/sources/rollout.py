"""On-policy experience: what the newest policy does for a while, used once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from reinforge.core.contracts import Clock, Experience, Outcome, Signal, State
from reinforge.core.seeds import derive
from reinforge.environments.build import build
from reinforge.environments.observations import Observation, put
from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.spaces import Codec
from reinforge.errors import ComponentError
from reinforge.models.policy import Policy
from reinforge.sources.collector import Collector, as_batch, epsilon_at, moments_of, shift
from reinforge.sources.options import RolloutOptions


class RolloutSource:
    """`steps` steps of every environment, one row per environment.

    Columns (n, steps, ...): observation, action (learner space), reward, terminated, truncated, final_observation (what
    each action truly led to), valid (False where the step only began an episode), start (the observation begins one).
    For a policy with memory, `memory` is its state (n, width) before the first step; `extra` holds `sequence`.
    Log-probs and values of the acting pass are not among them: the objective takes its own from the training forward.
    """

    sharded = False

    def __init__(self, options: RolloutOptions, *, environment: EnvironmentOptions, seed: int, batch: int = 0) -> None:
        self.options = options
        own = derive(seed, "collect")
        self.collector = Collector(build(environment, seed=own), own, environment.reward)
        self.exact = self.collector.environments.exact
        self._policy: Policy | None = None
        self._seen: dict[str, Any] | None = None

    def publish(self, learner: nn.Module, clock: Clock) -> None:
        """Act with this learner's model from now on."""
        model = learner.model
        if not isinstance(model, Policy):
            raise ComponentError(
                f"a {type(model).__name__} can't act", remedy="Use a policy as model, actor-critic say."
            )
        self._policy = model

    def next(self, clock: Clock) -> Experience | Signal:
        policy = self._policy
        if policy is None:
            raise ComponentError("no policy was published before the first experience")
        if self._seen is not None:
            # Only now: the last rollout was acted and learned with the statistics that stood before it.
            policy.observe(self._seen)
        collector, steps = self.collector, self.options.steps
        before, columns = collector.steps, _columns(collector, steps)
        memory = {name: value.clone() for name, value in collector.memory.items()}
        noise = policy.noise(collector.generator, steps, collector.count) if policy.stochastic else None
        quick = policy.quick(collector.count)
        for time in range(steps):
            now = (slice(None), time)
            put(columns["observation"], now, collector.observation)
            columns["start"][:, time] = collector.start
            if noise is not None:
                action = collector.sample(policy, noise[time], quick)
            else:
                action = collector.greedy(policy, epsilon_at(self.options.epsilon, collector.steps))
            transition = collector.step(policy, action)
            columns["action"][:, time] = action
            columns["reward"][:, time] = transition.reward
            columns["terminated"][:, time] = transition.terminated
            columns["truncated"][:, time] = transition.truncated
            put(columns["final_observation"], now, transition.final_observation)
            columns["valid"][:, time] = transition.valid
        if policy.normalises:
            self._seen = moments_of(policy, columns["observation"])
        taken = collector.steps - before
        sequence = self.options.sequence or (steps if collector.memory else 1)
        extra = {"sequence": torch.tensor(sequence)}
        if collector.memory:
            columns["memory"] = memory or {name: torch.zeros_like(value) for name, value in collector.memory.items()}
        return Experience(as_batch(columns), samples=taken, steps=taken, extra=extra)

    def feedback(self, experience: Experience, outcome: Outcome) -> None:
        """Nothing to learn from outcomes."""

    def measures(self) -> dict[str, float]:
        """What a line of the log says of the latest episodes and of normalisers."""
        found = self.collector.measures()
        if self._seen is not None and self._policy is not None:
            found["training/shift"] = shift(self._policy, self._seen)
        return found

    def state_dict(self) -> State:
        return {"collector": self.collector.state_dict(), "seen": self._seen}

    def load_state_dict(self, state: State) -> None:
        self.collector.load_state_dict(state["collector"])
        self._seen = state["seen"]


def _columns(collector: Collector, steps: int) -> dict[str, Any]:
    codec, n = collector.environments.codec, collector.count
    columns = {name: np.zeros((n, steps), np.bool_) for name in ("terminated", "truncated", "valid", "start")}
    return {
        "observation": _parts(codec, n, steps),
        "action": np.zeros((n, steps, *codec.action_shape), codec.action_dtype),
        "reward": np.zeros((n, steps), np.float32),
        "final_observation": _parts(codec, n, steps),
        **columns,
    }


def _parts(codec: Codec, n: int, steps: int) -> Observation:
    return {name: np.zeros((n, steps, *block.shape), block.dtype) for name, block in codec.blocks.items()}
