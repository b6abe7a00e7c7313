"""The loss scale of fp16: gradients below 6e-8 would be 0 there, so the loss is multiplied before the backward pass and
the gradients are divided after it (Micikevicius et al., 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from reinforge.core.contracts import State

_BEGIN, _UP, _DOWN, _AFTER = 2.0**16, 2.0, 0.5, 2000


class LossScale:
    """Halved where gradients overflow, doubled after 2000 updates without; nothing waits for the device.

    An overflow at a scale above 1 is no divergence: it is how the scale is found.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.tensor(_BEGIN, device=device)
        self._since = torch.zeros((), dtype=torch.int32, device=device)

    def update(self, found_inf: Tensor) -> Tensor:
        """Take note of whether the gradients were not finite (0-d float, 1 or 0). 1 where that was not the scale's."""
        diverged = found_inf * (self.scale <= 1)
        torch._amp_update_scale_(self.scale, self._since, found_inf, _UP, _DOWN, _AFTER)
        # Below 1 it would lose what it is there to keep.
        self.scale.clamp_(min=1.0)
        return diverged

    def state_dict(self) -> State:
        return {"scale": self.scale, "since": self._since}

    def load_state_dict(self, state: State) -> None:
        self.scale.copy_(state["scale"])
        self._since.copy_(state["since"])
