"""Metrics over all rows at once, by form of output, computed by torchmetrics.

Each takes the raw outputs of a head, (rows, size), and the valid targets, and gives one number. All rows are needed at
once, because most of these are no means over batches. torchmetrics, which takes seconds to import, is imported when a
metric is built, before training, and not within its first evaluation.
"""

from __future__ import annotations

import math
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from reinforge.evaluation.options import (
    AccuracyOptions,
    BalancedAccuracyOptions,
    F1Options,
    LogLossOptions,
    MAEOptions,
    R2Options,
    RMSEOptions,
)
from reinforge.registry import REGISTRY, Options


class Metric(Protocol):
    """One number from outputs (rows, size) and targets; `form` is the form of output that it is for."""

    form: ClassVar[str]

    def __call__(self, output: Tensor, target: Tensor) -> float: ...


class Accuracy:
    """Part of the rows whose highest logit is the target's."""

    form: ClassVar[str] = "category"

    def __init__(self, options: AccuracyOptions) -> None:
        from torchmetrics.functional.classification import multiclass_accuracy

        self._measure = multiclass_accuracy

    def __call__(self, output: Tensor, target: Tensor) -> float:
        return float(self._measure(output, target, output.shape[1], average="micro", validate_args=False))


class BalancedAccuracy:
    """Mean recall over the classes that occur among the targets."""

    form: ClassVar[str] = "category"

    def __init__(self, options: BalancedAccuracyOptions) -> None:
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        self._confusion = multiclass_confusion_matrix

    def __call__(self, output: Tensor, target: Tensor) -> float:
        # Not torchmetrics' macro accuracy: that counts a class which is only predicted as a recall of 0.
        confusion = self._confusion(output, target, output.shape[1], validate_args=False).double()
        support = confusion.sum(1)
        return float((confusion.diagonal() / support)[support > 0].mean())


class F1:
    """F1 averaged over the classes that occur among targets or predictions."""

    form: ClassVar[str] = "category"

    def __init__(self, options: F1Options) -> None:
        from torchmetrics.functional.classification import multiclass_f1_score

        self._measure = multiclass_f1_score

    def __call__(self, output: Tensor, target: Tensor) -> float:
        return float(self._measure(output, target, output.shape[1], average="macro", validate_args=False))


class LogLoss:
    """Mean of -log softmax(output)[target], in nats; without the smoothing that training may use."""

    form: ClassVar[str] = "category"

    def __init__(self, options: LogLossOptions) -> None:
        pass

    def __call__(self, output: Tensor, target: Tensor) -> float:
        return float(torch.nn.functional.cross_entropy(output.double(), target))


class R2:
    """1 - residual / total sum of squares, averaged over a row's values; not a number for fewer than two rows."""

    form: ClassVar[str] = "number"

    def __init__(self, options: R2Options) -> None:
        from torchmetrics.functional.regression import r2_score

        self._measure = r2_score

    def __call__(self, output: Tensor, target: Tensor) -> float:
        if output.shape[0] < 2:
            return math.nan
        return float(self._measure(output.double(), target.view_as(output).double()))


class RMSE:
    """Root of the mean squared error."""

    form: ClassVar[str] = "number"

    def __init__(self, options: RMSEOptions) -> None:
        from torchmetrics.functional.regression import mean_squared_error

        self._measure = mean_squared_error

    def __call__(self, output: Tensor, target: Tensor) -> float:
        pair = output.double().flatten(), target.double().flatten()
        return float(self._measure(*pair, squared=False))


class MAE:
    """Mean absolute error."""

    form: ClassVar[str] = "number"

    def __init__(self, options: MAEOptions) -> None:
        from torchmetrics.functional.regression import mean_absolute_error

        self._measure = mean_absolute_error

    def __call__(self, output: Tensor, target: Tensor) -> float:
        return float(self._measure(output.double().flatten(), target.double().flatten()))


def metrics_for(form: str) -> dict[str, Metric]:
    """All registered metrics for a form of output, by name."""
    found: dict[str, Metric] = {}
    for component in REGISTRY.all("metric"):
        if getattr(component.load(), "form", None) == form:
            options: Options = component.options()
            found[component.name] = REGISTRY.build("metric", options)
    return found
