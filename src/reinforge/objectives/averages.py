"""Target networks that follow the learned ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def follow(target: nn.Module, online: nn.Module, rate: float) -> None:
    """target += rate (online - target) for every parameter; a rate of 1 copies.

    The target keeps its own precision: it stays fp32 beside bf16 weights, which would lose steps this small.
    """
    slow: list[Tensor] = list(target.parameters())
    fast: list[Tensor] = [p if p.dtype == t.dtype else p.to(t.dtype) for p, t in zip(online.parameters(), slow)]
    if rate == 1.0:
        torch._foreach_copy_(slow, fast)
    else:
        torch._foreach_lerp_(slow, fast, rate)
