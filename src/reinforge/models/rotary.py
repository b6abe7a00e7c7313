"""Rotary positions: the tables of angles, and turning pairs by them (RoFormer, arXiv:2104.09864).

Shape suffixes: c positions, e head width, p pairs (half of it); b rows, t time, h heads.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from reinforge.models.decoder_options import RotaryOptions


class Rotate(torch.autograd.Function):
    """Turn each pair (x[i], x[i + e/2]) by its angle; the gradient turns back."""

    @staticmethod
    def forward(ctx: Any, x_bthe: Tensor, cos_te: Tensor, sin_te: Tensor) -> Tensor:
        ctx.save_for_backward(cos_te, sin_te)
        return turn(x_bthe, cos_te, sin_te, 1.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_bthe: Tensor) -> tuple[Tensor, None, None]:
        cos_te, sin_te = ctx.saved_tensors
        return turn(grad_bthe, cos_te, sin_te, -1.0), None, None


def rotate(x_bthe: Tensor, cos_te: Tensor, sin_te: Tensor) -> Tensor:
    """`Rotate`, typed."""
    if not torch.is_grad_enabled():
        return turn(x_bthe, cos_te, sin_te, 1.0)
    return cast(Tensor, Rotate.apply(x_bthe, cos_te, sin_te))  # type: ignore[no-untyped-call]


def turn(x_bthe: Tensor, cos_te: Tensor, sin_te: Tensor, sign: float) -> Tensor:
    """Rotate by the tables' angles (sign 1) or back (sign -1). The sine table holds -sin in its first half."""
    turned = torch.addcmul(x_bthe * cos_te, x_bthe.roll(x_bthe.shape[-1] // 2, -1), sin_te, value=sign)
    return turned.to(x_bthe.dtype)


def rotary_tables(context: int, head_width: int, options: RotaryOptions) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines (context, head width), float32, computed in float64; the first half of the sines is
    negated, so that rotating is two multiplications."""
    frequency_p, scale = frequencies(head_width, options)
    angle_cp = torch.arange(context, dtype=torch.float64)[:, None] * frequency_p
    cos_cp, sin_cp = angle_cp.cos() * scale, angle_cp.sin() * scale
    return torch.cat((cos_cp, cos_cp), 1).float(), torch.cat((-sin_cp, sin_cp), 1).float()


def frequencies(head_width: int, options: RotaryOptions) -> tuple[Tensor, float]:
    """Radians per position of each pair (pairs,), float64, and the factor of the turned vectors.

    Pair i of an unscaled table turns by base^(-2i / head width).
    """
    frequency_p = options.base ** -(torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    if options.scaling == "none":
        return frequency_p, 1.0
    if options.scaling == "linear":
        return frequency_p / options.factor, 1.0
    assert options.original_context is not None
    if options.scaling == "llama3":
        turns_p = options.original_context * frequency_p / (2 * math.pi)
        high = options.high or 4.0
        kept_p = ((turns_p - options.low) / (high - options.low)).clamp(0, 1)
        scale = 1.0
    else:
        first, last = (
            _pair_that_turns(turns, head_width, options.base, options.original_context)
            for turns in (options.high or 32.0, options.low)
        )
        if options.whole:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, head_width - 1)
        pair_p = torch.arange(head_width // 2, dtype=torch.float64)
        kept_p = 1 - ((pair_p - first) / max(last - first, 1e-3)).clamp(0, 1)
        scale = options.attention or (0.1 * math.log(options.factor) + 1 if options.factor > 1 else 1.0)
    return frequency_p * (kept_p + (1 - kept_p) / options.factor), scale


def _pair_that_turns(turns: float, head_width: int, base: float, context: int) -> float:
    """Which pair, in fractions, turns so often within the context."""
    return head_width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base))
