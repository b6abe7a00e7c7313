"""Losses of one row, by form of output: output (rows, size) and target to (rows,) float32.

With `reduction="sum"`, to their sum: fewer operations, which is what a small network's update consists of.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional

from reinforge.models.options import (
    CrossEntropyOptions,
    HuberOptions,
    MeanAbsoluteErrorOptions,
    MeanSquaredErrorOptions,
)

Reduction = Literal["none", "sum"]


def _over_rows(values: Tensor, size: int, reduction: Reduction) -> Tensor:
    """From a loss of each value, or its sum over all, to that of the rows: means over a row's `size` values."""
    if reduction == "sum":
        return values / size if size > 1 else values
    return values.mean(-1) if size > 1 else values.flatten()


class MeanSquaredError:
    """Mean over a row's values of (output - target)^2."""

    form: ClassVar[str] = "number"

    def __init__(self, options: MeanSquaredErrorOptions) -> None:
        pass

    def __call__(self, output: Tensor, target: Tensor, reduction: Reduction = "none") -> Tensor:
        values = functional.mse_loss(output, target.view_as(output), reduction=reduction)
        return _over_rows(values, output.shape[-1], reduction)


class MeanAbsoluteError:
    """Mean over a row's values of |output - target|."""

    form: ClassVar[str] = "number"

    def __init__(self, options: MeanAbsoluteErrorOptions) -> None:
        pass

    def __call__(self, output: Tensor, target: Tensor, reduction: Reduction = "none") -> Tensor:
        values = functional.l1_loss(output, target.view_as(output), reduction=reduction)
        return _over_rows(values, output.shape[-1], reduction)


class Huber:
    """Mean over a row's values of Huber's loss: d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2)."""

    form: ClassVar[str] = "number"

    def __init__(self, options: HuberOptions) -> None:
        self.delta = options.delta

    def __call__(self, output: Tensor, target: Tensor, reduction: Reduction = "none") -> Tensor:
        values = functional.huber_loss(output, target.view_as(output), reduction=reduction, delta=self.delta)
        return _over_rows(values, output.shape[-1], reduction)


class CrossEntropy:
    """-log softmax(output)[target] for logits (rows, classes) and target (rows,) int64, smoothed if wanted."""

    form: ClassVar[str] = "category"

    def __init__(self, options: CrossEntropyOptions) -> None:
        self.smoothing = options.smoothing

    def __call__(self, output: Tensor, target: Tensor, reduction: Reduction = "none") -> Tensor:
        return functional.cross_entropy(output, target, reduction=reduction, label_smoothing=self.smoothing)
