"""Target networks that follow the learned ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def follow(target: nn.Module, online: nn.Module, rate: float) -> None:
    """target += rate (online - target) for every parameter; a rate of 1 copies.

    The target keeps its own precision: it stays fp32 beside bf16 weights, which would lose steps this small.
    """
    slow: list[Tensor] = _parameters(target)
    fast: list[Tensor] = [p if p.dtype == t.dtype else p.to(t.dtype) for p, t in zip(_parameters(online), slow)]
    if rate == 1.0:
        torch._foreach_copy_(slow, fast)
    else:
        torch._foreach_lerp_(slow, fast, rate)


def _parameters(module: nn.Module) -> list[Tensor]:
    """As `module.parameters()` gives them, which names each and takes several times as long."""
    found: dict[Tensor, None] = {}

    def walk(of: nn.Module) -> None:
        found.update((p, None) for p in of._parameters.values() if p is not None)
        for child in of._modules.values():
            if child is not None:
                walk(child)

    walk(module)
    return list(found)
