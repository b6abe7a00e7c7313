"""A Transformer over the rows of a matrix of numbers. Shape suffixes: b rows, t places, d width."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from reinforge.errors import ComponentError
from reinforge.models.options import TransformerOptions
from reinforge.models.policy_options import AttentionOptions
from reinforge.models.transformer import Layer
from reinforge.schema.signature import Input


class Attention(nn.Module):
    """Numbers (rows, places, n) to (rows, width): each place through a linear layer, then layers of attention over all
    places of a row, as the encoder of tokens has them, then their mean or the last one.

    Without positions, places are a set: their order changes nothing but the last one.
    """

    def __init__(self, options: AttentionOptions, block: Input) -> None:
        super().__init__()
        if block.form != "box" or len(block.shape) != 2:
            raise ComponentError(
                f"it takes boxes of places and numbers, not {block.form} of shape {block.shape}",
                where="encoder 'attention'",
                remedy="Give a policy several `frames`, or name another encoder.",
            )
        places, numbers = block.shape
        self.enter = nn.Linear(numbers, options.width)
        self.positions = nn.Parameter(torch.randn(places, options.width) * 0.02) if options.positions else None
        layer = TransformerOptions(
            width=options.width, heads=options.heads, hidden=options.hidden, dropout=options.dropout,
            positions="learned",
        )  # fmt: skip
        self.layers = nn.ModuleList(Layer(layer) for _ in range(options.layers))
        self.norm = nn.LayerNorm(options.width)
        self.how, self.features = options.pool, options.width

    def forward(self, block: Tensor) -> Tensor:
        """(rows, width)."""
        x_btd = self.enter(block.to(self.enter.weight.dtype))
        if self.positions is not None:
            x_btd = x_btd + self.positions
        for layer in cast("Iterable[Layer]", self.layers):
            x_btd = layer(x_btd, None, None, None)
        x_btd = self.norm(x_btd)
        return cast(Tensor, x_btd.mean(1) if self.how == "mean" else x_btd[:, -1])
