"""A small least-squares problem in the engine's terms, for tests that need exact control."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import END, Clock, Experience, Loss, Outcome, Signal, State, Step, Term
from reinforge.engine.loop import Engine
from reinforge.recipe.sections import Learn, Stop


class Learner(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class Squares:
    """Mean squared error of `model(x)` against y, over the rows whose weight isn't 0."""

    def __init__(self, coupled: bool = False, every: int = 1) -> None:
        self.coupled, self.every = coupled, every
        self.outcomes: list[Outcome] = []

    def build(self, model: nn.Module) -> nn.Module:
        return Learner(model)

    def prepare(self, learner: nn.Module, experience: Experience) -> Experience:
        return experience

    def updates(self, experience: Experience, generator: torch.Generator, clock: Clock) -> Generator[Batch, Outcome]:
        self.outcomes.append((yield experience.batch))

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        return [Step("learn", list(learner.parameters()), self.loss, self.every)]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"squares": batch["weight"].sum()}  # type: ignore[union-attr]

    def loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        error = (learner.model(batch["x"])[:, 0] - batch["y"]).square() * batch["weight"]  # type: ignore[operator]
        return Loss({"squares": Term(error.sum(), coupled=self.coupled)}, {"error": error.detach()})

    def after_update(self, learner: nn.Module, clock: Clock) -> None:
        pass


class Rows:
    """Consecutive batches of fixed rows, over and over; it keeps the feedback it gets."""

    sharded = False
    exact = True

    def __init__(self, data: Batch, batch: int, end: int | None = None) -> None:
        self.data, self.batch, self.end = data, batch, end
        self.cursor = 0
        self.heard: list[Outcome] = []
        self.published = 0

    def next(self, clock: Clock) -> Experience | Signal:
        if self.end is not None and clock.experiences >= self.end:
            return END
        n = batches.rows(self.data)
        start = self.cursor
        self.cursor = (start + self.batch) % n
        return Experience(batches.part(self.data, start, start + self.batch), self.batch, epochs=clock.samples / n)

    def publish(self, learner: nn.Module, clock: Clock) -> None:
        self.published += 1

    def feedback(self, experience: Experience, outcome: Outcome) -> None:
        self.heard.append(outcome)

    def state_dict(self) -> State:
        return {"cursor": self.cursor}

    def load_state_dict(self, state: State) -> None:
        self.cursor = state["cursor"]


def rows(n: int = 64, features: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """x, y = x w + noise, weights of 1."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=g)
    y = x @ torch.arange(1.0, features + 1) + 0.1 * torch.randn(n, generator=g)
    return {"x": x, "y": y, "weight": torch.ones(n)}


def network(features: int = 3, hidden: int = 8, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, 1))


def engine(model: nn.Module | None = None, *, batch: int = 8, updates: int = 20, **keywords: Any) -> Engine:
    """An engine over the problem; keywords `learn` go into Learn; `objective` and `source` replace its own."""
    settings = {"batch": batch, "stop": Stop(updates=updates), **keywords.pop("learn", {})}
    objective = keywords.pop("objective", None) or Squares()
    source = keywords.pop("source", None) or Rows(rows(), batch)
    return Engine(objective, model or network(), source, learn=Learn(**settings), **keywords)
