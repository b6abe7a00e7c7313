"""Cross-entropy of tokens straight from the hidden stream, without ever holding all logits.

Shape suffixes: n tokens, d width, v vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits held at once by `token_losses` (64 MB in float32). What fits is computed in one piece and kept.
CHUNK_ELEMENTS = 1 << 24
# And by `summed_loss`: on a CPU what fits its caches, but not so few tokens that products and sums of the weight's
# gradient dominate.
SUM_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 26}
LEAST_TOKENS = 128
# Gradients of logits that wait together for the product that gives the weight's (32 MB in half precision).
KEPT_ELEMENTS = 1 << 24


class SummedCrossEntropy(torch.autograd.Function):
    """The sum of all tokens' cross-entropies, and its gradients at once: each chunk's logits are computed a single
    time. The gradients are those of a factor of 1, which the backward pass multiplies in."""

    @staticmethod
    def forward(ctx: Any, hidden_nd: Tensor, weight_vd: Tensor, targets_n: Tensor, chunk: int) -> Tensor:
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        total = torch.zeros((), dtype=torch.promote_types(hidden_nd.dtype, torch.float32), device=hidden_nd.device)
        grad_hidden_nd = torch.empty_like(hidden_nd) if wants_hidden else None
        grad_weight_vd: Tensor | None = None
        # Several chunks' gradients wait for one product with the stream, as long as they are few.
        together = chunk * max(1, KEPT_ELEMENTS // (weight_vd.shape[0] * chunk))
        waiting_nv = weight_vd.new_empty(min(together, len(targets_n)), weight_vd.shape[0]) if wants_weight else None
        for start in range(0, len(targets_n), chunk):
            rows = slice(start, start + chunk)
            targets_n1 = targets_n[rows, None]
            logs_nv = F.linear(hidden_nd[rows], weight_vd).log_softmax(-1, dtype=total.dtype)
            total -= logs_nv.gather(-1, targets_n1).sum()
            if not (wants_hidden or wants_weight):
                continue
            grad_nv = logs_nv.exp_()
            grad_nv.scatter_add_(-1, targets_n1, grad_nv.new_full(targets_n1.shape, -1.0))
            if waiting_nv is None:
                grad_nv = grad_nv.to(weight_vd.dtype)
            else:
                begin = start % together
                grad_nv = waiting_nv[begin : begin + len(grad_nv)].copy_(grad_nv)
                end = begin + len(grad_nv)
                if end == len(waiting_nv) or start + chunk >= len(targets_n):
                    part_vd = waiting_nv[:end].t() @ hidden_nd[start - begin : start + chunk]
                    # What is all there is needs no sum in a wider type.
                    if grad_weight_vd is None:
                        grad_weight_vd = part_vd if end == len(targets_n) else part_vd.to(total.dtype)
                    else:
                        grad_weight_vd += part_vd
            if grad_hidden_nd is not None:
                torch.mm(grad_nv, weight_vd, out=grad_hidden_nd[rows])
        if wants_weight and grad_weight_vd is None:
            grad_weight_vd = torch.zeros_like(weight_vd)
        ctx.weight_type = weight_vd.dtype
        ctx.save_for_backward(grad_hidden_nd, grad_weight_vd)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_hidden_nd, grad_weight_vd = ctx.saved_tensors
        if grad_hidden_nd is not None:
            # A number of no dimensions is not rounded to the gradients' type.
            grad_hidden_nd = grad_hidden_nd * factor
        if grad_weight_vd is not None:
            grad_weight_vd = (grad_weight_vd * factor).to(ctx.weight_type)
        return grad_hidden_nd, grad_weight_vd, None, None


class ChunkedCrossEntropy(torch.autograd.Function):
    """Per-token cross-entropy by chunks of tokens; the backward pass computes each chunk's logits again."""

    @staticmethod
    def forward(ctx: Any, hidden_nd: Tensor, weight_vd: Tensor, targets_n: Tensor, chunk: int) -> Tensor:
        losses, normalisers = [], []
        for start in range(0, len(targets_n), chunk):
            rows = slice(start, start + chunk)
            logits_nv = F.linear(hidden_nd[rows], weight_vd).float()
            normaliser_n = logits_nv.logsumexp(-1)
            losses.append(normaliser_n - logits_nv.gather(-1, targets_n[rows, None]).squeeze(-1))
            normalisers.append(normaliser_n)
        ctx.save_for_backward(hidden_nd, weight_vd, targets_n, torch.cat(normalisers))
        ctx.chunk = chunk
        return torch.cat(losses)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_n: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden_nd, weight_vd, targets_n, normaliser_n = ctx.saved_tensors
        grad_hidden_nd = torch.empty_like(hidden_nd)
        grad_weight_vd = torch.zeros_like(weight_vd, dtype=torch.float32)
        for start in range(0, len(targets_n), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            logits_nv = F.linear(hidden_nd[rows], weight_vd).float()
            grad_nv = logits_nv.sub_(normaliser_n[rows, None]).exp_()
            grad_nv.scatter_add_(-1, targets_n[rows, None], grad_nv.new_full((len(grad_nv), 1), -1.0))
            grad_nv = grad_nv.mul_(grad_n[rows, None]).to(weight_vd.dtype)
            torch.mm(grad_nv, weight_vd, out=grad_hidden_nd[rows])
            grad_weight_vd += grad_nv.t() @ hidden_nd[rows]
        return grad_hidden_nd, grad_weight_vd.to(weight_vd.dtype), None, None


def summed_loss(hidden_nd: Tensor, weight_vd: Tensor, targets_n: Tensor, elements: int | None = None) -> Tensor:
    """The sum over tokens of -log p(target), 0-d float32; about `elements` logits are held at once, and of few tokens
    all.

    hidden (n, d) and weight (v, d) of one type; targets (n,) int64. Leave out ignored tokens before calling.
    """
    if torch.compiler.is_compiling():
        return token_losses(hidden_nd, weight_vd, targets_n).sum()
    at_once = elements or SUM_ELEMENTS.get(hidden_nd.device.type, CHUNK_ELEMENTS)
    chunk = max(1 if elements else LEAST_TOKENS, at_once // weight_vd.shape[0])
    return cast(Tensor, SummedCrossEntropy.apply(hidden_nd, weight_vd, targets_n, chunk))  # type: ignore[no-untyped-call]


def token_losses(hidden_nd: Tensor, weight_vd: Tensor, targets_n: Tensor, elements: int = CHUNK_ELEMENTS) -> Tensor:
    """-log p(target) of each token: (n,) float32, with logits in float32, at most `elements` of them held at once.

    hidden (n, d) and weight (v, d) of one type; targets (n,) int64. Leave out ignored tokens before calling.
    """
    chunk = max(1, elements // weight_vd.shape[0])
    if len(targets_n) > chunk:
        return cast(Tensor, ChunkedCrossEntropy.apply(hidden_nd, weight_vd, targets_n, chunk))  # type: ignore[no-untyped-call]
    return F.cross_entropy(F.linear(hidden_nd, weight_vd).float(), targets_n, reduction="none")
