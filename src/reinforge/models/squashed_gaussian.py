"""A bounded stochastic policy for continuous actions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from reinforge.core.batch import Batch
from reinforge.errors import ComponentError
from reinforge.models.distributions import tanh_gaussian_log_prob
from reinforge.models.perceptron import Network
from reinforge.models.policy import Policy, Result
from reinforge.models.policy_options import SquashedGaussianOptions
from reinforge.schema.signature import Signature

# The largest action whose latent is finite enough to learn from.
_INSIDE = 1 - 1e-4


class SquashedGaussian(Policy):
    """A normal distribution through tanh, scaled to the bounds: heads "action"; "mean" and "log_std" before tanh."""

    def __init__(self, options: SquashedGaussianOptions, signature: Signature) -> None:
        super().__init__(options, signature)
        if not self.continuous:
            raise ComponentError(
                "a squashed Gaussian needs continuous actions", remedy="Use the model q-network with dqn."
            )
        self.range = (options.log_std_low, options.log_std_high)
        sizes = (self.perception.features, *options.sizes, 2 * self.output.size)
        self.network = Network(sizes, options.activation, 0.01)

    def forward(self, inputs: Batch, state: Batch | None = None) -> Result:
        features, state = self.perception.see(inputs, state)
        mean, raw = self.network(features).chunk(2, -1)
        low, high = self.range
        log_std = low + 0.5 * (high - low) * (torch.tanh(raw) + 1)
        return {"action": self.scale(torch.tanh(mean)), "mean": mean, "log_std": log_std}, state

    def sample(self, outputs: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        return torch.tanh(super().sample(outputs, noise))

    def log_prob(self, outputs: Mapping[str, Tensor], action: Tensor) -> Tensor:
        """Of actions in (-1, 1); those at the bounds count as just within."""
        latent = torch.atanh(action.clamp(-_INSIDE, _INSIDE))
        return tanh_gaussian_log_prob(outputs["mean"], outputs["log_std"], latent)

    def entropy(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Raises ComponentError: it has no closed form."""
        raise ComponentError("the entropy behind tanh has no closed form", remedy="Use sac, which samples it.")
