"""The clipped surrogate of policy gradients."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Surrogate(NamedTuple):
    """By step, (rows, time): the losses of policy and value, an estimate of the divergence from the policy that acted
    (nats; Schulman, "Approximating KL divergence", 2020), and 1 where the ratio lay outside the clip."""

    policy: Tensor
    value: Tensor
    kl: Tensor
    clipped: Tensor


def surrogate(
    log_prob: Tensor, value: Tensor, *, old_log_prob: Tensor, advantage: Tensor, goal: Tensor, clip: Tensor,
    old_value: Tensor | None = None, value_clip: float | None = None,
) -> Surrogate:  # fmt: skip
    """-min(r A, clip(r, 1 - clip, 1 + clip) A) with r = exp(log_prob - old_log_prob), and (value - goal)^2 / 2.

    All (rows, time), but `clip` (rows, 1). With `value_clip`, the value's loss is the greater of its own and that of a
    value that moved at most so far from `old_value` (Schulman et al., 2017, and its original implementation).
    """
    logarithm = log_prob - old_log_prob
    ratio = logarithm.exp()
    inside = ratio.clamp(1 - clip, 1 + clip)
    square = (value - goal).square()
    if value_clip is not None and old_value is not None:
        held = (old_value + (value - old_value).clamp(-value_clip, value_clip) - goal).square()
        square = torch.maximum(square, held)
    with torch.no_grad():
        kl, clipped = ratio - 1 - logarithm, (ratio != inside).to(ratio.dtype)
    return Surrogate(-torch.minimum(ratio * advantage, inside * advantage), square * 0.5, kl, clipped)
