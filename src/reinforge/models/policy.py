"""Policies: raw observations to values or distributions of actions. Normalising and action scaling are inside.

Every policy gives the head "action": scores whose argmax is the action (discrete; of each choice by itself where there
are several), or the deterministic action itself in the environment's units (continuous). Other heads ("mean",
"log_std", "value") serve learning.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.errors import ComponentError
from reinforge.models.distributions import (
    categorical_entropy,
    categorical_log_prob,
    categorical_sample,
    gaussian_entropy,
    gaussian_log_prob,
)
from reinforge.models.normaliser import Normaliser
from reinforge.models.perception import Perception
from reinforge.models.policy_options import PolicyOptions
from reinforge.models.quick import Quick
from reinforge.schema.signature import Output, Signature

Result = tuple[dict[str, Tensor], Batch | None]


def decode(outputs: Mapping[str, Tensor], output: Output) -> Tensor:
    """The deterministic action in the environment's units: int64 (...) or (..., choices), or float32 (..., size)."""
    action = outputs["action"]
    if output.form == "discrete":
        return action.argmax(-1)
    if output.form == "multi-discrete":
        return torch.stack([scores.argmax(-1) for scores in choices(action, output)], -1)
    return action


def choices(scores: Tensor, output: Output) -> tuple[Tensor, ...]:
    """Scores (..., size) as those of each choice (..., sizes[i])."""
    return torch.split(scores, list(output.sizes), -1)


class Policy(nn.Module):
    """What all policies share: what they see, the kind of action, and how an action is drawn and scaled.

    "Learner space" is what a replay buffer and a log-prob hold: the number of the action (or of each choice), or real
    numbers where [-1, 1] spans the environment's bounds. `stochastic`: whether `sample` explores by itself.
    `parameter_noise`: standard normal numbers per row that its weights' own noise takes, as the input "noise".
    """

    low: Tensor
    high: Tensor
    stochastic = True
    parameter_noise = 0

    def __init__(self, options: PolicyOptions, signature: Signature) -> None:
        super().__init__()
        self.perception = Perception(options, signature)
        self.output = signature.outputs["action"]
        if self.output.form not in ("discrete", "multi-discrete", "continuous"):
            raise ComponentError(f"a policy can't give the form {self.output.form!r}", where="output 'action'")
        self.continuous = self.output.form == "continuous"
        self.register_buffer("low", torch.tensor(self.output.low), persistent=False)
        self.register_buffer("high", torch.tensor(self.output.high), persistent=False)

    @property
    def normalisers(self) -> dict[str, Normaliser]:
        """The running statistics of observations by part; none where the policy does not normalise."""
        return self.perception.statistics()

    @property
    def normalises(self) -> bool:
        """Whether there are statistics to show observations to."""
        return len(self.perception.normalisers) > 0

    def observe(self, moments: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take in the moments of new observations, by part. Called by sources, between rollouts."""
        self.perception.observe(moments)

    def scale(self, action: Tensor) -> Tensor:
        """From learner space, clipped to [-1, 1], to the environment's units: (..., size)."""
        if not self.continuous:
            return action
        return self.low + (action.clamp(-1, 1) + 1) * (0.5 * (self.high - self.low))

    def unscale(self, action: Tensor) -> Tensor:
        """From the environment's units to learner space: (..., size)."""
        if not self.continuous:
            return action
        return (action - self.low) * (2 / (self.high - self.low)) - 1

    def acting(self) -> list[nn.Parameter]:
        """The parameters that actions depend on."""
        return list(self.parameters())

    def noise(self, generator: np.random.Generator, *leading: int) -> Tensor:
        """What `sample` takes, float32 (*leading, size): standard Gumbel noise for choices, otherwise normal noise."""
        shape = (*leading, self.output.size)
        if self.continuous:
            return torch.from_numpy(generator.standard_normal(shape)).to(self.low)
        uniform = generator.random(shape).clip(np.finfo(np.float64).tiny, None)
        return torch.from_numpy(-np.log(-np.log(uniform))).to(self.low.device, torch.float32)

    def sample(self, outputs: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        """An action in learner space, from `noise`."""
        match self.output.form:
            case "discrete":
                return categorical_sample(outputs["action"], noise)
            case "multi-discrete":
                parts = zip(self._choices(outputs["action"]), self._choices(noise))
                return torch.stack([categorical_sample(scores, drawn) for scores, drawn in parts], -1)
        return outputs["mean"] + outputs["log_std"].exp() * noise

    def log_prob(self, outputs: Mapping[str, Tensor], action: Tensor) -> Tensor:
        """The log-probability or log-density of actions in learner space: (...)."""
        match self.output.form:
            case "discrete":
                return categorical_log_prob(outputs["action"], action)
            case "multi-discrete":
                parts = zip(self._choices(outputs["action"]), action.unbind(-1))
                return torch.stack([categorical_log_prob(scores, chosen) for scores, chosen in parts]).sum(0)
        return gaussian_log_prob(outputs["mean"], outputs["log_std"], action)

    def entropy(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """In nats: (...)."""
        match self.output.form:
            case "discrete":
                return categorical_entropy(outputs["action"])
            case "multi-discrete":
                parts = self._choices(outputs["action"])
                return torch.stack([categorical_entropy(scores) for scores in parts]).sum(0)
        return gaussian_entropy(outputs["log_std"])

    def _choices(self, scores: Tensor) -> tuple[Tensor, ...]:
        return choices(scores, self.output)

    @property
    def frames(self) -> int:
        """How many observations it sees at once. Where several, what it sees is to be shown to it at every step."""
        return 1 if self.perception.frames is None else self.perception.frames.count

    @property
    def plain(self) -> bool:
        """Whether nothing that learns, and nothing that was seen before, lies between observations and its layers."""
        return self.frames == 1 and not self.perception.learns

    def act(self, inputs: Batch, state: Batch | None = None) -> Result:
        """What is needed to act: `forward`, where nothing of it can be spared."""
        found: Result = self(inputs, state)
        return found

    def quick(self, rows: int) -> Quick | None:
        """What draws actions for observations of so many rows by the weights as they are now, at less cost than
        `sample`; None where it has no such way."""
        return None

    def initial_state(self, n: int) -> Batch | None:
        """Nothing seen before, for n observations; None where it has no state."""
        return self.perception.initial_state(n) or None

    @cached_property
    def remembers(self) -> bool:
        """Whether it has a state."""
        return self.initial_state(1) is not None
