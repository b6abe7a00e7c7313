"""The values of discrete actions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.errors import ComponentError
from reinforge.models.noisy import NoisyNetwork
from reinforge.models.perceptron import Network
from reinforge.models.policy import Policy, Result
from reinforge.models.policy_options import QNetworkOptions
from reinforge.schema.signature import Signature


class QNetwork(Policy):
    """The value of each discrete action: heads {"action": (..., actions)}, the expected return.

    With a distribution of returns also "logits" (categorical: of each of the fixed returns in `support`) or "quantiles"
    (..., actions, atoms), whose mean the value is. A noisy network takes an input "noise" (..., parameter_noise),
    standard normal, and acts by its means without it.
    """

    stochastic = False
    support: Tensor

    def __init__(self, options: QNetworkOptions, signature: Signature) -> None:
        super().__init__(options, signature)
        if self.output.form != "discrete":
            raise ComponentError(
                "a Q-network needs discrete actions", remedy="Use the model squashed-gaussian with sac, say."
            )
        self.distribution = options.distribution
        actions, self.atoms = self.output.size, 1
        if options.distribution is not None:
            self.atoms = options.distribution.atoms
            if options.distribution.kind == "categorical":
                support = torch.linspace(options.distribution.low, options.distribution.high, self.atoms)
                self.register_buffer("support", support, persistent=False)
        sizes = (self.perception.features, *options.sizes)
        self.network: nn.Module
        if options.duelling:
            self.network = Duel(sizes, actions, self.atoms, options)
        else:
            self.network = layers((*sizes, actions * self.atoms), options)
        self.parameter_noise = int(self.network.noise) if options.noisy else 0  # type: ignore[arg-type]

    def forward(self, inputs: Batch, state: Batch | None = None) -> Result:
        features, state = self.perception.see(inputs, state)
        found = self.network(features, inputs.get("noise")) if self.parameter_noise else self.network(features)
        if self.distribution is None:
            return {"action": found}, state
        found = found.unflatten(-1, (-1, self.atoms))
        if self.distribution.kind == "quantile":
            return {"action": found.mean(-1), "quantiles": found}, state
        return {"action": found.softmax(-1) @ self.support, "logits": found}, state


def layers(sizes: tuple[int, ...], options: QNetworkOptions, last_active: bool = False) -> nn.Module:
    """A network of plain layers, or of noisy ones."""
    if options.noisy is not None:
        return NoisyNetwork(sizes, options.activation, options.noisy, last_active)
    return Network(sizes, options.activation, 1.0, last_active)


class Duel(nn.Module):
    """Q(s, a) = V(s) + A(s, a) - the mean of A(s, .), atom by atom: (..., sizes[0]) to (..., actions * atoms).

    All hidden layers but the last are shared, each stream has a last one of its own.
    Source: Wang et al., "Dueling Network Architectures" (2016), equation 9.
    """

    def __init__(self, sizes: tuple[int, ...], actions: int, atoms: int, options: QNetworkOptions) -> None:
        super().__init__()
        self.shape, shared = (actions, atoms), sizes[:-1]
        self.body = layers(shared, options, last_active=True) if len(shared) > 1 else None
        self.value = layers((*sizes[-2:], atoms), options)
        self.advantage = layers((*sizes[-2:], actions * atoms), options)
        parts = [part for part in (self.body, self.value, self.advantage) if part is not None]
        # How many random numbers each takes of a row's noise.
        self.shares = [int(part.noise) for part in parts] if options.noisy else []  # type: ignore[arg-type]
        self.noise = sum(self.shares)

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        given = [] if noise is None else list(torch.split(noise, self.shares, -1))
        if self.body is not None:
            features = self.body(features, *given[:1])
            given = given[1:]
        value: Tensor = self.value(features, *given[:1])
        advantage = self.advantage(features, *given[1:]).unflatten(-1, self.shape)
        joined: Tensor = value.unsqueeze(-2) + advantage - advantage.mean(-2, keepdim=True)
        return joined.flatten(-2)
