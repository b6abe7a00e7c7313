"""Linear models: a weight for each column of the design matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reinforge.errors import IntegrityError
from reinforge.models.classic.classic import Classic
from reinforge.schema.signature import Output


class Weighted(nn.Module):
    """x W + b, in double precision: `weight` (columns, size), `bias` (size,)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, columns: int, size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(columns, size, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(size, dtype=torch.float64))

    def forward(self, design: Tensor) -> Tensor:
        """(rows, columns) to (rows, size) float32."""
        return (design.double() @ self.weight + self.bias).float()


class Linear(Classic):
    """Logistic regression of classes and labels (one against all others each, of more than two classes together),
    ridge regression of numbers, Poisson regression of counts."""

    def part(self, name: str, output: Output) -> nn.Module:
        """Weights of 0, until it is fitted."""
        return Weighted(self.design.columns, output.size)

    def check(self) -> None:
        """Raise IntegrityError for a weight that is no number."""
        for name, part in self.parts.items():
            if not all(tensor.isfinite().all() for tensor in part.buffers()):
                raise IntegrityError(f"a weight of {name!r} is no number", where="weights.safetensors")
