"""An encoder of grids whose numbers are codes, not brightnesses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.errors import ComponentError
from reinforge.models.options import GridOptions
from reinforge.schema.signature import Input


class Grid(nn.Module):
    """Codes (rows, channels, height, width) to (rows, features): a vector for each code of each channel, their sum in
    each cell (or all codes as 0 and 1), 3x3 convolutions that keep the size, and all cells end to end."""

    base: Tensor

    def __init__(self, options: GridOptions, block: Input) -> None:
        super().__init__()
        if block.form not in ("image", "box") or len(block.shape) != 3:
            raise ComponentError(
                f"it takes codes of channels, height and width, not {block.form} of shape {block.shape}",
                where="encoder 'grid'",
                remedy="Name another encoder.",
            )
        channels, height, width = block.shape
        self.last = options.codes - 1
        # One table holds all channels, each from its own row on.
        self.register_buffer("base", torch.arange(channels).view(-1, 1, 1) * options.codes, persistent=False)
        self.table = None if options.width is None else nn.Embedding(channels * options.codes, options.width)
        before = channels * options.codes if options.width is None else options.width
        layers = []
        for after in options.channels:
            convolution = nn.Conv2d(before, after, 3, padding=1)
            nn.init.orthogonal_(convolution.weight, 2**0.5)
            nn.init.zeros_(cast(Tensor, convolution.bias))
            layers.append(convolution)
            before = after
        self.layers = nn.ModuleList(layers)
        self.features = before * height * width

    def forward(self, block: Tensor) -> Tensor:
        """(rows, features)."""
        codes = block.long().clamp(0, self.last)
        if self.table is None:
            maps = functional.one_hot(codes, self.last + 1).movedim(-1, 2).flatten(1, 2).float()
        else:
            maps = self.table(codes + self.base).sum(1).movedim(-1, 1)
        for layer in cast("Iterable[nn.Conv2d]", self.layers):
            maps = functional.relu(layer(maps.to(layer.weight.dtype)))
        return maps.flatten(1)
