"""Activation functions by the names that options use."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky-relu": lambda x: functional.leaky_relu(x, 0.2),
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}
