"""Curves of a ranking: what is found as the threshold falls, for many weightings of the rows at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ranking:
    """Rows in the order of falling scores. `ends`: the last place of each run of equal scores."""

    order: Tensor
    ends: Tensor
    positive: Tensor

    @classmethod
    def of(cls, scores: Tensor, positive: Tensor) -> Ranking:
        """From scores (rows,) and whether each row is positive (rows,)."""
        ordered, order = scores.sort(descending=True)
        last = torch.ones(1, dtype=torch.bool, device=scores.device)
        ends = torch.cat([ordered[1:] != ordered[:-1], last]).nonzero()[:, 0]
        return cls(order, ends, positive.to(torch.float64)[order])

    def found(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (replicates, rows) to those of the true and of the false positives at each score, (replicates,
        scores)."""
        ordered = weights[:, self.order]
        true, every = (ordered * self.positive).cumsum(1)[:, self.ends], ordered.cumsum(1)[:, self.ends]
        return true, every - true


def area_under_roc(ranking: Ranking, weights: Tensor) -> Tensor:
    """(replicates,) the chance that a positive row ranks above a negative one, ties counting half."""
    true, false = ranking.found(weights)
    before_true, before_false = _before(true), _before(false)
    area = ((false - before_false) * (true + before_true) / 2).sum(1)
    return area / (true[:, -1] * false[:, -1])


def average_precision(ranking: Ranking, weights: Tensor) -> Tensor:
    """(replicates,) precision at each score, weighted by how much recall rises there; nothing is interpolated."""
    true, false = ranking.found(weights)
    precision = true / (true + false).clamp(min=torch.finfo(true.dtype).tiny)
    return ((true - _before(true)) * precision).sum(1) / true[:, -1]


def roc_curve(ranking: Ranking) -> tuple[Tensor, Tensor]:
    """False and true positive rate at each score, from (0, 0) to (1, 1)."""
    true, false = (found[0] for found in ranking.found(_ones(ranking)))
    start = true.new_zeros(1)
    return torch.cat([start, false / false[-1]]), torch.cat([start, true / true[-1]])


def precision_recall_curve(ranking: Ranking) -> tuple[Tensor, Tensor]:
    """Recall and precision at each score, recall rising."""
    true, false = (found[0] for found in ranking.found(_ones(ranking)))
    return true / true[-1], true / (true + false)


def _ones(ranking: Ranking) -> Tensor:
    return torch.ones(1, len(ranking.order), dtype=torch.float64, device=ranking.order.device)


def _before(cumulated: Tensor) -> Tensor:
    return torch.cat([cumulated.new_zeros(len(cumulated), 1), cumulated[:, :-1]], 1)
