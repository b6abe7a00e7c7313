"""Averages of weights over the time of training: what is evaluated and shipped instead of the last weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from reinforge.core.contracts import Clock, State
from reinforge.engine.options import AverageOptions, ExponentialOptions, UniformOptions
from reinforge.errors import CheckpointError

# From how many values are in it already: how far the average moves to the next one.
Rate = Callable[[int], float]


class Average:
    """The average of `tensors` (fp32 weights, statistics of batch normalisation), taken when its options say.

    Until it begins, the tensors stand for themselves. `publish` is called after they were changed here.
    """

    def __init__(self, options: AverageOptions, rate: Rate) -> None:
        self.options, self.rate = options, rate
        self.taken = 0
        self._passed = -1
        self._tensors: Sequence[Tensor] = ()
        self._averages: list[Tensor] = []
        self._publish: Callable[[], None] = lambda: None

    def attach(self, tensors: Sequence[Tensor], publish: Callable[[], None]) -> None:
        """Watch these tensors from now on."""
        self._tensors, self._publish = tensors, publish

    @torch.no_grad()
    def update(self, clock: Clock) -> None:
        """Take the tensors in, if it is time."""
        options = self.options
        # Units other than updates come as sums of parts: a time is not to be missed by rounding.
        passed = int((getattr(clock, options.unit) - options.start) / options.every + 1e-9)
        if passed <= self._passed or getattr(clock, options.unit) < options.start:
            return
        self._passed = passed
        if self.taken:
            torch._foreach_lerp_(self._averages, list(self._tensors), self.rate(self.taken))
        else:
            self._averages = [tensor.detach().clone() for tensor in self._tensors]
        self.taken += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The tensors are their averages, and afterwards what they were."""
        if not self.taken:
            yield
            return
        kept = [tensor.clone() for tensor in self._tensors]
        self._write(self._averages)
        try:
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: Sequence[Tensor]) -> None:
        torch._foreach_copy_(list(self._tensors), list(values))
        self._publish()

    def state_dict(self) -> State:
        """The averages, and how many values are in them."""
        return {"taken": self.taken, "passed": self._passed, "averages": list(self._averages)}

    def load_state_dict(self, state: State) -> None:
        """Restore. Raises CheckpointError where sizes differ."""
        self.taken, self._passed = state["taken"], state["passed"]
        saved = state["averages"]
        if self.taken and [t.shape for t in saved] != [t.shape for t in self._tensors]:
            raise CheckpointError("the averages of the weights are of another size")
        self._averages = [value.to(like.device, copy=True) for value, like in zip(saved, self._tensors)]


def exponential(options: ExponentialOptions) -> Average:
    """average += (1 - decay) (weights - average), beginning with the weights."""
    return Average(options, lambda taken: 1 - options.decay)


def uniform(options: UniformOptions) -> Average:
    """average += (weights - average) / (number so far + 1)."""
    return Average(options, lambda taken: 1 / (taken + 1))


def batch_statistics(model: nn.Module) -> list[Tensor]:
    """Running means and variances, which belong to the weights they were measured with."""
    return [
        buffer
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for buffer in module.buffers(recurse=False)
        if buffer.is_floating_point()
    ]
