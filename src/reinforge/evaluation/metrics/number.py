"""Metrics of numbers and counts: values (rows, size) and targets of the same size, in the data's own units."""

from __future__ import annotations

import torch
from torch import Tensor

from reinforge.evaluation.metrics.metric import Means
from reinforge.evaluation.options import QuantileLossOptions


class R2(Means):
    """1 - residual / total sum of squares, averaged over a row's values; not a number for fewer than two rows."""

    form = "number"
    watched = True

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, 3 size): residuals squared, targets about their mean, and those squared."""
        target = target.view_as(output).double()
        centred = target - target.mean(0)
        return torch.cat([(output.double() - target).square(), centred, centred.square()], 1)

    def of(self, means: Tensor) -> Tensor:
        """(replicates,)."""
        residual, mean, square = means.chunk(3, 1)
        total = square - mean.square()
        return torch.where(total > 1e-12 * square, 1 - residual / total, torch.nan).mean(1)


class RMSE(Means):
    """Root of the mean squared error."""

    form = "number"
    best = "low"
    watched = True

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, 1)."""
        return _error(output, target).square().mean(1, keepdim=True)

    def of(self, means: Tensor) -> Tensor:
        """(replicates,)."""
        return means[:, 0].sqrt()


class MAE(Means):
    """Mean absolute error."""

    form = "number"
    best = "low"
    watched = True

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, 1)."""
        return _error(output, target).abs().mean(1, keepdim=True)


class MAPE(Means):
    """Mean of |error / target|; not a number where a target is 0 or too near to it for a share to mean anything."""

    form = "number"
    best = "low"

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, 1)."""
        target = target.view_as(output).double()
        safe = target.abs().min() > 1e-3 * target.abs().mean() if len(target) else torch.tensor(False)
        share = (_error(output, target) / target).abs().mean(1, keepdim=True)
        return torch.where(safe, share, torch.nan)


class QuantileLoss(Means):
    """Mean pinball loss of a quantile: an error upwards costs `quantile`, one downwards the rest.

    Koenker and Bassett (1978), "Regression quantiles".
    """

    form = "number"
    best = "low"
    standard = False

    def __init__(self, options: QuantileLossOptions) -> None:
        self.quantile = options.quantile

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, 1)."""
        above = -_error(output, target)
        return torch.maximum(self.quantile * above, (self.quantile - 1) * above).mean(1, keepdim=True)


class PoissonDeviance(Means):
    """Mean of 2 (y log(y / rate) - y + rate), for expected counts `rate`; 0 log 0 is 0."""

    form = "count"
    best = "low"
    watched = True

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, 1)."""
        rate = output.double()
        target = target.view_as(rate).double()
        return (2 * (torch.xlogy(target, target / rate) - target + rate)).mean(1, keepdim=True)


class CountMAE(MAE):
    """Mean absolute difference of expected and true counts."""

    form = "count"


def _error(output: Tensor, target: Tensor) -> Tensor:
    return output.double() - target.view_as(output).double()
