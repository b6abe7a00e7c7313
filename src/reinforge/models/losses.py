"""Losses of one row, by form of output: output (rows, size) and target to (rows,) float32.

`total` gives their sum in fewer operations, which is what a small network's update consists of.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor
from torch.nn import functional

from reinforge.models.options import (
    CrossEntropyOptions,
    HuberOptions,
    MeanAbsoluteErrorOptions,
    MeanSquaredErrorOptions,
)


class RowLoss(Protocol):
    """Output (rows, size) and target to (rows,). It may offer `total`, which takes the same and gives the rows' sum."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor: ...


def total_of(loss: RowLoss) -> RowLoss:
    """The sum over rows: the loss's own `total`, else the sum of what it gives."""
    own: RowLoss | None = getattr(loss, "total", None)
    return own or (lambda output, target: loss(output, target).sum())


class _NumberLoss:
    """A loss of torch's over single values; a row's is the mean over its values."""

    form: ClassVar[str] = "number"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows,)."""
        values = self._values(output, target.view_as(output), "none")
        return values.mean(-1) if output.shape[-1] > 1 else values.flatten()

    def total(self, output: Tensor, target: Tensor) -> Tensor:
        """The rows' sum, 0-d."""
        values, size = self._values(output, target.view_as(output), "sum"), output.shape[-1]
        return values / size if size > 1 else values

    def _values(self, output: Tensor, target: Tensor, reduction: str) -> Tensor:
        raise NotImplementedError


class MeanSquaredError(_NumberLoss):
    """Mean over a row's values of (output - target)^2."""

    def __init__(self, options: MeanSquaredErrorOptions) -> None:
        pass

    def _values(self, output: Tensor, target: Tensor, reduction: str) -> Tensor:
        return functional.mse_loss(output, target, reduction=reduction)


class MeanAbsoluteError(_NumberLoss):
    """Mean over a row's values of |output - target|."""

    def __init__(self, options: MeanAbsoluteErrorOptions) -> None:
        pass

    def _values(self, output: Tensor, target: Tensor, reduction: str) -> Tensor:
        return functional.l1_loss(output, target, reduction=reduction)


class Huber(_NumberLoss):
    """Mean over a row's values of Huber's loss: d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2)."""

    def __init__(self, options: HuberOptions) -> None:
        self.delta = options.delta

    def _values(self, output: Tensor, target: Tensor, reduction: str) -> Tensor:
        return functional.huber_loss(output, target, reduction=reduction, delta=self.delta)


class CrossEntropy:
    """-log softmax(output)[target] for logits (rows, classes) and target (rows,) int64, smoothed if wanted."""

    form: ClassVar[str] = "category"

    def __init__(self, options: CrossEntropyOptions) -> None:
        self.smoothing = options.smoothing

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows,)."""
        return functional.cross_entropy(output, target, reduction="none", label_smoothing=self.smoothing)

    def total(self, output: Tensor, target: Tensor) -> Tensor:
        """The rows' sum, 0-d."""
        return functional.cross_entropy(output, target, reduction="sum", label_smoothing=self.smoothing)
