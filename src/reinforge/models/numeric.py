"""Embeddings of numbers: several features of each column, so that a linear layer can bend along it.

Gorishniy, Rubachev and Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning" (arXiv:2203.05556).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.errors import ComponentError
from reinforge.models.options import PeriodicOptions, PiecewiseOptions
from reinforge.schema.signature import Input

# So many rows say where the quantiles are.
_ROWS = 100_000
_BEYOND = 100.0


class EachColumn(nn.Module):
    """A linear layer and ReLU of its own for each column: (rows, columns, inputs) to (rows, columns, outputs)."""

    def __init__(self, columns: int, inputs: int, outputs: int) -> None:
        super().__init__()
        limit = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(columns, inputs, outputs).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.empty(columns, 1, outputs).uniform_(-limit, limit))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x.to(self.weight.dtype).transpose(0, 1), self.weight).relu().transpose(0, 1)


class Piecewise(nn.Module):
    """Piecewise linear encoding (section 3.2): for each bin of a column the part of it that lies below the number.

    Numbers (rows, columns) to (rows, columns * size). Inside the bins feature b is (x - edge_b) / (edge_b+1 - edge_b)
    in [0, 1]; the first and last bin go on as lines, for a hundred of their widths. Edges are quantiles, of a standard
    normal distribution until `observe` has seen the training rows. They are buffers, saved with the weights.
    """

    lower: Tensor
    slope: Tensor
    least: Tensor
    most: Tensor

    def __init__(self, options: PiecewiseOptions, block: Input) -> None:
        super().__init__()
        columns, bins = _columns("piecewise", block), options.bins
        for name in ("lower", "slope", "least", "most"):
            self.register_buffer(name, torch.zeros(columns, bins))
        self.layer = EachColumn(columns, bins, options.size) if options.size else None
        self.dropout = options.dropout
        self.features = columns * (options.size or bins)
        normal = torch.special.ndtri(torch.linspace(0.001, 0.999, bins + 1, dtype=torch.float64))
        self._place([normal] * columns)

    @torch.no_grad()
    def observe(self, block: Tensor) -> None:
        """Take the edges from training rows (rows, columns), of the first hundred thousand in even steps. Columns with
        few values have fewer bins; the rest of theirs stay 0."""
        sample = block[:: max(1, -(-len(block) // _ROWS))].double().cpu()
        if not len(sample):
            return
        ranks = torch.linspace(0, 1, self.lower.shape[1] + 1, dtype=torch.float64)
        self._place([torch.quantile(column, ranks, interpolation="lower") for column in sample.unbind(1)])

    def _place(self, edges: list[Tensor]) -> None:
        """Edges of each column, ascending; two different ones bound a bin."""
        for tensor in (self.lower, self.slope, self.least, self.most):
            tensor.zero_()
        for column, edge in enumerate(edges):
            edge = edge[torch.cat([torch.ones(1, dtype=torch.bool), edge.diff() > 0])]
            bins = len(edge) - 1
            if bins < 1:
                continue
            self.lower[column, :bins] = edge[:-1]
            self.slope[column, :bins] = 1 / edge.diff()
            self.most[column, :bins] = 1
            # The outer bins go on beyond the rows that were seen.
            self.least[column, 0], self.most[column, bins - 1] = -_BEYOND, _BEYOND

    def forward(self, block: Tensor) -> Tensor:
        parts = (block.float().unsqueeze(-1) - self.lower) * self.slope
        parts = torch.clamp(parts, self.least, self.most)
        features = (parts if self.layer is None else self.layer(parts)).flatten(1)
        return functional.dropout(features, self.dropout, self.training) if self.dropout else features


class Periodic(nn.Module):
    """[sin 2 pi c x, cos 2 pi c x] with learned c, normal at the beginning, then a layer of each column's own
    (section 3.3): numbers (rows, columns) to (rows, columns * size)."""

    def __init__(self, options: PeriodicOptions, block: Input) -> None:
        super().__init__()
        columns = _columns("periodic", block)
        self.frequencies = nn.Parameter(torch.randn(columns, options.frequencies) * options.deviation)
        self.layer = EachColumn(columns, 2 * options.frequencies, options.size)
        self.dropout = options.dropout
        self.features = columns * options.size

    def forward(self, block: Tensor) -> Tensor:
        angles = (block.float().unsqueeze(-1) * self.frequencies) * (2 * math.pi)
        features: Tensor = self.layer(torch.cat([angles.sin(), angles.cos()], -1)).flatten(1)
        return functional.dropout(features, self.dropout, self.training) if self.dropout else features


def _columns(name: str, block: Input) -> int:
    if block.form != "numbers" or len(block.shape) != 1:
        raise ComponentError(
            f"it takes columns of numbers, not {block.form} of shape {block.shape}",
            where=f"encoder {name!r}",
            remedy="Name another encoder.",
        )
    return block.shape[0]
