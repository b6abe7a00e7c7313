"""Optimisers over flat buffers: torch's own, fused where torch offers it for the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from reinforge.engine.options import AdamOptions, AdamWOptions, RMSpropOptions, SGDOptions


@dataclass(frozen=True)
class Slice:
    """One flat parameter of an arena, and whether its weights decay."""

    parameter: nn.Parameter
    decays: bool


def _groups(slices: Sequence[Slice], weight_decay: float) -> list[dict[str, object]]:
    return [{"params": [s.parameter], "weight_decay": weight_decay if s.decays else 0.0} for s in slices]


def sgd(options: SGDOptions, slices: Sequence[Slice], lr: float) -> torch.optim.Optimizer:
    """Stochastic gradient descent."""
    groups = _groups(slices, options.weight_decay)
    return torch.optim.SGD(groups, lr=lr, momentum=options.momentum, nesterov=options.nesterov, fused=True)


def adam(options: AdamOptions, slices: Sequence[Slice], lr: float) -> torch.optim.Optimizer:
    """Adam."""
    return torch.optim.Adam(_groups(slices, options.weight_decay), lr=lr, betas=options.betas, eps=options.eps, fused=True)


def adamw(options: AdamWOptions, slices: Sequence[Slice], lr: float) -> torch.optim.Optimizer:
    """AdamW."""
    return torch.optim.AdamW(_groups(slices, options.weight_decay), lr=lr, betas=options.betas, eps=options.eps, fused=True)


def rmsprop(options: RMSpropOptions, slices: Sequence[Slice], lr: float) -> torch.optim.Optimizer:
    """RMSprop; torch has no fused form of it."""
    return torch.optim.RMSprop(
        _groups(slices, options.weight_decay), lr=lr, alpha=options.alpha, eps=options.eps,
        momentum=options.momentum, centered=options.centered,
    )  # fmt: skip
