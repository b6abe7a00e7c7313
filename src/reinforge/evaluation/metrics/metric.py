"""What a metric is, and the two ways in which most are computed: from means over rows, or from a confusion matrix.

A bootstrap's replicate is a weighting of the rows by how often each was drawn. So metrics here are functions of
weighted rows, for many weightings at once. They are closed forms on torch: torchmetrics takes longer to import (2.7 s)
than many a run lasts, and weighs no rows. It is their oracle in the tests, beside scikit-learn.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from reinforge.registry import REGISTRY, Options


class Metric(Protocol):
    """One number from outputs and targets; `form` is the form of output that it is for.

    category and labels: logits (rows, size). number and count: values (rows, size), in the data's units. ordinal: the
    decided class (rows,). span: the decided first and last token (rows, 2). Targets are as in a batch.
    """

    form: ClassVar[str]

    def __call__(self, output: Tensor, target: Tensor) -> float: ...


class Weighted:
    """A metric of weighted rows.

    `best`: whether high or low values are good. `decides`: it looks at the decision alone, so that logits arrive moved
    by the threshold. `watched`: it is measured during training too. `standard`: it is measured without being asked for.
    `pivot`: resampling biases it, so its interval is mirrored at the estimate.
    """

    form: ClassVar[str]
    best: ClassVar[Literal["high", "low"]] = "high"
    decides: ClassVar[bool] = False
    watched: ClassVar[bool] = False
    standard: ClassVar[bool] = True
    pivot: ClassVar[bool] = False

    def __init__(self, options: Options) -> None:
        pass

    def __call__(self, output: Tensor, target: Tensor) -> float:
        """The metric with every row counted once; not a number where the rows don't define it."""
        weights = torch.ones(1, len(output), dtype=torch.float64, device=output.device)
        return float(self.measure(output, target, weights)[0])

    def measure(self, output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """(replicates,) float64 for weights (replicates, rows) float64."""
        raise NotImplementedError


class Means(Weighted):
    """A function of the means over rows of some statistics."""

    def measure(self, output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """(replicates,)."""
        statistics = self.statistics(output, target).double()
        return self.of(weights @ statistics / weights.sum(1, keepdim=True))

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, statistics)."""
        raise NotImplementedError

    def of(self, means: Tensor) -> Tensor:
        """(replicates, statistics) to (replicates,); the only statistic's mean by default."""
        return means[:, 0]


class Confused(Weighted):
    """A function of the confusion matrix."""

    decides = True

    def measure(self, output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """(replicates,)."""
        return self.of(self.confusion(output, target, weights))

    def confusion(self, output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """(replicates, classes, classes) sums of weights by target and decision."""
        return confusions(output.argmax(1), target, output.shape[1], weights)

    def of(self, confusion: Tensor) -> Tensor:
        """(replicates, classes, classes) weights by target and decision, to (replicates,)."""
        raise NotImplementedError


def confusions(decided: Tensor, target: Tensor, classes: int, weights: Tensor) -> Tensor:
    """(replicates, classes, classes) sums of weights by target and decision."""
    cells = target * classes + decided
    found = torch.zeros(len(weights), classes * classes, dtype=weights.dtype, device=weights.device)
    return found.index_add_(1, cells, weights).view(-1, classes, classes)


def mean_where(values: Tensor, there: Tensor) -> Tensor:
    """The mean over the last dimension of what is there; not a number where nothing is."""
    return values.masked_fill(~there, 0).sum(-1) / there.sum(-1)


def metrics_for(form: str, more: Iterable[Options] = ()) -> dict[str, Metric]:
    """The registered metrics for a form of output that are measured unasked, by name, and those of `more` that fit."""
    found: dict[str, Metric] = {}
    for component in REGISTRY.all("metric"):
        target: Any = component.load()
        if getattr(target, "form", None) == form and getattr(target, "standard", True):
            found[component.name] = REGISTRY.build("metric", component.options())
    for options in more:
        metric: Metric = REGISTRY.build("metric", options)
        if metric.form == form:
            found[getattr(options, "kind", "?")] = metric
    return found
