"""Frozen weights in 4 bits: NormalFloat, whose 16 values lie where normal weights do (Dettmers et al., QLoRA,
arXiv:2305.14314, appendix E). Blocks of 64 weights share one scale: 4.5 bits a weight.

Shape suffixes: c codes of pairs of weights, b blocks, n any, i inputs, o outputs.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 64
# The middle of 1 - 1/30 and 1 - 1/32: the outermost quantile of either side.
OUTERMOST = (2 - 1 / 30 - 1 / 32) / 2


@lru_cache(maxsize=1)
def values() -> Tensor:
    """The 16 values, (16,) float32, from -1 to 1: normal quantiles of even steps on either side of 0, eight above and
    seven below, divided by the outermost; 0 is one of them, so that zeros stay zeros."""

    def side(steps: int) -> Tensor:
        quantile = torch.linspace(OUTERMOST, 0.5, steps, dtype=torch.float64)[:-1]
        found: Tensor = torch.special.ndtri(quantile)
        return found

    above, below = side(9), -side(8)
    found = torch.cat([below, torch.zeros(1, dtype=torch.float64), above]).sort().values
    table: Tensor = found / found.max()
    return table.float()


def quantise(weight_oi: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of pairs (c,) uint8, the first of two in the low bits, and the scale of each block (b,) float32: its
    largest magnitude. Blocks run along the flattened weight, whose end is filled up with zeros."""
    flat = weight_oi.detach().float().flatten()
    blocks_bn = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scale_b = blocks_bn.abs().amax(1)
    unit_bn = blocks_bn / scale_b.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    table = values().to(flat.device)
    # The nearest value: between two neighbours their middle decides.
    code_n = torch.bucketize(unit_bn.flatten(), (table[1:] + table[:-1]) / 2).to(torch.uint8)
    return code_n[0::2] | (code_n[1::2] << 4), scale_b


def dequantise(code_c: Tensor, scale_b: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The weight that the codes stand for, (o, i)."""
    pairs_n2 = _pairs(dtype).to(code_c.device)[code_c.int()]
    weights_bn = pairs_n2.view(-1, BLOCK) * scale_b.to(dtype)[:, None]
    return weights_bn.flatten()[: math.prod(shape)].view(shape)


@lru_cache(maxsize=4)
def _pairs(dtype: torch.dtype) -> Tensor:
    """Both values of each code of a pair: (256, 2)."""
    code = torch.arange(256)
    return values()[torch.stack([code & 15, code >> 4], 1)].to(dtype)


class FrozenProduct(torch.autograd.Function):
    """x W^T + bias for a weight in 4 bits that never learns. It is taken out of its codes for this product, and once
    more for the gradient of x: what autograd keeps are the codes, which are there anyway."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, code_c: Tensor, scale_b: Tensor, bias_o: Tensor | None, shape: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(code_c, scale_b)
        ctx.shape = shape
        return F.linear(x, dequantise(code_c, scale_b, shape, x.dtype), bias_o)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        code_c, scale_b = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        return grad @ dequantise(code_c, scale_b, ctx.shape, grad.dtype), None, None, None, None


def product(x: Tensor, code_c: Tensor, scale_b: Tensor, bias_o: Tensor | None, shape: tuple[int, int]) -> Tensor:
    """x W^T + bias, (..., o)."""
    return cast(Tensor, FrozenProduct.apply(x, code_c, scale_b, bias_o, shape))  # type: ignore[no-untyped-call]
