"""Encoders: one input block of a batch to features, one row each."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.errors import ComponentError
from reinforge.models.activations import ACTIVATIONS
from reinforge.models.options import EmbeddingOptions, FlattenOptions, LinearOptions, OneHotOptions
from reinforge.schema.signature import Input


def _require(name: str, block: Input, *forms: str) -> None:
    if block.form not in forms:
        raise ComponentError(
            f"it takes {' or '.join(forms)}, not {block.form}",
            where=f"encoder {name!r}",
            remedy="Name another encoder.",
        )


class Flatten(nn.Module):
    """Numbers and boxes as they are: (rows, ...) to (rows, features) float32. Bytes are scaled to [0, 1]."""

    def __init__(self, options: FlattenOptions, block: Input) -> None:
        super().__init__()
        _require("flatten", block, "numbers", "box")
        self.features = prod(block.shape)

    def forward(self, block: Tensor) -> Tensor:
        if block.dtype == torch.uint8:
            block = block.float() / 255
        return block if block.ndim == 2 else block.flatten(1) if block.ndim > 2 else block[:, None]


class Linear(nn.Module):
    """One linear layer over the flattened block: (rows, ...) to (rows, size)."""

    def __init__(self, options: LinearOptions, block: Input) -> None:
        super().__init__()
        self.flatten = Flatten(FlattenOptions(), block)
        self.linear = nn.Linear(self.flatten.features, options.size)
        self.activation = ACTIVATIONS[options.activation] if options.activation else None
        self.features = options.size

    def forward(self, block: Tensor) -> Tensor:
        features: Tensor = self.linear(self.flatten(block).to(self.linear.weight.dtype))
        return self.activation(features) if self.activation else features


class Embedding(nn.Module):
    """Categories (rows, columns) int64 to (rows, columns * size), by one table: each column has its own part of it."""

    offsets: Tensor

    def __init__(self, options: EmbeddingOptions, block: Input) -> None:
        super().__init__()
        _require("embedding", block, "categories")
        self.table = nn.Parameter(torch.randn(sum(block.sizes), options.size))
        self.register_buffer("offsets", _offsets(block.sizes), persistent=False)
        self.features = len(block.sizes) * options.size

    def forward(self, block: Tensor) -> Tensor:
        return functional.embedding(block + self.offsets, self.table).flatten(1)


class OneHot(nn.Module):
    """Categories (rows, columns) int64 to (rows, sum of sizes) of zeros and ones."""

    offsets: Tensor

    def __init__(self, options: OneHotOptions, block: Input) -> None:
        super().__init__()
        _require("one-hot", block, "categories")
        self.register_buffer("offsets", _offsets(block.sizes), persistent=False)
        self.features = sum(block.sizes)

    def forward(self, block: Tensor) -> Tensor:
        zeros = torch.zeros(block.shape[0], self.features, device=block.device)
        return zeros.scatter_(1, block + self.offsets, 1.0)


def _offsets(sizes: tuple[int, ...]) -> Tensor:
    """Where each column's categories start: (columns,) int64."""
    return torch.tensor([0, *sizes[:-1]]).cumsum(0)[: len(sizes)]
