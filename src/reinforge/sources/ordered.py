"""What sources share that go through their data in an order of their own, whatever the model does."""

from __future__ import annotations

from torch import nn

from reinforge.core.contracts import Clock, Experience, Outcome, State
from reinforge.errors import CheckpointError


class Ordered:
    """A source that neither acts nor listens."""

    def publish(self, learner: nn.Module, clock: Clock) -> None:
        """Nothing: it doesn't act."""

    def feedback(self, experience: Experience, outcome: Outcome) -> None:
        """Nothing: the order is fixed."""


def check_same(state: State, **own: int) -> None:
    """Raise CheckpointError where what a checkpoint says of the data or the batch is not what this source has."""
    for name, value in own.items():
        if state[name] != value:
            raise CheckpointError(
                f"the checkpoint's source has {name} {state[name]}, this one {value}",
                where="source",
                remedy="Resume with the data and the learn.batch that the run began with.",
            )
