"""Multi-layer perceptrons of policies, with gradients by hand.

They are so small that on a CPU starting an operation costs more than its arithmetic, and recording it for autograd as
much again. `trace` computes outputs and returns the function that takes gradients back, one product per matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.models.activations import ACTIVATIONS

Pull = Callable[[Tensor], Tensor | None]
# Activations whose derivative follows from what they gave.
TRACEABLE = ("relu", "tanh")
_FEW = 16
_RELU, _TANH = torch.ops.aten.threshold_backward.grad_input, torch.ops.aten.tanh_backward.grad_input


class Network(nn.Module):
    """A multi-layer perceptron with orthogonal weights and zero biases: (..., sizes[0]) to (..., sizes[-1])."""

    def __init__(self, sizes: tuple[int, ...], activation: str, gain: float, last_active: bool = False) -> None:
        super().__init__()
        pairs = list(pairwise(sizes))
        layers = [nn.Linear(i, o) for i, o in pairs]
        self.layers = nn.ModuleList(layers)
        self.activation, self.last_active = activation, last_active
        for index, layer in enumerate(layers):
            hidden = last_active or index < len(pairs) - 1
            nn.init.orthogonal_(layer.weight, math.sqrt(2) if hidden else gain)
            nn.init.zeros_(layer.bias)

    @property
    def traceable(self) -> bool:
        """Whether `trace` knows its derivative."""
        return self.activation in TRACEABLE

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.layers) - 1
        for index, layer in enumerate(cast("Iterable[nn.Linear]", self.layers)):
            x = functional.linear(x.to(layer.weight.dtype), layer.weight, layer.bias)
            if index < last or self.last_active:
                x = ACTIVATIONS[self.activation](x)
        return x if self.last_active else x.float()

    def trace(self, x: Tensor, *, inward: bool = False) -> tuple[Tensor, Pull]:
        """`forward` for x (rows, sizes[0]), and what adds to the .grad of its weights from the output's gradient, which
        it may overwrite.

        That returns the gradient of x where `inward`, otherwise None. Weights without .grad are left out.
        """
        layers = [(layer.weight, layer.bias) for layer in cast("Iterable[nn.Linear]", self.layers)]
        kind, last = layers[0][0].dtype, len(layers) - 1
        values = [x := x.to(kind)]
        for index, (weight, bias) in enumerate(layers):
            x = active(x, weight.t(), bias, self.activation if index < last or self.last_active else None)
            values.append(x)

        def pull(gradient: Tensor) -> Tensor | None:
            gradient = gradient.to(kind)
            for index in range(last, -1, -1):
                weight, bias = layers[index]
                if index < last or self.last_active:
                    gradient = slope(gradient, values[index + 1], self.activation)
                if (into := weight.grad) is not None:
                    _add_product(into, gradient, values[index])
                if (into := bias.grad) is not None:
                    into.add_(gradient.sum(0))
                if index or inward:
                    gradient = gradient @ weight
            return gradient if inward else None

        return x if self.last_active else x.float(), pull


def active(x: Tensor, weight: Tensor, bias: Tensor, name: str | None) -> Tensor:
    """activation(x weight + bias) for x (rows, i) and weight (i, o)."""
    x = torch.addmm(bias, x, weight)
    if name == "relu":
        return x.relu_()
    if name == "tanh" and x.device.type == "cpu" and x.dtype == torch.float32:
        # Torch's takes ten times as long on a CPU.
        array = x.numpy()
        np.tanh(array, out=array)
        return x
    return x if name is None else ACTIVATIONS[name](x)


def _add_product(into: Tensor, gradient: Tensor, x: Tensor) -> None:
    """into += gradient.T x. For few columns BLAS is several times faster the other way round."""
    if into.shape[1] < _FEW:
        into.add_((x.t() @ gradient).t())
    else:
        into.addmm_(gradient.t(), x)


def slope(gradient: Tensor, after: Tensor, name: str) -> Tensor:
    """The gradient before an activation, from that after it and what it gave: in the place of what it was, which is
    still in the cache."""
    if name == "relu":
        return cast(Tensor, _RELU(gradient, after, 0, grad_input=gradient))
    return cast(Tensor, _TANH(gradient, after, grad_input=gradient))


def traceable(networks: Sequence[Network | None]) -> bool:
    """Whether all that are there can be traced."""
    return all(network.traceable for network in networks if network is not None)
