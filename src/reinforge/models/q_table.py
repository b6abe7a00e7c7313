"""The values of actions in numbered states, one by one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.errors import ComponentError
from reinforge.models.policy import Policy, Result
from reinforge.models.policy_options import PolicyOptions, QTableOptions
from reinforge.schema.signature import Signature

_MOST = 50_000_000


class QTable(Policy):
    """A row of values for each state: heads {"action": (..., actions)}.

    Observations are numbered choices; where there are several, each combination of them is a state.
    """

    stochastic = False

    def __init__(self, options: QTableOptions, signature: Signature) -> None:
        super().__init__(PolicyOptions(), signature)
        if self.output.form != "discrete":
            raise ComponentError("a table of values needs discrete actions", remedy="Use another model.")
        sizes: list[int] = []
        for name, block in signature.inputs.items():
            if block.form != "categories":
                raise ComponentError(
                    f"a table needs numbered states, and {name!r} is none",
                    remedy="Use the model q-network with dqn, or an environment with Discrete observations.",
                )
            sizes += block.sizes
        states = math.prod(sizes)
        if states * self.output.size > _MOST:
            raise ComponentError(f"{states:,} states are too many for a table", remedy="Use the model q-network.")
        self.names = tuple(signature.inputs)
        strides = [math.prod(sizes[place + 1 :]) for place in range(len(sizes))]
        self.register_buffer("strides", torch.tensor(strides), persistent=False)
        self.values = nn.Parameter(torch.full((states, self.output.size), options.initial))

    strides: Tensor

    def states(self, inputs: Batch) -> Tensor:
        """The number of the state of each observation: int64 (...)."""
        columns = [value for name in self.names if isinstance(value := inputs[name], Tensor)]
        joined = columns[0] if len(columns) == 1 else torch.cat(columns, -1)
        return (joined * self.strides).sum(-1)

    def forward(self, inputs: Batch, state: Batch | None = None) -> Result:
        return {"action": self.values[self.states(inputs)].float()}, state
