"""Running normalisation of observations, as part of the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_CLIP = 10.0
_EPSILON = 1e-8


class Normaliser(nn.Module):
    """(x - mean) / deviation, clipped to [-10, 10], with statistics of all observations shown to `update`.

    The statistics are buffers, so they travel in checkpoints, bundles and exports. They change in `update` alone, which
    the source calls between rollouts; forward never changes them. Merging follows Chan, Golub and LeVeque (1983).
    """

    mean: Tensor
    squares: Tensor
    count: Tensor
    offset: Tensor
    factor: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        # Double, since sums of squares of many million observations lose what fp32 holds.
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        # What forward uses: the mean, and one over the deviation.
        self.register_buffer("offset", torch.zeros(shape))
        self.register_buffer("factor", torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        """(..., *shape) to the same; as it is while nothing was seen."""
        return ((x - self.offset) * self.factor).clamp(-_CLIP, _CLIP)

    @torch.no_grad()
    def update(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        """Take in `count` observations of that mean (*shape) and sum of squared differences from it (*shape)."""
        total = self.count + count
        if float(total) == 0:
            return
        difference = mean - self.mean
        self.squares += squares + difference.square() * (self.count * count / total)
        self.mean += difference * (count / total)
        self.count.copy_(total)
        self.offset.copy_(self.mean)
        if float(total) > 1:
            self.factor.copy_((self.squares / total + _EPSILON).rsqrt())
