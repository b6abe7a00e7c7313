"""Metrics of one class out of several: logits (rows, classes) and targets (rows,) int64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reinforge.evaluation.metrics.metric import Confused, Means, Weighted, mean_where
from reinforge.evaluation.metrics.ranking import Ranking, area_under_roc, average_precision
from reinforge.evaluation.options import CalibrationErrorOptions


class Accuracy(Confused):
    """Part of the rows whose class is right."""

    form = "category"
    watched = True

    def of(self, confusion: Tensor) -> Tensor:
        """(replicates,)."""
        return confusion.diagonal(dim1=1, dim2=2).sum(1) / confusion.sum((1, 2))


class BalancedAccuracy(Confused):
    """Mean recall over the classes that occur among the targets."""

    form = "category"
    watched = True

    def of(self, confusion: Tensor) -> Tensor:
        """(replicates,)."""
        support = confusion.sum(2)
        return mean_where(confusion.diagonal(dim1=1, dim2=2) / support, support > 0)


class Precision(Confused):
    """Precision averaged over the classes that occur among targets or decisions; 0 for one that was never decided."""

    form = "category"

    def of(self, confusion: Tensor) -> Tensor:
        """(replicates,)."""
        return _macro(confusion, confusion.sum(1))


class Recall(Confused):
    """Recall averaged over the classes that occur among targets or decisions; 0 for one that never was the target."""

    form = "category"

    def of(self, confusion: Tensor) -> Tensor:
        """(replicates,)."""
        return _macro(confusion, confusion.sum(2))


class F1(Confused):
    """F1 averaged over the classes that occur among targets or decisions."""

    form = "category"
    watched = True

    def of(self, confusion: Tensor) -> Tensor:
        """(replicates,)."""
        return _macro(confusion, (confusion.sum(1) + confusion.sum(2)) / 2)


class Matthews(Confused):
    """Matthews' correlation of targets and decisions, for any number of classes; 0 where one of them is constant.

    Gorodkin (2004), "Comparing two K-category assignments by a K-category correlation coefficient".
    """

    form = "category"

    def of(self, confusion: Tensor) -> Tensor:
        """(replicates,)."""
        right, total = confusion.diagonal(dim1=1, dim2=2).sum(1), confusion.sum((1, 2))
        true, decided = confusion.sum(2), confusion.sum(1)
        together = right * total - (true * decided).sum(1)
        spread = (total**2 - true.square().sum(1)) * (total**2 - decided.square().sum(1))
        return torch.where(spread > 0, together / spread.clamp(min=1e-300).sqrt(), 0.0)


class ROCAUC(Weighted):
    """Area under the ROC curve; of more than two classes, the mean of each against the rest where both occur."""

    form = "category"
    watched = True

    def measure(self, output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """(replicates,)."""
        return one_against_rest(area_under_roc, output, target, weights)


class AveragePrecision(Weighted):
    """Average precision; of more than two classes, the mean of each against the rest where both occur."""

    form = "category"

    def measure(self, output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """(replicates,)."""
        return one_against_rest(average_precision, output, target, weights)


class LogLoss(Means):
    """Mean of -log softmax(output)[target], in nats; without the smoothing that training may use."""

    form = "category"
    best = "low"
    watched = True

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, 1)."""
        return torch.nn.functional.cross_entropy(output.double(), target, reduction="none")[:, None]


class Brier(Means):
    """Mean squared distance of the probabilities from what is: summed over classes, for two of them halved."""

    form = "category"
    best = "low"

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, 1)."""
        there = torch.nn.functional.one_hot(target, output.shape[1])
        distance = (output.double().softmax(1) - there).square().sum(1, keepdim=True)
        return distance / 2 if output.shape[1] == 2 else distance


class CalibrationError(Means):
    """Expected calibration error: mean over bins of equal width of |confidence - accuracy|, weighted by their rows.

    Guo et al. (2017), "On Calibration of Modern Neural Networks". The confidence is the greatest probability.
    """

    form = "category"
    best = "low"
    pivot = True

    def __init__(self, options: CalibrationErrorOptions) -> None:
        self.bins = options.bins

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, bins): how far the confidence is above the truth, in the row's bin."""
        confidence, decided = output.double().softmax(1).max(1)
        gap = confidence - (decided == target).double()
        rows = torch.arange(len(gap), device=gap.device)
        found = gap.new_zeros(len(gap), self.bins)
        found[rows, bin_of(confidence, self.bins)] = gap
        return found

    def of(self, means: Tensor) -> Tensor:
        """(replicates,)."""
        return means.abs().sum(1)


def bin_of(probability: Tensor, bins: int) -> Tensor:
    """(rows,) the bin of equal width, closed to the right, that a probability falls into."""
    return ((probability * bins).ceil().long() - 1).clamp(0, bins - 1)


def one_against_rest(
    area: Callable[[Ranking, Tensor], Tensor], output: Tensor, target: Tensor, weights: Tensor
) -> Tensor:
    """(replicates,) of a ranking's measure, of the second of two classes or averaged over more."""
    if output.shape[1] == 2:
        return area(Ranking.of(output[:, 1].double() - output[:, 0].double(), target == 1), weights)
    probabilities = output.double().softmax(1)
    found = []
    for code in range(output.shape[1]):
        positive = target == code
        # What only rounding sets apart should rank the same in any number of threads, so no less precise than this.
        measured = area(Ranking.of(probabilities[:, code], positive), weights)
        found.append(torch.where(_both(weights, positive), measured, torch.nan))
    stacked = torch.stack(found, 1)
    return mean_where(stacked, ~stacked.isnan())


def _both(weights: Tensor, positive: Tensor) -> Tensor:
    some = weights @ positive.double()
    return (some > 0) & (some < weights.sum(1))


def _macro(confusion: Tensor, below: Tensor) -> Tensor:
    right = confusion.diagonal(dim1=1, dim2=2)
    occurs = confusion.sum(1) + confusion.sum(2) > 0
    return mean_where(right / below.clamp(min=torch.finfo(below.dtype).tiny), occurs)
