"""Metrics of labels that may hold at once: logits (rows, labels) and targets (rows, labels) of 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor

from reinforge.evaluation.metrics.metric import Means, Weighted, mean_where
from reinforge.evaluation.metrics.ranking import Ranking, area_under_roc, average_precision


class SubsetAccuracy(Means):
    """Part of the rows whose labels are all right."""

    form = "labels"
    decides = True
    watched = True

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, 1)."""
        return ((output > 0) == (target > 0.5)).all(1, keepdim=True)


class HammingLoss(Means):
    """Part of all labels of all rows that are wrong."""

    form = "labels"
    best = "low"
    decides = True

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, 1)."""
        return ((output > 0) != (target > 0.5)).double().mean(1, keepdim=True)


class _Counted(Means):
    """A function of each label's hits, of how often it was decided, and of how often it holds."""

    form = "labels"
    decides = True

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, 3 labels)."""
        decided, holds = output > 0, target > 0.5
        return torch.cat([decided & holds, decided, holds], 1)


class MacroF1(_Counted):
    """F1 of each label, averaged over labels that hold or were decided somewhere."""

    watched = True

    def of(self, means: Tensor) -> Tensor:
        """(replicates,)."""
        return mean_where(*f1_of(means))


class MicroF1(_Counted):
    """F1 of all labels of all rows as one."""

    watched = True

    def of(self, means: Tensor) -> Tensor:
        """(replicates,)."""
        hits, decided, holds = (part.sum(1) for part in means.chunk(3, 1))
        return torch.where(decided + holds > 0, 2 * hits / (decided + holds), 0.0)


class LabelsROCAUC(Weighted):
    """Area under the ROC curve of each label, averaged over labels that hold for some rows and not for others."""

    form = "labels"
    watched = True

    def measure(self, output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """(replicates,)."""
        found = torch.stack([area_under_roc(r, weights) for r in _rankings(output, target)], 1)
        return mean_where(found, ~found.isnan())


class LabelsAveragePrecision(Weighted):
    """Average precision of each label, averaged over labels that hold for some rows."""

    form = "labels"

    def measure(self, output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """(replicates,)."""
        found = torch.stack([average_precision(r, weights) for r in _rankings(output, target)], 1)
        return mean_where(found, ~found.isnan())


class LabelsLogLoss(Means):
    """Mean binary cross-entropy over rows and labels, in nats."""

    form = "labels"
    best = "low"
    watched = True

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, 1)."""
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            output.double(), target.double(), reduction="none"
        )
        return losses.mean(1, keepdim=True)


def f1_of(means: Tensor) -> tuple[Tensor, Tensor]:
    """F1 of each label and whether it is defined, (replicates, labels), from (replicates, 3 labels)."""
    hits, decided, holds = means.chunk(3, 1)
    some = decided + holds > 0
    return torch.where(some, 2 * hits / (decided + holds), 0.0), some


def _rankings(output: Tensor, target: Tensor) -> list[Ranking]:
    return [Ranking.of(output[:, i], target[:, i] > 0.5) for i in range(output.shape[1])]
