"""The values of discrete actions."""

from __future__ import annotations

from reinforge.core.batch import Batch
from reinforge.errors import ComponentError
from reinforge.models.options import QNetworkOptions
from reinforge.models.policy import Network, Policy, Result
from reinforge.schema.signature import Signature


class QNetwork(Policy):
    """The value of each discrete action: heads {"action": (..., actions)}."""

    stochastic = False

    def __init__(self, options: QNetworkOptions, signature: Signature) -> None:
        super().__init__(options, signature)
        if self.output.form != "discrete":
            raise ComponentError(
                "a Q-network needs discrete actions", remedy="Use the model squashed-gaussian with sac, say."
            )
        sizes = (self.perception.features, *options.sizes, self.output.size)
        self.network = Network(sizes, options.activation, 1.0)

    def forward(self, inputs: Batch, state: Batch | None = None) -> Result:
        return {"action": self.network(self.perception(inputs))}, state
