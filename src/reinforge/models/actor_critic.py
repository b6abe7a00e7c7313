"""A policy with the value of states, for policy gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.models.memory import Memory
from reinforge.models.perceptron import Network, traceable
from reinforge.models.policy import Policy, Result
from reinforge.models.policy_options import ActorCriticOptions
from reinforge.models.quick import Array, Quick, snapshot
from reinforge.schema.signature import Signature

# Scores (rows, size) and values (rows, 1), and what takes the gradients of both back (None: that of scores alone).
_Traced = tuple[Tensor, Tensor, Callable[[Tensor, Tensor | None], None]]


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
        features, state = self.perception.see(inputs, state)
        hidden, state = self._hidden(features, inputs, state)
        value = self.value_head(hidden if self.value_body is None else self.value_body(features)).squeeze(-1)
        return {**self._actions(hidden), "value": value}, state

    def act(self, inputs: Batch, state: Batch | None = None) -> Result:
        """Without the value."""
        features, state = self.perception.see(inputs, state)
        hidden, state = self._hidden(features, inputs, state)
        return self._actions(hidden), state

    def _hidden(self, features: Tensor, inputs: Batch, state: Batch | None) -> tuple[Tensor, Batch | None]:
        hidden = self.body(features)
        if self.memory is None:
            return hidden, state
        start = inputs.get("start")
        held = state if state and "memory" in state else None
        hidden, memory = self.memory(hidden, held, start if isinstance(start, Tensor) else None)
        return hidden, {**(state or {}), **memory}

    def _actions(self, hidden: Tensor) -> dict[str, Tensor]:
        scores = self.policy_head(hidden)
        if self.log_std is None:
            return {"action": scores}
        return {"action": self.scale(scores), "mean": scores, "log_std": self.log_std.float().expand_as(scores)}

    @property
    def traceable(self) -> bool:
        """Whether `trace` can be used: no state, nothing that learns before the layers, known activations."""
        known = traceable([self.body, self.value_body, self.policy_head, self.value_head])
        return known and self.plain and self.memory is None and self.output.form != "multi-discrete"

    def trace(
        self, features: Tensor
    ) -> tuple[dict[str, Tensor], Callable[[Tensor, Tensor | None, Tensor | None], None]]:
        """What `forward` gives for what perception made of observations (rows, features), and what takes the gradients
        of "action" or "mean", of "value" and of "log_std" back, into the .grad of the weights."""
        scores, value, back = self._apart(features) if self.value_body is not None else self._shared(features)
        outputs = {"action": scores, "value": value.squeeze(-1)}
        if self.log_std is not None:
            outputs |= {"action": self.scale(scores), "mean": scores, "log_std": self.log_std.float().expand_as(scores)}

        def pull(policy: Tensor, judged: Tensor | None, widths: Tensor | None) -> None:
            back(policy, None if judged is None else judged.unsqueeze(-1))
            if widths is not None and self.log_std is not None and self.log_std.grad is not None:
                self.log_std.grad.add_(widths.sum(0))

        return outputs, pull

    def _apart(self, features: Tensor) -> _Traced:
        assert self.value_body is not None
        scores, pull_scores = self.body.trace(features, then=self.policy_head)
        value, pull_value = self.value_body.trace(features, then=self.value_head)

        def back(policy: Tensor, judged: Tensor | None) -> None:
            pull_scores(policy)
            if judged is not None:
                pull_value(judged)

        return scores, value, back

    def _shared(self, features: Tensor) -> _Traced:
        hidden, pull_body = self.body.trace(features)
        scores, pull_scores = self.policy_head.trace(hidden, inward=True)
        value, pull_value = self.value_head.trace(hidden, inward=True)

        def back(policy: Tensor, judged: Tensor | None) -> None:
            inner = pull_scores(policy)
            assert inner is not None
            if judged is not None:
                outer = pull_value(judged)
                assert outer is not None
                inner = inner + outer
            pull_body(inner)

        return scores, value, back

    def quick(self, rows: int) -> Quick | None:
        """In NumPy, for small layers without anything that learns or is remembered before them."""
        if not self.plain or self.memory is not None or self.output.form == "multi-discrete":
            return None
        run = snapshot([self.body, self.policy_head], rows)
        if run is None:
            return None
        perception, std = self.perception, None if self.log_std is None else self.log_std.detach().exp().numpy()
        only = perception.only

        def features(observation: Mapping[str, Array]) -> Array:
            if only is not None and observation[only].dtype == np.float32:
                return observation[only]
            with torch.no_grad():
                seen = perception({name: torch.from_numpy(array) for name, array in observation.items()})
            found: Array = seen.float().numpy()
            return found

        def act(observation: Mapping[str, Array], noise: Array) -> Array:
            scores = run(features(observation))
            # As `Policy.sample` has it.
            action: Array = (scores + noise).argmax(-1) if std is None else scores + std * noise
            return action

        return act

    def acting(self) -> list[nn.Parameter]:
        """All but what gives values alone."""
        alone = {id(p) for part in (self.value_head, self.value_body) if part is not None for p in part.parameters()}
        return [p for p in self.parameters() if id(p) not in alone]

    def initial_state(self, n: int) -> Batch | None:
        """An empty memory, and nothing seen before, for n observations; None where it has no state."""
        memory = {} if self.memory is None else self.memory.initial_state(n)
        return {**memory, **self.perception.initial_state(n)} or None
