"""A policy with the value of states, for policy gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.models.memory import Memory
from reinforge.models.options import ActorCriticOptions
from reinforge.models.policy import Network, Policy, Result
from reinforge.schema.signature import Signature


class ActorCritic(Policy):
    """A policy and a state value.

    Heads: "action"; "value" (...); for continuous actions also "mean" (..., size) in learner space and "log_std" of the
    same shape. With `memory`, a recurrent cell follows the body: one step for observations (rows, *shape), whole
    sequences for (rows, time, *shape). The input "start" (rows[, time]) bool says which steps begin an episode: with
    empty memory. Policy and value share what they see, where it learns: the encoders.
    """

    def __init__(self, options: ActorCriticOptions, signature: Signature) -> None:
        super().__init__(options, signature)
        sizes = (self.perception.features, *options.sizes)
        self.body = Network(sizes, options.activation, math.sqrt(2), last_active=True)
        self.value_body = None
        if not options.shared and options.memory is None:
            self.value_body = Network(sizes, options.activation, math.sqrt(2), last_active=True)
        self.memory = Memory(options.memory, sizes[-1]) if options.memory else None
        width = self.memory.features if self.memory is not None else sizes[-1]
        self.policy_head = Network((width, self.output.size), options.activation, 0.01)
        self.value_head = Network((width, 1), options.activation, 1.0)
        self.log_std = nn.Parameter(torch.zeros(self.output.size)) if self.continuous else None

    def forward(self, inputs: Batch, state: Batch | None = None) -> Result:
        features = self.perception(inputs)
        hidden = self.body(features)
        if self.memory is not None:
            start = inputs.get("start")
            hidden, state = self.memory(hidden, state, start if isinstance(start, Tensor) else None)
        value = self.value_head(hidden if self.value_body is None else self.value_body(features)).squeeze(-1)
        scores = self.policy_head(hidden)
        if self.log_std is None:
            return {"action": scores, "value": value}, state
        outputs = {"action": self.scale(scores), "value": value, "mean": scores}
        return {**outputs, "log_std": self.log_std.float().expand_as(scores)}, state

    def initial_state(self, n: int) -> Batch | None:
        """An empty memory for n observations; None without one."""
        return None if self.memory is None else self.memory.initial_state(n)
