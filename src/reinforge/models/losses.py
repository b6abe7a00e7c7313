"""Losses of one row, by form of output: output (rows, size) and target to (rows,) float32.

`total` gives their sum in fewer operations, which is what a small network's update consists of.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from reinforge.errors import ComponentError
from reinforge.models.options import (
    BinaryCrossEntropyOptions,
    BinaryFocalOptions,
    ClassLossOptions,
    ClassWeights,
    CrossEntropyOptions,
    FocalOptions,
    HuberOptions,
    LabelLossOptions,
    MeanAbsoluteErrorOptions,
    MeanSquaredErrorOptions,
    PoissonOptions,
    QuantileOptions,
)
from reinforge.registry import REGISTRY, Options
from reinforge.schema.signature import Output

# Outputs that are read like another form, and so take its losses.
READ_LIKE = {"ordinal": "category", "discrete": "category", "continuous": "number"}
# From this log rate on the exponential goes on as its tangent: a rate of 5e8, far from fp32's end.
_STEEPEST = 20.0


class RowLoss(Protocol):
    """Output (rows, size) and target to (rows,). It may offer `total`, which takes the same and gives the rows' sum."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor: ...


def row_loss(options: Options, output: Output) -> RowLoss:
    """The loss that `options` name, for the rows of `output`.

    Raises ComponentError where it is for another form of output, or has weights for another number of classes.
    """
    loss: RowLoss = REGISTRY.build("loss", options)
    name = f"loss {getattr(options, 'kind', '?')!r}"
    form = READ_LIKE.get(output.form, output.form)
    wanted = getattr(loss, "form", form)
    if wanted != form:
        fitting = [c.name for c in REGISTRY.all("loss") if getattr(c.load(), "form", None) == form]
        raise ComponentError(
            f"it is for {wanted} outputs, not {output.form}", where=name, remedy=f"Fitting: {', '.join(fitting)}."
        )
    weights = getattr(options, "weights", None)
    if weights is not None and len(weights) != output.size:
        raise ComponentError(
            f"it has {len(weights)} weights for {output.size} classes", where=name, remedy="Give one for each class."
        )
    return loss


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


class Quantile(_NumberLoss):
    """Mean over a row's values of the pinball loss: level d where d = target - output is positive, else (level - 1) d.

    Koenker and Bassett, "Regression Quantiles" (1978).
    """

    def __init__(self, options: QuantileOptions) -> None:
        self.level = options.level

    def _values(self, output: Tensor, target: Tensor, reduction: str) -> Tensor:
        missing = target - output
        values = torch.maximum(self.level * missing, (self.level - 1) * missing)
        return values.sum() if reduction == "sum" else values


class Poisson:
    """Half the unit deviance of counts: exp(o) - t o + t log t - t for log rates o (rows, 1) and counts t.

    Its gradient is that of the negative log-likelihood, and it is 0 where the rate is the count. Beyond a log rate of
    20 the exponential goes on as its tangent, so that no single row overflows.
    """

    form: ClassVar[str] = "count"

    def __init__(self, options: PoissonOptions) -> None:
        pass

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows,)."""
        target = target.view_as(output)
        low = output.clamp(max=_STEEPEST)
        rate = low.exp() * (1 + (output - low))
        return (rate - target * output + torch.xlogy(target, target) - target).flatten(1).mean(1)


class _Weights:
    """Weights of classes, on the device where they are asked for."""

    def __init__(self, weights: ClassWeights, name: str) -> None:
        if isinstance(weights, str):
            raise ComponentError(
                "balanced weights follow from the training rows, and here are none",
                where=f"loss {name!r}",
                remedy="Give the weights as numbers: reinforge.models.balance.balanced finds them.",
            )
        self.values = torch.tensor(weights) if weights is not None else None

    def on(self, device: torch.device) -> Tensor | None:
        """(classes,) float32, or None where all count alike."""
        if self.values is not None and self.values.device != device:
            self.values = self.values.to(device)
        return self.values


class _ClassLoss:
    """A loss of logits (rows, classes) and classes (rows,) int64, or probabilities (rows, classes).

    With weights, a row's loss is that of its class times the class's weight. The engine divides the sum by the number
    of rows, not by the sum of their weights: so the weight of a row does not depend on the rows beside it.
    """

    form: ClassVar[str] = "category"

    def __init__(self, options: ClassLossOptions) -> None:
        self.smoothing = options.smoothing
        self.weights = _Weights(options.weights, str(getattr(options, "kind", "?")))


class CrossEntropy(_ClassLoss):
    """-log softmax(output)[target], or its mean under the target's probabilities; smoothed, and weighted, if wanted."""

    def __init__(self, options: CrossEntropyOptions) -> None:
        super().__init__(options)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows,)."""
        return self._values(output, target, "none")

    def total(self, output: Tensor, target: Tensor) -> Tensor:
        """The rows' sum, 0-d."""
        return self._values(output, target, "sum")

    def _values(self, output: Tensor, target: Tensor, reduction: str) -> Tensor:
        weight = self.weights.on(output.device)
        return functional.cross_entropy(output, target, weight, reduction=reduction, label_smoothing=self.smoothing)


