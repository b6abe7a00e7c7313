"""The parameters of one step in one flat buffer, so that zeroing, clipping, checking, averaging and
updating are one operation each, however many parameters there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from reinforge.core.contracts import State
from reinforge.engine.optimizers import Slice
from reinforge.errors import CheckpointError

# Parameters start on 64-byte boundaries, as torch's own allocator would place them.
_ALIGN = 16


class Arena:
    """Flat weights, gradients and, for bf16, fp32 masters of a sequence of parameters.

    Parameters become views of `weights`, their gradients views of `gradients`. What decays (matrices, or all) lies
    before what doesn't, so each is one slice for the optimiser; `places` tells where each parameter lies. `exchange` is
    the fp32 buffer that ranks sum: all gradients, then `tail` scalars.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        decay: Literal["matrices", "all"] = "matrices",
        precision: Literal["fp32", "bf16"] = "fp32",
        tail: int = 0,
    ) -> None:
        unique = list(dict.fromkeys(parameters))
        if not unique:
            raise ValueError("a step needs at least one parameter")
        decays = [decay == "all" or p.ndim >= 2 for p in unique]
        self.parameters = [p for p, d in zip(unique, decays) if d] + [p for p, d in zip(unique, decays) if not d]
        device = self.parameters[0].device
        self.places: list[slice] = []
        total, boundary = 0, 0
        for i, p in enumerate(self.parameters):
            self.places.append(slice(total, total + p.numel()))
            total += -(-p.numel() // _ALIGN) * _ALIGN
            boundary = total if i < sum(decays) else boundary
        self.size = total
        self.exchange = torch.zeros(total + tail, device=device)
        self.tail = self.exchange[total:]
        self.full_gradients = self.exchange[:total]
        half = precision == "bf16"
        self.masters = torch.zeros(total, device=device)
        self.weights = torch.zeros(total, device=device, dtype=torch.bfloat16) if half else self.masters
        self.gradients = torch.zeros_like(self.weights) if half else self.full_gradients
        for p, here in zip(self.parameters, self.places):
            self.masters[here].view_as(p).copy_(p.detach())
            p.data = self.weights[here].view_as(p)
            p.grad = self.gradients[here].view_as(p)
        if half:
            self.weights.copy_(self.masters)
        self._views = [p.grad for p in self.parameters]
        bounds = [(0, boundary, True), (boundary, total, False)]
        self.slices = []
        for start, stop, flag in bounds:
            if stop > start:
                flat = nn.Parameter(self.masters[start:stop])
                flat.grad = self.full_gradients[start:stop]
                self.slices.append(Slice(flat, flag))
        self.decayed = self.masters[:boundary]
        self.decayed_gradients = self.full_gradients[:boundary]

    @property
    def half(self) -> bool:
        """Whether weights are bf16 beside fp32 masters."""
        return self.weights is not self.masters

    def zero(self) -> None:
        """Gradients and tail to zero."""
        self.exchange.zero_()
        if self.half:
            self.gradients.zero_()

    def collect(self) -> None:
        """After each microbatch's backward: with bf16 weights, add its gradients to the fp32 sum."""
        if self.half:
            self.full_gradients.add_(self.gradients)
            self.gradients.zero_()

    def publish(self) -> None:
        """After the optimiser: with bf16 weights, round the masters into them."""
        if self.half:
            self.weights.copy_(self.masters)

    def check_views(self) -> None:
        """Raise RuntimeError where a parameter or gradient no longer lies in the flat buffers."""
        low, high = self.weights.data_ptr(), self.weights.data_ptr() + self.weights.nbytes
        for p, view in zip(self.parameters, self._views):
            if p.grad is not view or not low <= p.data_ptr() < high:
                raise RuntimeError("a parameter was replaced after the engine took it; copy into it in place instead")

    def state_dict(self) -> State:
        """The masters, for bf16 alone: fp32 weights are saved with the learner."""
        return {"masters": self.masters} if self.half else {}

    def load_state_dict(self, state: State) -> None:
        """Restore the masters and round them into the weights."""
        if self.half:
            if "masters" not in state or state["masters"].shape != self.masters.shape:
                raise CheckpointError("the fp32 masters are missing or of another size")
            self.masters.copy_(state["masters"])
            self.publish()

    def global_norm(self) -> Tensor:
        """The gradients' L2 norm, 0-d; not finite where any gradient isn't."""
        norm: Tensor = torch.linalg.vector_norm(self.full_gradients)
        return norm
