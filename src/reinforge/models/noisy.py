"""Linear layers whose weights are noisy, for exploration."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.models.activations import ACTIVATIONS


class NoisyLinear(nn.Module):
    """y = (W + S e) x + b + s e' with learned deviations S and s, and factorised noise: e = f(p) f(q)^T, e' = f(p).

    f(x) = sign(x) sqrt(|x|). The standard normal numbers q (inputs) and p (outputs) are given, a row of them for each
    row of x, so that rows differ, and nothing is drawn here; without them weights are their means. As S e x is
    f(p) * (S (f(q) * x)), a row's own noise costs a second product, no weights of its own.
    Source: Fortunato et al., "Noisy Networks for Exploration" (2018), equations 10 and 11, section 3.2.
    """

    def __init__(self, inputs: int, outputs: int, deviation: float) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.noise = inputs + outputs
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_deviation = nn.Parameter(torch.full((outputs, inputs), deviation * bound))
        self.bias_deviation = nn.Parameter(torch.full((outputs,), deviation * bound))

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """x (..., inputs), noise (..., inputs + outputs) or None, to (..., outputs)."""
        mean = functional.linear(x, self.weight, self.bias)
        if noise is None:
            return mean
        shaped = (noise.sign() * noise.abs().sqrt()).to(x.dtype)
        before, after = torch.split(shaped, [self.weight.shape[1], self.weight.shape[0]], -1)
        noisy: Tensor = mean + after * functional.linear(before * x, self.weight_deviation, self.bias_deviation)
        return noisy


class NoisyNetwork(nn.Module):
    """A multi-layer perceptron of noisy layers: (..., sizes[0]) to (..., sizes[-1]); `noise` numbers for each row."""

    def __init__(self, sizes: tuple[int, ...], activation: str, deviation: float, last_active: bool = False) -> None:
        super().__init__()
        layers = [NoisyLinear(i, o, deviation) for i, o in pairwise(sizes)]
        self.layers = nn.ModuleList(layers)
        self.noise = sum(layer.noise for layer in layers)
        self.activation = ACTIVATIONS[activation]
        self.last_active = last_active

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        last = len(self.layers) - 1
        layers = list(cast("Iterable[NoisyLinear]", self.layers))
        drawn = [None] * len(layers) if noise is None else torch.split(noise, [layer.noise for layer in layers], -1)
        for index, (layer, own) in enumerate(zip(layers, drawn)):
            x = layer(x.to(layer.weight.dtype), own)
            if index < last or self.last_active:
                x = self.activation(x)
        return x if self.last_active else x.float()
