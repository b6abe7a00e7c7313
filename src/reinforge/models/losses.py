"""Losses of one row, by form of output: output (rows, size) and target to (rows,) float32."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from reinforge.models.options import (
    CrossEntropyOptions,
    HuberOptions,
    MeanAbsoluteErrorOptions,
    MeanSquaredErrorOptions,
)


def _row_mean(values: Tensor) -> Tensor:
    # One value a row is the common case, and a reshape is cheaper than a mean.
    return values.flatten() if values.shape[-1] == 1 else values.mean(-1)


class MeanSquaredError:
    """Mean over a row's values of (output - target)^2."""

    form: ClassVar[str] = "number"

    def __init__(self, options: MeanSquaredErrorOptions) -> None:
        pass

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return _row_mean((output - target.view_as(output)).square())


class MeanAbsoluteError:
    """Mean over a row's values of |output - target|."""

    form: ClassVar[str] = "number"

    def __init__(self, options: MeanAbsoluteErrorOptions) -> None:
        pass

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return _row_mean((output - target.view_as(output)).abs())


class Huber:
    """Mean over a row's values of Huber's loss: d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2)."""

    form: ClassVar[str] = "number"

    def __init__(self, options: HuberOptions) -> None:
        self.delta = options.delta

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return _row_mean(functional.huber_loss(output, target.view_as(output), reduction="none", delta=self.delta))


class CrossEntropy:
    """-log softmax(output)[target] for logits (rows, classes) and target (rows,) int64, smoothed if wanted."""

    form: ClassVar[str] = "category"

    def __init__(self, options: CrossEntropyOptions) -> None:
        self.smoothing = options.smoothing

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target, reduction="none", label_smoothing=self.smoothing)
