"""The memory of a recurrent policy: one cell, over one step or a stretch of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.models.policy_options import MemoryOptions


class Memory(nn.Module):
    """A GRU or LSTM cell with orthogonal weights and zero biases.

    Its state is {"memory": (n, size)}, and for an LSTM {"cell": (n, size)} as well; zeros where an episode begins.
    """

    def __init__(self, options: MemoryOptions, features: int) -> None:
        super().__init__()
        self.features = options.size
        cell = nn.GRUCell if options.kind == "gru" else nn.LSTMCell
        self.cell = cell(features, options.size)
        nn.init.orthogonal_(self.cell.weight_ih)
        nn.init.orthogonal_(self.cell.weight_hh)
        nn.init.zeros_(self.cell.bias_ih)
        nn.init.zeros_(self.cell.bias_hh)
        self.names = ("memory",) if options.kind == "gru" else ("memory", "cell")

    def initial_state(self, n: int) -> dict[str, Tensor]:
        """Zeros (n, size)."""
        zeros = self.cell.weight_hh.new_zeros(n, self.features, dtype=torch.float32)
        return {name: zeros.clone() for name in self.names}

    def forward(self, hidden: Tensor, state: Batch | None, start: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """hidden (rows, features), or (rows, time, features); start bool of the same leading shape, where an episode
        begins with an empty memory. Gives the memory after each step, (rows[, time], size), and the last state."""
        given = state or self.initial_state(len(hidden))
        held = [_tensor(given, name).to(hidden) for name in self.names]
        if hidden.ndim == 2:
            held = self._step(hidden, held, start)
            return held[0], self._state(held)
        steps = []
        for time in range(hidden.shape[1]):
            held = self._step(hidden[:, time], held, None if start is None else start[:, time])
            steps.append(held[0])
        return torch.stack(steps, 1), self._state(held)

    def _step(self, hidden: Tensor, held: list[Tensor], start: Tensor | None) -> list[Tensor]:
        if start is not None:
            keep = (~start).to(hidden.dtype).unsqueeze(-1)
            held = [value * keep for value in held]
        if len(held) == 1:
            return [self.cell(hidden, held[0])]
        return list(self.cell(hidden, (held[0], held[1])))

    def _state(self, held: list[Tensor]) -> dict[str, Tensor]:
        return {name: value.float() for name, value in zip(self.names, held)}


def _tensor(state: Batch, name: str) -> Tensor:
    value = state[name]
    assert isinstance(value, Tensor)
    return value
