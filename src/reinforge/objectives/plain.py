"""What objectives share that make one update of each experience, in one step of all that learns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence

import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.core.contracts import Clock, Experience, Loss, Outcome, Step


class Plain(ABC):
    """An objective, but for its learner, counts and loss."""

    def prepare(self, learner: nn.Module, experience: Experience) -> Experience:
        """As it is."""
        return experience

    def updates(
        self, experience: Experience, generator: torch.Generator, clock: Clock
    ) -> Generator[Batch, Outcome, None]:
        """One update of the whole experience."""
        yield experience.batch

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        """One step, called "model", for all trainable parameters."""
        return [Step("model", [p for p in learner.parameters() if p.requires_grad], self.loss)]

    def after_update(self, learner: nn.Module, clock: Clock) -> None:  # noqa: B027, nothing is what it does
        """Nothing."""

    @abstractmethod
    def loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        """The terms of a batch, as raw sums."""
