"""Metrics of classes in order: decided classes (rows,) and targets (rows,) int64."""

from __future__ import annotations

import torch
from torch import Tensor

from reinforge.evaluation.metrics.metric import Confused, Means, confusions


class RankAccuracy(Means):
    """Part of the rows whose class is right."""

    form = "ordinal"
    watched = True

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, 1)."""
        return (output == target)[:, None]


class RankError(Means):
    """Mean absolute error in ranks: by how many classes a decision is off."""

    form = "ordinal"
    best = "low"
    watched = True

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, 1)."""
        return (output - target).abs()[:, None]


class QuadraticKappa(Confused):
    """Cohen's kappa with quadratic weights: 1 - squared errors, over those of decisions drawn at random.

    Cohen (1968), "Weighted kappa". 0 where targets and decisions are one and the same class throughout.
    """

    form = "ordinal"
    watched = True
    decides = False

    def confusion(self, output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """(replicates, classes, classes), of the classes up to the last that occurs: kappa knows of no others."""
        classes = int(torch.maximum(output.max(), target.max())) + 1
        return confusions(output.long(), target, classes, weights)

    def of(self, confusion: Tensor) -> Tensor:
        """(replicates,)."""
        ranks = torch.arange(confusion.shape[1], dtype=confusion.dtype, device=confusion.device)
        squares = (ranks[:, None] - ranks).square()
        expected = confusion.sum(2)[:, :, None] * confusion.sum(1)[:, None, :] / confusion.sum((1, 2))[:, None, None]
        chance = (squares * expected).sum((1, 2))
        return torch.where(chance > 0, 1 - (squares * confusion).sum((1, 2)) / chance.clamp(min=1e-300), 0.0)
