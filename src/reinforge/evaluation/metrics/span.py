"""Metrics of spans: first and last token (rows, 2), decided and true."""

from __future__ import annotations

import torch
from torch import Tensor

from reinforge.evaluation.metrics.metric import Means


class ExactMatch(Means):
    """Part of the rows whose first and last token are both right."""

    form = "span"
    watched = True

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, 1)."""
        return (output == target).all(1, keepdim=True)


class TokenF1(Means):
    """F1 of the tokens of the decided and the true span, averaged over rows.

    Rajpurkar et al. (2016), "SQuAD", by position rather than by word.
    """

    form = "span"
    watched = True

    def statistics(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, 1)."""
        lengths = [(span[:, 1] - span[:, 0] + 1).clamp(min=0) for span in (output, target)]
        first, last = torch.maximum(output[:, 0], target[:, 0]), torch.minimum(output[:, 1], target[:, 1])
        both = (last - first + 1).clamp(min=0)
        return (2 * both / (lengths[0] + lengths[1]).clamp(min=1))[:, None]
