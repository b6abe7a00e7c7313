"""The slices: each builds objective, model and source from a seed, small enough to train in a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reinforge.core.contracts import Objective, Source
from reinforge.engine.loop import Engine
from reinforge.models.options import ComposedOptions, MLPOptions
from reinforge.objectives.options import SupervisedOptions
from reinforge.recipe.sections import Learn, Stop
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature
from reinforge.sources.options import LoaderOptions

Parts = tuple[Objective, nn.Module, Source]


@dataclass(frozen=True)
class Slice:
    """One training. `build(seed, batch)` makes its parts; `updates` is how long the resume tests run it."""

    name: str
    build: Callable[[int, int], Parts]
    updates: int = 24
    learn: dict[str, Any] = field(default_factory=dict)
    # Rows of one update in the equality tests.
    batch: int = 8

    def engine(self, *, seed: int = 0, batch: int | None = None, updates: int | None = None, **keywords: Any) -> Engine:
        """An engine for it. Keywords `learn` override the slice's own; others go to the engine."""
        size = batch or self.batch
        objective, model, source = self.build(seed, size)
        settings = {"batch": size, "lr": 1e-3, **self.learn, **keywords.pop("learn", {})}
        learn = Learn(**settings, threads=1, stop=Stop(updates=updates or self.updates))
        return Engine(objective, model, source, learn=learn, seed=seed, **keywords)


def _model(options: Any, signature: Signature, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = REGISTRY.build("model", options, signature)
    return model


def supervised(seed: int, batch: int) -> Parts:
    """A table with numbers and categories and two targets, one of them missing in two rows of three."""
    g = torch.Generator().manual_seed(7)
    n = 120
    numbers = torch.randn(n, 5, generator=g)
    categories = torch.stack([torch.randint(0, size, (n,), generator=g) for size in (3, 4)], 1)
    label = (numbers[:, 0] + categories[:, 0] > 1).long() + (numbers[:, 1] > 0).long()
    value = numbers[:, 2:3] * 2 + categories[:, 1:2]
    valid = torch.rand(n, generator=g) < 1 / 3
    data: dict[str, dict[str, Tensor]] = {
        "inputs": {"numbers": numbers, "categories": categories},
        "targets": {"label": label, "value": torch.where(valid[:, None], value, torch.nan)},
        "valid": {"value": valid},
    }
    signature = Signature(
        inputs={"numbers": Input(form="numbers", shape=(5,)), "categories": Input(form="categories", sizes=(3, 4))},
        outputs={"label": Output(form="category", size=3), "value": Output(form="number", size=1)},
    )
    model = _model(ComposedOptions(body=MLPOptions(sizes=(16, 16))), signature, seed)
    objective = REGISTRY.build("objective", SupervisedOptions(), signature)
    return objective, model, REGISTRY.build("source", LoaderOptions(), data, batch=batch, seed=seed)


SLICES = {s.name: s for s in [Slice("supervised", supervised)]}
