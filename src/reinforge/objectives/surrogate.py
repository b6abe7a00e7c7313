"""The clipped surrogate of policy gradients, with its slopes by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Surrogate(NamedTuple):
    """Sums over valid steps: the loss of the policy, that of the value, an estimate of the divergence from the policy
    that acted (nats; Schulman, "Approximating KL divergence", 2020), and how many ratios lay outside the clip.

    `slopes` gives the gradients (rows, time) of log-probabilities and values, from those of the two losses (None: it
    has no weight).
    """

    policy: Tensor
    value: Tensor
    kl: Tensor
    clipped: Tensor
    slopes: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


def surrogate(
    log_prob: Tensor, value: Tensor, *, old_log_prob: Tensor, advantage: Tensor, goal: Tensor, clip: Tensor,
    valid: Tensor, old_value: Tensor | None = None, value_clip: float | None = None,
) -> Surrogate:  # fmt: skip
    """-min(r A, clip(r, 1 - clip, 1 + clip) A) with r = exp(log_prob - old_log_prob), and (value - goal)^2 / 2.

    All (rows, time), but `clip` (rows, 1). With `value_clip`, the value's loss is the greater of its own and that of a
    value that moved at most so far from `old_value` (Schulman et al., 2017, and its original implementation).
    """
    logarithm = log_prob - old_log_prob
    ratio = logarithm.exp()
    inside = ratio.clamp(1 - clip, 1 + clip)
    own, limited = ratio * advantage, inside * advantage
    policy = -(torch.minimum(own, limited) * valid).sum()
    error = value - goal
    square = error.square()
    follows = valid
    if value_clip is not None and old_value is not None:
        held = (old_value + (value - old_value).clamp(-value_clip, value_clip) - goal).square()
        # Where the held value is the worse one, it stands still: it has no slope but inside the clip.
        follows = valid & ((square >= held) | ((value - old_value).abs() < value_clip))
        square = torch.maximum(square, held)
    with torch.no_grad():
        kl = ((ratio - 1 - logarithm) * valid).sum()
        clipped = ((ratio != inside) & valid).sum().to(ratio.dtype)

    def slopes(of_policy: Tensor, of_value: Tensor | None) -> tuple[Tensor, Tensor | None]:
        # On the clipped side nothing is learned; elsewhere d(-r A) = -r A d log_prob.
        chosen = (own * -of_policy).masked_fill_((own > limited) | ~valid, 0.0)
        return chosen, None if of_value is None else error * follows * of_value

    return Surrogate(policy, 0.5 * (square * valid).sum(), kl, clipped, slopes)
