"""Policies: raw observations to values or distributions of actions. Normalising and action scaling are inside.

Every policy gives the head "action": scores whose argmax is the action (discrete), or the deterministic action itself
in the environment's units (continuous). Other heads ("mean", "log_std", "value") serve learning.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.core.batch import Batch
from reinforge.errors import ComponentError
from reinforge.models.activations import ACTIVATIONS
from reinforge.models.distributions import categorical_sample
from reinforge.models.normaliser import Normaliser
from reinforge.models.options import ActorCriticOptions, QNetworkOptions, SquashedGaussianOptions
from reinforge.schema.signature import Output, Signature

Result = tuple[dict[str, Tensor], Batch | None]


def decode(outputs: dict[str, Tensor], output: Output) -> Tensor:
    """The deterministic action in the environment's units: int64 (...) or float32 (..., size)."""
    action = outputs["action"]
    return action.argmax(-1) if output.form == "discrete" else action


class Network(nn.Module):
    """A multi-layer perceptron with orthogonal weights and zero biases: (..., sizes[0]) to (..., sizes[-1])."""

    def __init__(self, sizes: tuple[int, ...], activation: str, gain: float, last_active: bool = False) -> None:
        super().__init__()
        pairs = list(pairwise(sizes))
        layers = [nn.Linear(i, o) for i, o in pairs]
        self.layers = nn.ModuleList(layers)
        self.activation = ACTIVATIONS[activation]
        self.last_active = last_active
        for index, layer in enumerate(layers):
            hidden = last_active or index < len(pairs) - 1
            nn.init.orthogonal_(layer.weight, math.sqrt(2) if hidden else gain)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.layers) - 1
        for index, layer in enumerate(cast("Iterable[nn.Linear]", self.layers)):
            x = layer(x.to(layer.weight.dtype))
            if index < last or self.last_active:
                x = self.activation(x)
        return x if self.last_active else x.float()


class Observation(nn.Module):
    """Raw observations as features: boxes flattened, bytes scaled to [0, 1], numbered states as one-hot."""

    def __init__(self, signature: Signature, normalise: bool) -> None:
        super().__init__()
        block = signature.inputs["observation"]
        self.form, self.shape = block.form, block.shape
        self.features = math.prod(block.shape) if block.form == "box" else block.sizes[0]
        self.normaliser = Normaliser(block.shape) if normalise and block.form == "box" else None

    def forward(self, observation: Tensor) -> Tensor:
        """(..., *shape) to (..., features) float32."""
        if self.form == "categories":
            return functional.one_hot(observation.squeeze(-1), self.features).float()
        if self.normaliser is not None:
            observation = self.normaliser(observation.float())
        elif observation.dtype == torch.uint8:
            observation = observation.float() / 255
        return observation if len(self.shape) == 1 else observation.flatten(observation.ndim - len(self.shape))


class Policy(nn.Module):
    """What all policies share: the observation's features, the kind of action, and how an action is drawn and scaled.

    "Learner space" is what a replay buffer and a log-prob hold: the number of the action, or real numbers where [-1, 1]
    spans the environment's bounds.
    """

    low: Tensor
    high: Tensor

    def __init__(self, signature: Signature, normalise: bool) -> None:
        super().__init__()
        self.observation = Observation(signature, normalise)
        self.output = signature.outputs["action"]
        if self.output.form not in ("discrete", "continuous"):
            raise ComponentError(f"a policy can't give the form {self.output.form!r}", where="output 'action'")
        self.discrete = self.output.form == "discrete"
        self.register_buffer("low", torch.tensor(self.output.low), persistent=False)
        self.register_buffer("high", torch.tensor(self.output.high), persistent=False)

    @property
    def normaliser(self) -> Normaliser | None:
        """The running statistics of observations, where the policy has them."""
        return self.observation.normaliser

    def scale(self, action: Tensor) -> Tensor:
        """From learner space, clipped to [-1, 1], to the environment's units: (..., size)."""
        if self.discrete:
            return action
        return self.low + (action.clamp(-1, 1) + 1) * (0.5 * (self.high - self.low))

    def noise_shape(self) -> tuple[int, ...]:
        """Per action: uniform noise for discrete actions, standard normal noise for continuous ones."""
        return (self.output.size,)

    def sample(self, outputs: dict[str, Tensor], noise: Tensor) -> Tensor:
        """An action in learner space from noise (..., *noise_shape())."""
        if self.discrete:
            return categorical_sample(outputs["action"], noise)
        return outputs["mean"] + outputs["log_std"].exp() * noise

    def initial_state(self, n: int) -> Batch | None:
        """None: no memory."""
        return None


