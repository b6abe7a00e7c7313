"""Learning distributions of returns, as functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def project(support: Tensor, probability: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
    """The distribution of r + discount Z on the fixed returns: (rows, atoms).

    `support` (atoms,), evenly spaced, with the `probability` (rows, atoms) of Z on it; reward, discount (rows,). What
    falls between two returns is shared by nearness, what falls outside counts as the outermost.
    Source: Bellemare et al., "A Distributional Perspective on Reinforcement Learning" (2017), equation 7.
    """
    last = len(support) - 1
    step = (support[-1] - support[0]) / last
    moved = reward.unsqueeze(-1) + discount.unsqueeze(-1) * support
    place = ((moved - support[0]) / step).clamp(0, last)
    below = place.floor()
    share = place - below
    index = below.long()
    projected = torch.zeros_like(probability).scatter_add_(-1, index, probability * (1 - share))
    return projected.scatter_add_(-1, (index + 1).clamp(max=last), probability * share)


def categorical_loss(logits: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy to the probabilities `goal`, and the divergence, which is 0 where they agree: (rows, atoms) each,
    to (rows,) each. Their gradients are the same."""
    each = -(goal * logits.log_softmax(-1)).sum(-1)
    return each, each.detach() + torch.special.xlogy(goal, goal).sum(-1)


def quantile_loss(quantiles: Tensor, goal: Tensor, delta: float) -> Tensor:
    """The quantile Huber loss: quantiles (rows, n) at (i + 1/2) / n, goal (rows, m) equally likely returns, to (rows,).

    The sum over quantiles of the mean over returns of |tau - [u < 0]| huber(u) / delta, with u = return - quantile.
    Source: Dabney et al., "Distributional Reinforcement Learning with Quantile Regression" (2018), equation 10, divided
    by delta as in "Implicit Quantile Networks" (2018), equation 3, so that small deltas give the plain quantile loss.
    """
    n = quantiles.shape[-1]
    level = (torch.arange(n, dtype=quantiles.dtype, device=quantiles.device) + 0.5) / n
    mine = quantiles.unsqueeze(-1).expand(*quantiles.shape, goal.shape[-1])
    theirs = goal.unsqueeze(-2).expand_as(mine)
    huber = functional.huber_loss(mine, theirs, reduction="none", delta=delta) / delta
    weight = (level.unsqueeze(-1) - (theirs.detach() < mine.detach()).to(huber.dtype)).abs()
    total: Tensor = (weight * huber).mean(-1).sum(-1)
    return total
