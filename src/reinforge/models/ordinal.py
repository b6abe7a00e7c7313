"""The head of classes in order."""

from __future__ import annotations

import torch
from torch import Tensor, distributions, nn
from torch.nn import functional

from reinforge.errors import ComponentError
from reinforge.models.heads import ByLoss
from reinforge.models.options import OrdinalOptions
from reinforge.schema.signature import Output


class Ordinal(ByLoss):
    """One score f against ordered thresholds: P(class <= k) = sigmoid(threshold_k - f); log-probabilities (rows,
    classes) float32, which are their own logits.

    `decode` gives "label" (rows,) int64, the likeliest; "median" (rows,) int64, the class with the least expected
    distance; "probabilities" (rows, classes). The proportional odds model of McCullagh, "Regression Models for Ordinal
    Data" (1980), equation 1.2. Thresholds are the first one plus softplus of what lies between, so they can't cross.
    """

    forms = ("ordinal",)

    def __init__(self, options: OrdinalOptions, output: Output, features: int | None = None) -> None:
        super().__init__(options, output, None)
        if output.size < 2:
            raise ComponentError(f"an order needs two classes, and there is {output.size}", where="head 'ordinal'")
        self.first: nn.Parameter | None = None
        if features is None:
            return
        self.projection = nn.Linear(features, 1, bias=False)
        # Classes that are equally likely where the score is 0.
        shares = torch.arange(1, output.size) / output.size
        thresholds = shares.logit()
        self.first = nn.Parameter(thresholds[:1].clone())
        # The inverse of softplus; a parameter of no elements would be one too many.
        self.between = nn.Parameter(thresholds.diff().expm1().log()) if output.size > 2 else None

    def forward(self, features: Tensor) -> Tensor:
        """(..., features) to (..., classes), float32 whatever the weights' precision."""
        if self.first is None:
            return super().forward(features)
        assert isinstance(self.projection, nn.Linear)
        score = self.projection(features.to(self.projection.weight.dtype)).float()
        first = self.first.float()
        if self.between is None:
            below, gaps = first - score, None
        else:
            gaps = functional.softplus(self.between.float())
            below = torch.cat([first, first + gaps.cumsum(0)]) - score
        lowest, highest = functional.logsigmoid(below[..., :1]), functional.logsigmoid(-below[..., -1:])
        if gaps is None:
            return torch.cat([lowest, highest], -1)
        # log(sigmoid(b) - sigmoid(a)) = log sigmoid(b) + log sigmoid(-a) + log(1 - exp(a - b)): exact in both tails.
        middle = (
            functional.logsigmoid(below[..., 1:]) + functional.logsigmoid(-below[..., :-1]) + (-(-gaps).expm1()).log()
        )
        return torch.cat([lowest, middle, highest], -1)

    def decode(self, output: Tensor) -> dict[str, Tensor]:
        """{"label", "median", "probabilities"}."""
        probabilities = output.softmax(-1)
        median = (probabilities.cumsum(-1) < 0.5).sum(-1).clamp(max=self.output.size - 1)
        return {"label": output.argmax(-1), "median": median, "probabilities": probabilities}

    def distribution(self, output: Tensor) -> distributions.Distribution:
        """Categorical."""
        return distributions.Categorical(logits=output)
