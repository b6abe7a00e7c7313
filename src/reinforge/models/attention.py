"""Attention within documents that lie end to end: none ever sees another, and none is filled up.

Shape suffixes: n tokens of all documents, h query heads, k key-value heads, e head width; inside a group of documents
of about one length: g documents, r their rounded length, q query heads of one key-value head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from reinforge.core.ragged import Ragged
from reinforge.errors import ComponentError

# Matrix products of half precision want sides in multiples of this: odd ones take five times as long on a CPU.
ROUND = 32
# Attention weights kept for the backward pass of a layer, at most (32 MB in half precision); beyond it they are
# computed again, tile by tile.
KEPT_WEIGHTS = 1 << 24


@dataclass(frozen=True)
class Layout:
    """Where documents lie: their `lengths`, end to end, and the `place` of each of their tokens in rows that are filled
    up, flattened (n,); None where the tokens are all there is."""

    lengths: tuple[int, ...]
    place: Tensor | None
    device: torch.device

    @classmethod
    def of_documents(cls, documents_bt: Tensor) -> Layout:
        """Of rows in which each position has its document's number, from 1 on; 0 is filled up. Numbers change where
        documents do. Raises ComponentError for what only says which positions are real: it would separate nothing."""
        if documents_bt.dtype not in (torch.int64, torch.int32):
            raise ComponentError(
                f"`documents` is {documents_bt.dtype}, and must number the document of each position",
                where="model decoder",
                remedy="Give int64 numbers from 1 on, 0 where a row is filled up; a mask of ones separates nothing.",
            )
        flat_n = documents_bt.flatten()
        real_n = flat_n > 0
        # A document begins where the number changes, and with each row.
        begins_bt = torch.ones_like(documents_bt, dtype=torch.bool)
        begins_bt[:, 1:] = documents_bt[:, 1:] != documents_bt[:, :-1]
        place_n = real_n.nonzero().squeeze(1)
        begins = begins_bt.flatten()[place_n].nonzero().squeeze(1).tolist()
        lengths = tuple(stop - start for start, stop in zip(begins, [*begins[1:], len(place_n)]))
        return cls(lengths, None if len(place_n) == len(flat_n) else place_n, documents_bt.device)

    @classmethod
    def of_rows(cls, rows: int, time: int, device: torch.device) -> Layout:
        """Of whole rows."""
        return cls((time,) * rows, None, device)

    @classmethod
    def of_ragged(cls, ragged: Ragged) -> Layout:
        """Of a Ragged's own values."""
        return cls(tuple(ragged.lengths.tolist()), None, ragged.values.device)

    @cached_property
    def tokens(self) -> int:
        """How many there are of all documents."""
        return sum(self.lengths)

    @cached_property
    def positions(self) -> Tensor:
        """(n,) int64: how many tokens of its document stand before each."""
        lengths = torch.tensor(self.lengths, dtype=torch.int64)
        before = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        return (torch.arange(self.tokens) - before).to(self.device)

    @cached_property
    def offsets(self) -> Tensor:
        """(documents + 1,) int32: where each begins, and the end."""
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32, device=self.device)

    @cached_property
    def groups(self) -> tuple[list[tuple[int, Tensor]], Tensor]:
        """Documents of one rounded length together: (length, (g, r) index of their tokens), and where each token is
        found in the groups' places end to end (n,). What fills a document up points to its first token."""
        by_length: dict[int, list[tuple[int, int]]] = {}
        start = 0
        for length in self.lengths:
            if length:
                by_length.setdefault(-(-length // ROUND) * ROUND, []).append((start, length))
            start += length
        found, back_n, end = [], torch.empty(self.tokens, dtype=torch.int64), 0
        for rounded, members in by_length.items():
            starts_g1, lengths_g1 = torch.tensor(members).t().unsqueeze(-1)
            within_r = torch.arange(rounded)
            real_gr = within_r < lengths_g1
            index_gr = torch.where(real_gr, starts_g1 + within_r, starts_g1)
            back_n[index_gr[real_gr]] = end + torch.arange(index_gr.numel()).view_as(index_gr)[real_gr]
            found.append((rounded, index_gr.to(self.device)))
            end += index_gr.numel()
        return found, back_n.to(self.device)

    @cached_property
    def even(self) -> bool:
        """Whether documents lie as their one group does: of one length, with nothing to fill up."""
        return len(set(self.lengths)) == 1 and self.lengths[0] % ROUND == 0

    def filled_up(self, spare: int, longest: int) -> Layout:
        """With so many tokens more at the end, in documents of their own, none longer than `longest`."""
        whole, rest = divmod(spare, longest)
        return Layout((*self.lengths, *(longest,) * whole, *(rest,) * (rest > 0)), None, self.device)

    def weights(self, heads: int) -> int:
        """How many attention weights all documents have, rounded up."""
        return heads * sum((-(-length // ROUND) * ROUND) ** 2 for length in self.lengths)


def attend(
    q_nhe: Tensor,
    k_nke: Tensor,
    v_nke: Tensor,
    layout: Layout,
    *,
    window: int | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    causal: bool = True,
) -> Tensor:
    """softmax(q k^T scale) v within each document, over the positions up to one's own, the last `window` of them where
    that is given, or over all where not `causal`: (n, h, e). `scale`: 1 / sqrt(e) where None.

    On a CPU, half precision takes matrix products of documents of about one length together, with closed-form
    gradients; fp32, long documents and dropout take torch's own attention, one document at a time. On a GPU, half
    precision takes the kernel for documents end to end.
    """
    factor = scale if scale is not None else q_nhe.shape[-1] ** -0.5
    if window is not None and window >= max(layout.lengths, default=0):
        window = None
    half = q_nhe.dtype in (torch.bfloat16, torch.float16)
    if half and dropout == 0.0 and q_nhe.device.type == "cuda":
        return _by_kernel(q_nhe, k_nke, v_nke, layout, window, factor, causal)
    # Without gradients torch's own is as fast.
    if (
        causal
        and half
        and dropout == 0.0
        and torch.is_grad_enabled()
        and layout.weights(q_nhe.shape[1]) <= KEPT_WEIGHTS
    ):
        return cast(Tensor, GroupedAttention.apply(q_nhe, k_nke, v_nke, layout, window, factor))  # type: ignore[no-untyped-call]
    return _one_by_one(q_nhe, k_nke, v_nke, layout, window, factor, dropout, causal)


class GroupedAttention(torch.autograd.Function):
    """Attention by plain matrix products over documents of one rounded length, whose weights are kept: what fills a
    document up stands behind its last token, where no causal query sees it."""

    @staticmethod
    def forward(
        ctx: Any, q_nhe: Tensor, k_nke: Tensor, v_nke: Tensor, layout: Layout, window: int | None, scale: float
    ) -> Tensor:
        groups, back_n = layout.groups
        outputs, kept = [], []
        for rounded, index_gr in groups:
            q, k, v = (_grouped(x, index_gr, k_nke.shape[1], layout.even) for x in (q_nhe * scale, k_nke, v_nke))
            scores = torch.bmm(q, k.transpose(1, 2))
            scores.view(len(q), -1, rounded, rounded).add_(_bias(rounded, window, q))
            weights = scores.softmax(-1)
            outputs.append(_ungrouped(torch.bmm(weights, v), index_gr, q_nhe.shape[1]))
            kept += [q, k, v, weights]
        ctx.save_for_backward(*kept)
        ctx.layout, ctx.scale, ctx.shapes = layout, scale, (q_nhe.shape[1], k_nke.shape[1])
        return _back(outputs, back_n, layout.even) if outputs else torch.empty_like(q_nhe)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_nhe: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        (groups, back_n), (heads, kv_heads) = ctx.layout.groups, ctx.shapes
        found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        padded = grad_nhe.contiguous()
        if not ctx.layout.even:
            # Filled-up places point to real tokens, whose gradients must not come in twice.
            padded = grad_nhe.new_zeros(sum(index_gr.numel() for _r, index_gr in groups), *grad_nhe.shape[1:])
            padded[back_n] = grad_nhe
        place = 0
        for (_rounded, index_gr), q, k, v, weights in zip(groups, *(ctx.saved_tensors[i::4] for i in range(4))):
            grad = padded[place : place + index_gr.numel()].view(*index_gr.shape, heads, -1)
            grad = _by_kv_head(grad, kv_heads)
            grad_weights = torch.bmm(grad, v.transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            found[0].append(_ungrouped(torch.bmm(grad_scores, k), index_gr, heads))
            found[1].append(_ungrouped(torch.bmm(grad_scores.transpose(1, 2), q), index_gr, kv_heads))
            found[2].append(_ungrouped(torch.bmm(weights.transpose(1, 2), grad), index_gr, kv_heads))
            place += index_gr.numel()
        grad_q, grad_k, grad_v = (_back(x, back_n, ctx.layout.even) if x else torch.zeros_like(grad_nhe) for x in found)
        return grad_q.mul_(ctx.scale), grad_k, grad_v, None, None, None


def _grouped(x_nhe: Tensor, index_gr: Tensor, kv_heads: int, even: bool) -> Tensor:
    """(g k, q r, e): the group's documents, query heads of one key-value head under each other."""
    return _by_kv_head(x_nhe.view(*index_gr.shape, *x_nhe.shape[1:]) if even else x_nhe[index_gr], kv_heads)


def _back(groups: list[Tensor], back_n: Tensor, even: bool) -> Tensor:
    """(n, h, e) from the groups' places."""
    if even:
        return groups[0]
    return (groups[0] if len(groups) == 1 else torch.cat(groups))[back_n]


def _by_kv_head(x_grhe: Tensor, kv_heads: int) -> Tensor:
    members, rounded, heads, width = x_grhe.shape
    split = x_grhe.view(members, rounded, kv_heads, heads // kv_heads, width).permute(0, 2, 3, 1, 4)
    return split.reshape(members * kv_heads, heads // kv_heads * rounded, width)


def _ungrouped(x: Tensor, index_gr: Tensor, heads: int) -> Tensor:
    """(g r, h, e) from (g k, q r, e)."""
    members, rounded = index_gr.shape
    return x.view(members, heads, rounded, -1).transpose(1, 2).reshape(members * rounded, heads, -1)


def _bias(length: int, window: int | None, like: Tensor) -> Tensor:
    """(r, r): 0 where a query sees a key, -inf elsewhere."""
    bias_rr = torch.full((length, length), -math.inf, dtype=like.dtype, device=like.device).triu_(1)
    if window is not None:
        bias_rr += torch.full_like(bias_rr, -math.inf).tril_(-window)
    return bias_rr


def _one_by_one(
    q_nhe: Tensor, k_nke: Tensor, v_nke: Tensor, layout: Layout, window: int | None, scale: float, dropout: float,
    causal: bool,
) -> Tensor:  # fmt: skip
    """Neighbours of one length in one call of torch's attention."""
    runs: list[tuple[int, int]] = []
    for length in layout.lengths:
        if runs and runs[-1][1] == length:
            runs[-1] = runs[-1][0] + 1, length
        elif length:
            runs.append((1, length))
    sizes = [count * length for count, length in runs]
    mixed = []
    # Split, not sliced: a slice's gradient is a whole tensor of zeros.
    for (count, length), *parts in zip(runs, *(torch.split(x, sizes) for x in (q_nhe, k_nke, v_nke))):
        q, k, v = (part.unflatten(0, (count, length)).transpose(1, 2) for part in parts)
        mask = None if window is None or window >= length else seen_tt(length, window, q.device)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and mask is None, dropout_p=dropout, scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip
        mixed.append(out.transpose(1, 2).flatten(0, 1))
    if not mixed:
        return q_nhe
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed)


def seen_tt(time: int, window: int | None, device: torch.device) -> Tensor:
    """(time, time) bool: what each position sees, itself and before it, the last `window` where that is given."""
    near_tt = torch.ones(time, time, dtype=torch.bool, device=device).tril_()
    return near_tt if window is None else near_tt.triu_(1 - window)


def _by_kernel(
    q_nhe: Tensor, k_nke: Tensor, v_nke: Tensor, layout: Layout, window: int | None, scale: float, causal: bool
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    longest = max(layout.lengths, default=0)
    found: Any = varlen_attn(
        q_nhe, k_nke, v_nke, layout.offsets, layout.offsets, longest, longest, scale=scale,
        window_size=(-1 if window is None else window - 1, 0 if causal else -1),
        enable_gqa=q_nhe.shape[1] != k_nke.shape[1],
    )  # fmt: skip
    return cast(Tensor, found)
