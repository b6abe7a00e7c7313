"""Cross-entropy of tokens straight from the hidden stream, without ever holding all logits.

Shape suffixes: n tokens, d width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from reinforge.core.products import spare_rows

# Logits that `token_losses` keeps where that is all of them (64 MB in float32).
CHUNK_ELEMENTS = 1 << 24
# Logits held at once otherwise: on a CPU what fits its caches, but not so few tokens that products and sums of the
# weight's gradient dominate.
SUM_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 26}
LEAST_TOKENS = 128
# Gradients of logits that wait together for the product that gives the weight's (32 MB in half precision).
KEPT_ELEMENTS = 1 << 24


def gradients(
    hidden_nd: Tensor, weight_vd: Tensor, chunk: int, wanted: tuple[bool, bool], of_logits: Callable[[slice], Tensor]
) -> tuple[Tensor | None, Tensor | None]:
    """Those of the stream (n, d) and of the weight (v, d, in float32 where they are summed), each where it is `wanted`,
    from those of each chunk's logits, which `of_logits` computes for its rows."""
    tokens, wide = len(hidden_nd), torch.promote_types(hidden_nd.dtype, torch.float32)
    grad_hidden_nd = torch.empty_like(hidden_nd) if wanted[0] else None
    grad_weight_vd: Tensor | None = None
    # Several chunks' gradients wait for one product with the stream, as long as they are few.
    together = chunk * max(1, KEPT_ELEMENTS // (weight_vd.shape[0] * chunk))
    waiting_nv = weight_vd.new_empty(min(together, tokens), weight_vd.shape[0]) if wanted[1] else None
    for start in range(0, tokens, chunk):
        rows = slice(start, start + chunk)
        grad_nv = of_logits(rows)
        if waiting_nv is None:
            grad_nv = grad_nv.to(weight_vd.dtype)
        else:
            begin = start % together
            grad_nv = waiting_nv[begin : begin + len(grad_nv)].copy_(grad_nv)
            end = begin + len(grad_nv)
            if end == len(waiting_nv) or start + chunk >= tokens:
                part_vd = waiting_nv[:end].t() @ hidden_nd[start - begin : start + chunk]
                # What is all there is needs no sum in a wider type.
                if grad_weight_vd is None:
                    grad_weight_vd = part_vd if end == tokens else part_vd.to(wide)
                else:
                    grad_weight_vd += part_vd
        if grad_hidden_nd is not None:
            torch.mm(grad_nv, weight_vd, out=grad_hidden_nd[rows])
    if wanted[1] and grad_weight_vd is None:
        grad_weight_vd = torch.zeros_like(weight_vd)
    return grad_hidden_nd, grad_weight_vd


class SummedCrossEntropy(torch.autograd.Function):
    """The sum of all tokens' cross-entropies, and its gradients at once: each chunk's logits are computed a single
    time. The gradients are those of a factor of 1, which the backward pass multiplies in."""

    @staticmethod
    def forward(ctx: Any, hidden_nd: Tensor, weight_vd: Tensor, targets_n: Tensor, chunk: int) -> Tensor:
        wanted = ctx.needs_input_grad[:2]
        total = torch.zeros((), dtype=torch.promote_types(hidden_nd.dtype, torch.float32), device=hidden_nd.device)
        tokens, spare = len(targets_n), spare_rows(targets_n)
        if spare:
            # Rows of zeros give the weight no gradient, and theirs are left out.
            hidden_nd, targets_n = F.pad(hidden_nd, (0, 0, 0, spare)), F.pad(targets_n, (0, spare))

        def of_logits(rows: slice) -> Tensor:
            targets_n1 = targets_n[rows, None]
            logs_nv = F.linear(hidden_nd[rows], weight_vd).log_softmax(-1, dtype=total.dtype)
            total.sub_(logs_nv.gather(-1, targets_n1)[: max(0, tokens - rows.start)].sum())
            if not any(wanted):
                return logs_nv
            return logs_nv.exp_().scatter_add_(-1, targets_n1, logs_nv.new_full(targets_n1.shape, -1.0))

        grad_hidden_nd, grad_weight_vd = gradients(hidden_nd, weight_vd, chunk, wanted, of_logits)
        ctx.weight_type = weight_vd.dtype
        ctx.save_for_backward(None if grad_hidden_nd is None else grad_hidden_nd[:tokens], grad_weight_vd)
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
    def backward(ctx: Any, grad_n: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden_nd, weight_vd, targets_n, normaliser_n = ctx.saved_tensors

        def of_logits(rows: slice) -> Tensor:
            logits_nv = F.linear(hidden_nd[rows], weight_vd).float()
            grad_nv = logits_nv.sub_(normaliser_n[rows, None]).exp_()
            grad_nv.scatter_add_(-1, targets_n[rows, None], grad_nv.new_full((len(grad_nv), 1), -1.0))
            return grad_nv.mul_(grad_n[rows, None])

        grad_hidden_nd, grad_weight_vd = gradients(hidden_nd, weight_vd, ctx.chunk, ctx.needs_input_grad[:2], of_logits)
        return grad_hidden_nd, None if grad_weight_vd is None else grad_weight_vd.to(weight_vd.dtype), None, None


def summed_loss(hidden_nd: Tensor, weight_vd: Tensor, targets_n: Tensor, elements: int | None = None) -> Tensor:
    """The sum over tokens of -log p(target), 0-d float32; about `elements` logits are held at once, and of few tokens
    all.

    hidden (n, d) and weight (v, d) of one type; targets (n,) int64. Leave out ignored tokens before calling.
    """
    if torch.compiler.is_compiling():
        return token_losses(hidden_nd, weight_vd, targets_n).sum()
    chunk = _tokens_at_once(weight_vd, elements)
    return cast(Tensor, SummedCrossEntropy.apply(hidden_nd, weight_vd, targets_n, chunk))  # type: ignore[no-untyped-call]


def token_losses(hidden_nd: Tensor, weight_vd: Tensor, targets_n: Tensor, elements: int | None = None) -> Tensor:
    """-log p(target) of each token: (n,) float32, with logits in float32, about `elements` of them held at once; what
    fits into `CHUNK_ELEMENTS` is computed in one piece.

    hidden (n, d) and weight (v, d) of one type; targets (n,) int64. Leave out ignored tokens before calling.
    """
    if spare := spare_rows(targets_n):
        filled_nd, filled_n = F.pad(hidden_nd, (0, 0, 0, spare)), F.pad(targets_n, (0, spare))
        return token_losses(filled_nd, weight_vd, filled_n, elements)[:-spare]
    if len(targets_n) * weight_vd.shape[0] > (elements or CHUNK_ELEMENTS):
        chunk = _tokens_at_once(weight_vd, elements)
        return cast(Tensor, ChunkedCrossEntropy.apply(hidden_nd, weight_vd, targets_n, chunk))  # type: ignore[no-untyped-call]
    return F.cross_entropy(F.linear(hidden_nd, weight_vd).float(), targets_n, reduction="none")


def _tokens_at_once(weight_vd: Tensor, elements: int | None) -> int:
    at_once = elements or SUM_ELEMENTS.get(weight_vd.device.type, CHUNK_ELEMENTS)
    return max(1 if elements else LEAST_TOKENS, at_once // weight_vd.shape[0])
