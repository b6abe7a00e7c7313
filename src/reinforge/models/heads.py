"""Heads: features to one output. They own the loss of a row, the decoding and the distribution."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, distributions, nn

from reinforge.errors import ComponentError
from reinforge.models.losses import RowLoss, total_of
from reinforge.models.options import CategoryOptions, NumberOptions
from reinforge.registry import REGISTRY, Options
from reinforge.schema.signature import Output


class Head(nn.Module):
    """What every head offers. `features` None: the output is given as it is, and there is nothing to learn.

    Raises ComponentError where the output has none of the head's `forms`.
    """

    forms: ClassVar[tuple[str, ...]] = ()

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


class Number(Head):
    """Numbers: (rows, size) float32. `decode` gives "value": (rows,) where size is 1, else (rows, size)."""

    forms = ("number", "continuous")

    def __init__(self, options: NumberOptions, output: Output, features: int | None = None) -> None:
        super().__init__(output, features)
        self.row_loss = row_loss(options.loss, "number")

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows,), by the chosen loss."""
        return self.row_loss(output, target)

    def total(self, output: Tensor, target: Tensor) -> Tensor:
        """Their sum, by the chosen loss."""
        return total_of(self.row_loss)(output, target)

    def decode(self, output: Tensor) -> dict[str, Tensor]:
        """{"value"}."""
        return {"value": output.squeeze(-1) if self.output.size == 1 else output}

    def distribution(self, output: Tensor) -> distributions.Distribution:
        """A normal distribution of scale 1, whose log-likelihood the squared error is (up to a constant and factor)."""
        return distributions.Independent(distributions.Normal(output, torch.ones_like(output)), 1)


class Category(Head):
    """Logits: (rows, classes) float32. `decode` gives "label" (rows,) int64 and "probabilities" (rows, classes)."""

    forms = ("category", "discrete")

    def __init__(self, options: CategoryOptions, output: Output, features: int | None = None) -> None:
        super().__init__(output, features)
        self.row_loss = row_loss(options.loss, "category")

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(rows,), by the chosen loss."""
        return self.row_loss(output, target)

    def total(self, output: Tensor, target: Tensor) -> Tensor:
        """Their sum, by the chosen loss."""
        return total_of(self.row_loss)(output, target)

    def decode(self, output: Tensor) -> dict[str, Tensor]:
        """{"label", "probabilities"}."""
        return {"label": output.argmax(-1), "probabilities": output.softmax(-1)}

    def distribution(self, output: Tensor) -> distributions.Distribution:
        """Categorical, from logits."""
        return distributions.Categorical(logits=output)


def row_loss(options: Options, form: str) -> RowLoss:
    """The loss that `options` name. Raises ComponentError where it is for another form of output."""
    loss: RowLoss = REGISTRY.build("loss", options)
    wanted = getattr(loss, "form", form)
    if wanted != form:
        name = getattr(options, "kind", "?")
        fitting = [c.name for c in REGISTRY.all("loss") if getattr(c.load(), "form", None) == form]
        raise ComponentError(
            f"it is for {wanted} outputs, not {form}", where=f"loss {name!r}", remedy=f"Fitting: {', '.join(fitting)}."
        )
    return loss


def build_head(output: Output, features: int | None = None, options: Options | None = None) -> Head:
    """The head of an output: the one named, else the one named like the output's form."""
    options = options if options is not None else REGISTRY.find("head", output.form).options()
    head: Head = REGISTRY.build("head", options, output, features)
    return head
