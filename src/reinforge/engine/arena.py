"""The parameters of one step in one flat buffer, so that zeroing, clipping, checking, averaging and
updating are one operation each, however many parameters there are."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor, nn

from reinforge.core.contracts import State
from reinforge.engine.groups import Group
from reinforge.engine.optimizers import Slice
from reinforge.errors import CheckpointError

Precision = Literal["fp32", "bf16", "fp16"]
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Parameters start on 64-byte boundaries, as torch's own allocator would place them.
_ALIGN = 16


class Arena:
    """Flat weights, gradients and, for half precision, fp32 masters of a step's parameters.

    Parameters become views of `weights`, their gradients views of `gradients`. They lie by phase, and within it by
    group, so that each group is one slice for the optimiser. `parameters` and `places` are those that learn now, of
    `everything`.
    `exchange` is the fp32 buffer that ranks sum: `tail` scalars, then the gradients that are taken now.
    """

    def __init__(self, groups: Mapping[nn.Parameter, Group], *, precision: Precision = "fp32", tail: int = 0) -> None:
        if not groups:
            raise ValueError("a step needs at least one parameter")
        self._groups = groups
        self.everything = sorted(groups, key=lambda p: _order(groups[p]))
        device = self.everything[0].device
        ends: dict[int, int] = {}
        self._places: list[slice] = []
        size = 0
        for p in self.everything:
            self._places.append(slice(size, size + p.numel()))
            size += -(-p.numel() // _ALIGN) * _ALIGN
            ends[groups[p].phase] = size
        self._ends, self._tail = ends, tail
        self._exchange = torch.zeros(tail + size, device=device)
        self.tail = self._exchange[:tail]
        self.masters = torch.zeros(size, device=device)
        self.half = precision in HALVES
        """Whether weights are bf16 or fp16 beside fp32 masters."""
        if self.half:
            self.weights = torch.zeros(size, device=device, dtype=HALVES[precision])
            self._gradients = torch.zeros_like(self.weights)
        else:
            self.weights, self._gradients = self.masters, self._exchange[tail:]
        for p, here in zip(self.everything, self._places):
            self.masters[here].view_as(p).copy_(p.detach())
            p.data = self.weights[here].view_as(p)
        self.publish()
        self.phase = 0
        self._take(0)

    def _take(self, phase: int) -> None:
        """From now on, all up to this phase learns."""
        self.phase = phase
        learning = [(p, place) for p, place in zip(self.everything, self._places) if self._groups[p].phase <= phase]
        self.parameters, self.places = [p for p, _ in learning], [place for _, place in learning]
        end = max((end for of, end in self._ends.items() if of <= phase), default=0)
        self.exchange = self._exchange[: self._tail + end]
        self.full_gradients, self.gradients = self._exchange[self._tail :][:end], self._gradients[:end]
        self.penalised = [
            (s.parameter.detach(), s.gradient) for of in range(phase + 1) for s in self.slices(of) if s.decays
        ]
        for p, here in learning:
            p.requires_grad_(True)
            p.grad = self._gradients[here].view_as(p)
        self._views = [p.grad for p in self.parameters]

    def thaw(self) -> list[Slice]:
        """The next phase begins: the slices that learn from now on, maybe none."""
        self._take(self.phase + 1)
        return self.slices(self.phase)

    def slices(self, phase: int = 0) -> list[Slice]:
        """A phase's slices, one for each group."""
        made = []
        members = ((p, place) for p, place in zip(self.everything, self._places) if self._groups[p].phase == phase)
        for group, run in groupby(members, key=lambda member: self._groups[member[0]]):
            parts = list(run)
            begin, end = parts[0][1].start, -(-parts[-1][1].stop // _ALIGN) * _ALIGN
            flat = nn.Parameter(self.masters[begin:end])
            flat.grad = self._exchange[self._tail :][begin:end]
            shapes = tuple((place.start - begin, p.shape) for p, place in parts) if group.whole else ()
            made.append(Slice(flat, group.decays, group.rate, shapes))
        return made

    def zero(self) -> None:
        """Gradients and tail to zero."""
        self.exchange.zero_()
        if self.half:
            self.gradients.zero_()

    def collect(self) -> None:
        """After each microbatch's backward: with half weights, add its gradients to the fp32 sum."""
        if self.half:
            self.full_gradients.add_(self.gradients)
            self.gradients.zero_()

    def publish(self) -> None:
        """After the optimiser: with half weights, round the masters into them."""
        if self.half:
            self.weights.copy_(self.masters)

    def check_views(self) -> None:
        """Raise RuntimeError where a parameter or gradient no longer lies in the flat buffers."""
        low, high = self.weights.data_ptr(), self.weights.data_ptr() + self.weights.nbytes
        for p, view in zip(self.parameters, self._views):
            if p.grad is not view or not low <= p.data_ptr() < high:
                raise RuntimeError("a parameter was replaced after the engine took it; copy into it in place instead")

    def state_dict(self) -> State:
        """The masters, for half precision alone: fp32 weights are saved with the learner."""
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


def _order(group: Group) -> tuple[int, bool, bool, float]:
    return group.phase, not group.decays, group.whole, group.rate
