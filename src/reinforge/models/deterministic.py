"""A deterministic policy for continuous actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from reinforge.core.batch import Batch
from reinforge.errors import ComponentError
from reinforge.models.perceptron import Network
from reinforge.models.policy import Policy, Result
from reinforge.models.policy_options import DeterministicOptions
from reinforge.schema.signature import Signature


class Deterministic(Policy):
    """One action for each observation: heads "action"; "mean", the same in learner space, (-1, 1).

    While it collects, normal noise is added to actions in learner space, which are clipped to [-1, 1] after it.
    """

    def __init__(self, options: DeterministicOptions, signature: Signature) -> None:
        super().__init__(options, signature)
        if not self.continuous:
            raise ComponentError(
                "a deterministic policy needs continuous actions", remedy="Use the model q-network with dqn."
            )
        self.exploration = options.exploration
        sizes = (self.perception.features, *options.sizes, self.output.size)
        self.network = Network(sizes, options.activation, 0.01)

    def forward(self, inputs: Batch, state: Batch | None = None) -> Result:
        features, state = self.perception.see(inputs, state)
        mean = self.network(features).tanh()
        return {"action": self.scale(mean), "mean": mean}, state

    @property
    def traceable(self) -> bool:
        """Whether `trace` can be used."""
        return self.plain and self.network.traceable

    def trace(self, features: Tensor) -> tuple[Tensor, Callable[[Tensor], None]]:
        """For what perception made of observations (rows, features): actions in learner space (rows, size), and what
        takes their gradient back, into the .grad of the weights."""
        outputs, back = self.network.trace(features)
        action = outputs.tanh()

        def pull(gradient: Tensor) -> None:
            back(gradient * (1 - action.square()))

        return action, pull

    def sample(self, outputs: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        return (outputs["mean"] + self.exploration * noise).clamp(-1, 1)

    def log_prob(self, outputs: Mapping[str, Tensor], action: Tensor) -> Tensor:
        """Raises ComponentError: it has no densities."""
        raise ComponentError("a deterministic policy has no probabilities", remedy="Use it with td3, ddpg or bc.")

    def entropy(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Raises ComponentError: it has none."""
        raise ComponentError("a deterministic policy has no entropy", remedy="Use it with td3, ddpg or bc.")
