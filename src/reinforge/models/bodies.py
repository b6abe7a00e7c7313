"""Bodies: what lies between encoders and heads. forward(features, state) -> (features, state)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from reinforge.core.batch import Batch
from reinforge.models.activations import ACTIVATIONS
from reinforge.models.options import IdentityOptions, MLPOptions, ResidualMLPOptions


class Identity(nn.Module):
    """Features as they are: (rows, features) to the same."""

    def __init__(self, options: IdentityOptions, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, features: Tensor, state: Batch | None = None) -> tuple[Tensor, Batch | None]:
        return features, state

    def initial_state(self, n: int) -> Batch | None:
        return None


class MLP(nn.Module):
    """Linear, norm, activation, dropout for each size: (..., features) to (..., sizes[-1])."""

    def __init__(self, options: MLPOptions, features: int) -> None:
        super().__init__()
        widths = (features, *options.sizes)
        self.linears = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in options.sizes) if options.norm == "layer" else None
        self.activation = ACTIVATIONS[options.activation]
        self.dropout = options.dropout
        self.features = options.sizes[-1]

    def forward(self, features: Tensor, state: Batch | None = None) -> tuple[Tensor, Batch | None]:
        for i, linear in enumerate(cast("Iterable[nn.Linear]", self.linears)):
            features = linear(features.to(linear.weight.dtype))
            if self.norms is not None:
                features = self.norms[i](features)
            features = self.activation(features)
            if self.dropout:
                features = functional.dropout(features, self.dropout, self.training)
        return features, state

    def initial_state(self, n: int) -> Batch | None:
        return None


class ResidualMLP(nn.Module):
    """Linear to the width; blocks x + dropout(linear(dropout(activation(linear(norm(x)))))); norm and activation.

    The ResNet of Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data" (arXiv:2106.11959), section 3.2,
    with layer normalisation for batch normalisation, so that a row's result does not depend on others.
    """

    def __init__(self, options: ResidualMLPOptions, features: int) -> None:
        super().__init__()
        width, hidden = options.width, options.hidden or 2 * options.width
        self.first = nn.Linear(features, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(options.blocks + 1))
        self.ups = nn.ModuleList(nn.Linear(width, hidden) for _ in range(options.blocks))
        self.downs = nn.ModuleList(nn.Linear(hidden, width) for _ in range(options.blocks))
        self.activation = ACTIVATIONS[options.activation]
        self.dropout = options.dropout
        self.features = width

    def forward(self, features: Tensor, state: Batch | None = None) -> tuple[Tensor, Batch | None]:
        x = self.first(features.to(self.first.weight.dtype))
        for norm, up, down in zip(self.norms, self.ups, self.downs):
            x = x + self._drop(down(self._drop(self.activation(up(norm(x))))))
        return self.activation(self.norms[-1](x)), state

    def initial_state(self, n: int) -> Batch | None:
        return None

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training) if self.dropout else x
