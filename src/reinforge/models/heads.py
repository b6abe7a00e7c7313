"""Heads: features to one output. They own the loss of a row, the decoding and the distribution."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, distributions, nn

from reinforge.errors import ComponentError
from reinforge.models.grow import grow_rows
from reinforge.models.losses import row_loss, total_of
from reinforge.models.options import CategoryOptions, CountOptions, LabelsOptions, LossOptions, NumberOptions
from reinforge.registry import REGISTRY, Options
from reinforge.schema.signature import Output

# exp of it is the largest rate that fp32 holds, nearly.
_LARGEST_LOG = 88.0


class Head(nn.Module):
    """What every head offers. `features` None: the output is given as it is, and there is nothing to learn.

    A head that `reads` a sequence is called with what the encoder of the block `output.of` gives by `sequence`, and is
    built for that encoder's `token_features`; others are called with the body's features.
    Raises ComponentError where the output has none of the head's `forms`.
    """

    forms: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[Literal["features", "sequence"]] = "features"

    def __init__(self, output: Output, features: int | None) -> None:
        super().__init__()
        if output.form not in self.forms:
            raise ComponentError(
                f"it is for {' and '.join(self.forms)} outputs, not {output.form}",
                where=f"head {type(self).__name__!r}",
            )
        self.output = output
        self.projection = nn.Identity() if features is None else nn.Linear(features, output.size)

    def forward(self, features: Tensor) -> Tensor:
        """(..., features) to (..., size), float32 whatever the weights' precision."""
        if isinstance(self.projection, nn.Linear):
            features = features.to(self.projection.weight.dtype)
        output: Tensor = self.projection(features)
        return output.float()

    def grow_from(self, old: Head) -> None:
        """Take the weights of a head with fewer classes: they come first."""
        grow_rows(self, old)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows, size) and the target to (rows,)."""
        raise NotImplementedError

    def total(self, output: Tensor, target: Tensor) -> Tensor:
        """The sum of `loss` over rows, 0-d."""
        return self.loss(output, target).sum()

    def decode(self, output: Tensor) -> dict[str, Tensor]:
        """What a reader wants, by name, one row each."""
        raise NotImplementedError

    def distribution(self, output: Tensor) -> distributions.Distribution:
        """The distribution of the target that the output stands for."""
        raise NotImplementedError


class ByLoss(Head):
    """A head whose loss of a row is a component of its own."""

    def __init__(self, options: LossOptions, output: Output, features: int | None) -> None:
        super().__init__(output, features)
        self.row_loss = row_loss(options.loss, output)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows,), by the chosen loss."""
        return self.row_loss(output, target)

    def total(self, output: Tensor, target: Tensor) -> Tensor:
        """Their sum, by the chosen loss."""
        return total_of(self.row_loss)(output, target)


class Number(ByLoss):
    """Numbers: (rows, size) float32. `decode` gives "value": (rows,) where size is 1, else (rows, size)."""

    forms = ("number", "continuous")

    def __init__(self, options: NumberOptions, output: Output, features: int | None = None) -> None:
        super().__init__(options, output, features)

    def decode(self, output: Tensor) -> dict[str, Tensor]:
        """{"value"}."""
        return {"value": output.squeeze(-1) if self.output.size == 1 else output}

    def distribution(self, output: Tensor) -> distributions.Distribution:
        """A normal distribution of scale 1, whose log-likelihood the squared error is (up to a constant and factor)."""
        return distributions.Independent(distributions.Normal(output, torch.ones_like(output)), 1)


class Category(ByLoss):
    """Logits: (rows, classes) float32. `decode` gives "label" (rows,) int64 and "probabilities" (rows, classes)."""

    forms = ("category", "discrete")

    def __init__(self, options: CategoryOptions, output: Output, features: int | None = None) -> None:
        super().__init__(options, output, features)

    def decode(self, output: Tensor) -> dict[str, Tensor]:
        """{"label", "probabilities"}."""
        return {"label": output.argmax(-1), "probabilities": output.softmax(-1)}

    def distribution(self, output: Tensor) -> distributions.Distribution:
        """Categorical, from logits."""
        return distributions.Categorical(logits=output)


class Labels(ByLoss):
    """A logit for each label: (rows, labels) float32. `decode` gives "labels", 1 where more likely than not, and
    "probabilities", both (rows, labels) float32."""

    forms = ("labels",)

    def __init__(self, options: LabelsOptions, output: Output, features: int | None = None) -> None:
        super().__init__(options, output, features)

    def decode(self, output: Tensor) -> dict[str, Tensor]:
        """{"labels", "probabilities"}."""
        return {"labels": (output > 0).float(), "probabilities": output.sigmoid()}

    def distribution(self, output: Tensor) -> distributions.Distribution:
        """Independent Bernoulli distributions."""
        return distributions.Independent(distributions.Bernoulli(logits=output), 1)


class Count(ByLoss):
    """The logarithm of a rate: (rows, 1) float32. `decode` gives "value" (rows,), the rate, which is the expected
    count, and "count" (rows,), the likeliest one. Rates end where fp32 does."""

    forms = ("count",)

    def __init__(self, options: CountOptions, output: Output, features: int | None = None) -> None:
        super().__init__(options, output, features)

    def decode(self, output: Tensor) -> dict[str, Tensor]:
        """{"value", "count"}."""
        rate = self.rate(output).squeeze(-1)
        return {"value": rate, "count": rate.floor()}

    def distribution(self, output: Tensor) -> distributions.Distribution:
        """Poisson."""
        return distributions.Independent(distributions.Poisson(self.rate(output)), 1)

    def rate(self, output: Tensor) -> Tensor:
        """Expected counts, of the same shape."""
        return output.clamp(max=_LARGEST_LOG).exp()


def build_head(output: Output, features: int | None = None, options: Options | None = None) -> Head:
    """The head of an output: the one named, else the one named like the output's form."""
    options = options if options is not None else REGISTRY.find("head", output.form).options()
    head: Head = REGISTRY.build("head", options, output, features)
    return head