class Focal(_ClassLoss):
    """-(1 - p)^gamma log p of the right class, or its mean under the target's probabilities.

    Lin et al., "Focal Loss for Dense Object Detection" (arXiv:1708.02002), equations 4 and 5, for softmax; the weights
    are its alpha.
    """

    def __init__(self, options: FocalOptions) -> None:
        super().__init__(options)
        self.gamma = options.gamma

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows,)."""
        log_p = output.log_softmax(-1)
        losses = -_power(-log_p.expm1(), self.gamma) * log_p
        weight = self.weights.on(output.device)
        if weight is not None:
            losses = losses * weight
        if target.is_floating_point():
            right = (losses * target).sum(-1)
        else:
            right = losses.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        return torch.lerp(right, losses.mean(-1), self.smoothing) if self.smoothing else right


class _LabelLoss:
    """A loss of logits (rows, labels) and whether each label holds (rows, labels); a row's is the mean over labels."""

    form: ClassVar[str] = "labels"

    def __init__(self, options: LabelLossOptions) -> None:
        self.smoothing = options.smoothing
        self.weights = _Weights(options.weights, str(getattr(options, "kind", "?")))

    def _smooth(self, target: Tensor) -> Tensor:
        return target * (1 - self.smoothing) + self.smoothing / 2 if self.smoothing else target


class BinaryCrossEntropy(_LabelLoss):
    """-(t log p + (1 - t) log(1 - p)) with p = sigmoid(output): one-vs-rest, for labels that may hold together."""

    def __init__(self, options: BinaryCrossEntropyOptions) -> None:
        super().__init__(options)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows,)."""
        return self._values(output, target, "none").mean(-1)

    def total(self, output: Tensor, target: Tensor) -> Tensor:
        """The rows' sum, 0-d."""
        return self._values(output, target, "sum") / output.shape[-1]

    def _values(self, output: Tensor, target: Tensor, reduction: str) -> Tensor:
        positive = self.weights.on(output.device)
        return functional.binary_cross_entropy_with_logits(
            output, self._smooth(target), reduction=reduction, pos_weight=positive
        )


class BinaryFocal(_LabelLoss):
    """-(1 - q)^gamma log q with q the probability of what is so (arXiv:1708.02002, equation 4), label by label."""

    def __init__(self, options: BinaryFocalOptions) -> None:
        super().__init__(options)
        self.gamma = options.gamma

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows,)."""
        target = self._smooth(target)
        holds = -_power(torch.sigmoid(-output), self.gamma) * functional.logsigmoid(output)
        fails = -_power(torch.sigmoid(output), self.gamma) * functional.logsigmoid(-output)
        positive = self.weights.on(output.device)
        if positive is not None:
            holds = holds * positive
        return (target * holds + (1 - target) * fails).mean(-1)


def _power(base: Tensor, exponent: float) -> Tensor:
    """base ** exponent with a finite gradient where the base is 0: exponents below 1 are steep there."""
    return base.clamp(min=torch.finfo(base.dtype).eps).pow(exponent) if exponent else torch.ones_like(base)
