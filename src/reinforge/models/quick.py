"""Small perceptrons in NumPy: for a few rows, starting an operation of torch costs several times its arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from reinforge.models.perceptron import Network

Array = np.ndarray[Any, np.dtype[Any]]
# From observations by name (n, ...) and noise (n, size) to actions in learner space.
Quick = Callable[[Mapping[str, Array], Array], Array]

# Multiplications of one matrix: beyond, torch is as fast, and BLAS might take threads of its own.
_SMALL = 2**17
_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0.0, out=x),
    "tanh": lambda x: np.tanh(x, out=x),
}


def snapshot(networks: Sequence[Network], rows: int) -> Callable[[Array], Array] | None:
    """Networks one after the other, as they are now: float32 (n, sizes[0]) to (n, sizes[-1]) of the last. None where
    they are large, adapted, on a device, not in single precision, or of activations that are not known here."""
    layers: list[tuple[Array, Array, Callable[[Array], Array] | None]] = []
    for network in networks:
        own = list(cast("Sequence[nn.Linear]", network.layers))
        for index, layer in enumerate(own):
            weight = layer.weight.detach()
            if type(layer) is not nn.Linear:
                return None
            if weight.device.type != "cpu" or weight.dtype != torch.float32 or rows * weight.numel() > _SMALL:
                return None
            active = network.last_active or index < len(own) - 1
            if active and network.activation not in _ACTIVATIONS:
                return None
            layers.append(
                (
                    np.ascontiguousarray(weight.numpy().T),
                    layer.bias.detach().numpy().copy(),
                    _ACTIVATIONS[network.activation] if active else None,
                )
            )

    def run(x: Array) -> Array:
        for weight, bias, activation in layers:
            x = x @ weight
            x += bias
            if activation is not None:
                activation(x)
        return x

    return run
