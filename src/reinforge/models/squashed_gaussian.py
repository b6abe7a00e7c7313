"""A bounded stochastic policy for continuous actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from reinforge.core.batch import Batch
from reinforge.errors import ComponentError
from reinforge.models.distributions import squashed_by_numpy, tanh_gaussian_log_prob
from reinforge.models.native_tape import squashed_natively
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
        log_std = self._log_std(torch.tanh(raw))
        return {"action": self.scale(torch.tanh(mean)), "mean": mean, "log_std": log_std}, state

    @property
    def traceable(self) -> bool:
        """Whether `trace` can be used."""
        return self.plain and self.network.traceable

    def trace(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], None]]:
        """For what perception made of observations (rows, features) and normal noise (rows, size): actions in learner
        space, their log-probs (rows,), and what takes the gradients of both back, into the .grad of the weights."""
        outputs, back = self.network.trace(features)
        functions = self.network.native()
        squash = squashed_by_numpy if functions is None else partial(squashed_natively, functions)
        action, log_prob, slopes = squash(outputs, noise, self.range)

        def pull(moved: Tensor, chosen: Tensor) -> None:
            back(slopes(moved, chosen))

        return action, log_prob, pull

    def _log_std(self, bent: Tensor) -> Tensor:
        """From (-1, 1) to its range."""
        low, high = self.range
        return low + 0.5 * (high - low) * (bent + 1)

    def sample(self, outputs: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        return torch.tanh(super().sample(outputs, noise))

    def log_prob(self, outputs: Mapping[str, Tensor], action: Tensor) -> Tensor:
        """Of actions in (-1, 1); those at the bounds count as just within."""
        latent = torch.atanh(action.clamp(-_INSIDE, _INSIDE))
        return tanh_gaussian_log_prob(outputs["mean"], outputs["log_std"], latent)

    def entropy(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Raises ComponentError: it has no closed form."""
        raise ComponentError("the entropy behind tanh has no closed form", remedy="Use sac, which samples it.")
