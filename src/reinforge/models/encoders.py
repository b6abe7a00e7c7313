"""Encoders: one input block of a batch to features, one row each."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.errors import ComponentError
from reinforge.models.activations import ACTIVATIONS
from reinforge.models.grow import copy_grown
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
    """Numbers, boxes and images as they are: (rows, ...) to (rows, features) float32. Bytes are scaled to [0, 1]."""

    def __init__(self, options: FlattenOptions, block: Input) -> None:
        super().__init__()
        _require("flatten", block, "numbers", "box", "image")
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
    """Categories (rows, columns) int64 to (rows, features): each column's vector, end to end.

    Columns whose vectors have the same length share one table, where each has its own part; shorter vectors come first
    among the features. Without a length, a column of n categories has 1.6 n^0.56 (the rule of fastai), at most 600.
    """

    def __init__(self, options: EmbeddingOptions, block: Input) -> None:
        super().__init__()
        _require("embedding", block, "categories")
        self.sizes, self.dropout, self.sparse = block.sizes, options.dropout, options.sparse
        lengths = [options.size or vector_length(size) for size in block.sizes]
        self.groups = [[c for c, own in enumerate(lengths) if own == length] for length in sorted(set(lengths))]
        self.tables = nn.ParameterList(
            torch.randn(sum(block.sizes[c] for c in columns), lengths[columns[0]]) for columns in self.groups
        )
        for group, columns in enumerate(self.groups):
            self.register_buffer(f"offsets{group}", _offsets([block.sizes[c] for c in columns]), persistent=False)
        self.features = sum(lengths)

    def forward(self, block: Tensor) -> Tensor:
        parts = []
        for group, (columns, table) in enumerate(zip(self.groups, self.tables)):
            chosen = block if len(columns) == len(self.sizes) else block[:, columns]
            index = chosen + getattr(self, f"offsets{group}")
            parts.append(functional.embedding(index, table, sparse=self.sparse).flatten(1))
        features = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return functional.dropout(features, self.dropout, self.training) if self.dropout else features

    def grow_from(self, old: Embedding) -> None:
        """Take the vectors of columns with fewer categories: a column's old ones come first among its own.

        Raises ComponentError where columns were added, or the length of a column's vectors follows its categories.
        """
        if self.groups != old.groups:
            raise ComponentError(
                "its vectors have other lengths with more categories, or there are more columns",
                where="encoder 'embedding'",
                remedy="Train the first model with a `size`, and keep its columns.",
            )
        for columns, table, before in zip(self.groups, self.tables, old.tables):
            new = table.split([self.sizes[c] for c in columns])
            for vectors, known in zip(new, before.split([old.sizes[c] for c in columns])):
                copy_grown(vectors, known, "tables")


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


def vector_length(size: int) -> int:
    """How long the vector of a column of `size` categories is, where nothing else is said."""
    return min(600, max(1, round(float(1.6 * size**0.56))))


def _offsets(sizes: Sequence[int]) -> Tensor:
    """Where each column's categories start: (columns,) int64."""
    return torch.tensor([0, *sizes[:-1]]).cumsum(0)[: len(sizes)]
