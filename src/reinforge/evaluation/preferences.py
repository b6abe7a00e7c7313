"""Evaluation of preferences: how the objective itself rates held-out answers."""

from __future__ import annotations

import torch
from torch import nn

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import Clock, Experience, Objective
from reinforge.core.modes import evaluating


class PreferenceEvaluator:
    """The weighted terms of an objective over held-out rows, `batch` at a time: "loss", and what the objective measures
    ("accuracy", "margin")."""

    def __init__(self, objective: Objective, rows: Batch, *, batch: int = 32) -> None:
        self.objective, self.rows, self.batch = objective, rows, batch

    @torch.no_grad()
    def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]:
        """The metrics; draws nothing, changes nothing."""
        with evaluating(learner):
            return self._measure(learner)

    def _measure(self, learner: nn.Module) -> dict[str, float]:
        device = next(learner.parameters()).device
        sums: dict[str, float] = {}
        counts: dict[str, float] = {}
        weights: dict[str, float] = {}
        for part in batches.split(self.rows, self.batch):
            prepared = self.objective.prepare(learner, Experience(batches.to(part, device))).batch
            counted = self.objective.counts(prepared)
            (step,) = self.objective.steps(learner)
            for name, term in step.loss(learner, prepared, counted).terms.items():
                sums[name] = sums.get(name, 0.0) + float(term.sum)
                counts[name] = counts.get(name, 0.0) + float(counted[name])
                weights[name] = term.weight
        means = {name: value / max(counts[name], 1.0) for name, value in sums.items()}
        loss = sum(weights[name] * mean for name, mean in means.items())
        return {"loss": loss, **{name: means[name] for name in ("accuracy", "margin") if name in means}}