class QNetwork(Policy):
    """The value of each discrete action: heads {"action": (..., actions)}."""

    def __init__(self, options: QNetworkOptions, signature: Signature) -> None:
        super().__init__(signature, options.normalise)
        if not self.discrete:
            raise ComponentError(
                "a Q-network needs discrete actions", remedy="Use the model squashed-gaussian with sac."
            )
        sizes = (self.observation.features, *options.sizes, self.output.size)
        self.network = Network(sizes, options.activation, 1.0)

    def forward(self, inputs: Batch, state: Batch | None = None) -> Result:
        observation = inputs["observation"]
        assert isinstance(observation, Tensor)
        return {"action": self.network(self.observation(observation))}, state


class ActorCritic(Policy):
    """A policy and a state value, for policy gradients.

    Heads: "action"; "value" (...); for continuous actions also "mean" (..., size) in learner space and "log_std" of the
    same shape. With `memory`, a GRU follows the body: one step for observations (rows, *shape), whole sequences for
    (rows, time, *shape). The input "start" (rows[, time]) bool says which steps begin an episode: with empty memory.
    """

    def __init__(self, options: ActorCriticOptions, signature: Signature) -> None:
        super().__init__(signature, options.normalise)
        self.memory = options.memory
        sizes = (self.observation.features, *options.sizes)
        width = options.memory or options.sizes[-1]
        self.body = Network(sizes, options.activation, math.sqrt(2), last_active=True)
        self.value_body = None
        if not options.shared and options.memory is None:
            self.value_body = Network(sizes, options.activation, math.sqrt(2), last_active=True)
        self.cell = nn.GRUCell(options.sizes[-1], options.memory) if options.memory else None
        if self.cell is not None:
            nn.init.orthogonal_(self.cell.weight_ih)
            nn.init.orthogonal_(self.cell.weight_hh)
            nn.init.zeros_(self.cell.bias_ih)
            nn.init.zeros_(self.cell.bias_hh)
        self.policy_head = Network((width, self.output.size), options.activation, 0.01)
        self.value_head = Network((width, 1), options.activation, 1.0)
        self.log_std = None if self.discrete else nn.Parameter(torch.zeros(self.output.size))

    def forward(self, inputs: Batch, state: Batch | None = None) -> Result:
        observation = inputs["observation"]
        assert isinstance(observation, Tensor)
        features = self.observation(observation)
        hidden = self.body(features)
        if self.cell is not None:
            start = inputs.get("start")
            hidden, state = self._remember(hidden, state, start if isinstance(start, Tensor) else None)
        value = self.value_head(hidden if self.value_body is None else self.value_body(features)).squeeze(-1)
        scores = self.policy_head(hidden)
        if self.log_std is None:
            return {"action": scores, "value": value}, state
        outputs = {"action": self.scale(scores), "value": value, "mean": scores}
        return {**outputs, "log_std": self.log_std.float().expand_as(scores)}, state

    def _remember(self, hidden: Tensor, state: Batch | None, start: Tensor | None) -> tuple[Tensor, Batch]:
        assert self.cell is not None
        memory = hidden.new_zeros(len(hidden), self.cell.hidden_size) if state is None else state["memory"]
        assert isinstance(memory, Tensor)
        memory = memory.to(hidden.dtype)
        keep = None if start is None else (~start).to(hidden.dtype).unsqueeze(-1)
        if hidden.ndim == 2:
            memory = self.cell(hidden, memory if keep is None else memory * keep)
            return memory, {"memory": memory.float()}
        steps = []
        for time in range(hidden.shape[1]):
            memory = self.cell(hidden[:, time], memory if keep is None else memory * keep[:, time])
            steps.append(memory)
        return torch.stack(steps, 1), {"memory": memory.float()}

    def initial_state(self, n: int) -> Batch | None:
        """{"memory": zeros (n, memory)}; None without memory."""
        if self.cell is None:
            return None
        return {"memory": self.cell.weight_hh.new_zeros(n, self.cell.hidden_size, dtype=torch.float32)}


class SquashedGaussian(Policy):
    """A normal distribution through tanh, scaled to the bounds: heads "action"; "mean" and "log_std" before tanh."""

    def __init__(self, options: SquashedGaussianOptions, signature: Signature) -> None:
        super().__init__(signature, options.normalise)
        if self.discrete:
            raise ComponentError(
                "a squashed Gaussian needs continuous actions", remedy="Use the model q-network with dqn."
            )
        self.range = (options.log_std_low, options.log_std_high)
        sizes = (self.observation.features, *options.sizes, 2 * self.output.size)
        self.network = Network(sizes, options.activation, 0.01)

    def forward(self, inputs: Batch, state: Batch | None = None) -> Result:
        observation = inputs["observation"]
        assert isinstance(observation, Tensor)
        mean, raw = self.network(self.observation(observation)).chunk(2, -1)
        low, high = self.range
        log_std = low + 0.5 * (high - low) * (torch.tanh(raw) + 1)
        return {"action": self.scale(torch.tanh(mean)), "mean": mean, "log_std": log_std}, state

    def sample(self, outputs: dict[str, Tensor], noise: Tensor) -> Tensor:
        return torch.tanh(super().sample(outputs, noise))
