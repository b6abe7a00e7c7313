"""Fusion: the features of several inputs to one row of features.

Each is built from its options and the parts, and called with the parts' features and masks. A mask (rows,) bool says
in which rows a part is there at all; None: in all. Where `masks` holds, what is not there has no part in the result.
A fusion that takes `sequences` gets (rows, time, token features) with a mask (rows, time) from encoders that have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.models.options import AttentionOptions, ConcatOptions, GateOptions, WeightedSumOptions

Masks = Sequence[Tensor | None]


@dataclass(frozen=True)
class Part:
    """What one encoder gives: `features` a row, and `token_features` a place where it has a sequence."""

    features: int
    token_features: int | None = None


class Concat(nn.Module):
    """Features end to end: (rows, sum of features)."""

    sequences: ClassVar[bool] = False
    masks: ClassVar[bool] = False

    def __init__(self, options: ConcatOptions, parts: Sequence[Part]) -> None:
        super().__init__()
        self.features = sum(part.features for part in parts)

    def forward(self, parts: Sequence[Tensor], masks: Masks) -> Tensor:
        return parts[0] if len(parts) == 1 else torch.cat(list(parts), -1)


class WeightedSum(nn.Module):
    """The parts' linear images, added up with softmax weights over the parts that are there: (rows, size)."""

    sequences: ClassVar[bool] = False
    masks: ClassVar[bool] = True

    def __init__(self, options: WeightedSumOptions, parts: Sequence[Part]) -> None:
        super().__init__()
        self.projections = _projections([part.features for part in parts], options.size)
        self.scores = nn.Parameter(torch.zeros(len(parts)))
        self.features = options.size

    def forward(self, parts: Sequence[Tensor], masks: Masks) -> Tensor:
        images = torch.stack(_project(self.projections, parts), 1)
        there = _there(parts, masks)
        scores = self.scores if there is None else self.scores.masked_fill(~there, -torch.inf)
        # Where nothing is there at all, the weights are 0.
        weights = scores.softmax(-1).nan_to_num(0.0)
        mixed: Tensor = (images * weights.unsqueeze(-1)).sum(1)
        return mixed


class Gate(nn.Module):
    """The sum of tanh(W_i x_i) * sigmoid(V_i x) with x all parts end to end, 0 where one isn't there: (rows, size).

    Arevalo et al., "Gated Multimodal Units for Information Fusion" (arXiv:1702.01992), section 3.1.
    """

    sequences: ClassVar[bool] = False
    masks: ClassVar[bool] = True

    def __init__(self, options: GateOptions, parts: Sequence[Part]) -> None:
        super().__init__()
        self.projections = _projections([part.features for part in parts], options.size)
        self.gates = nn.Linear(sum(part.features for part in parts), len(parts) * options.size)
        self.features = options.size

    def forward(self, parts: Sequence[Tensor], masks: Masks) -> Tensor:
        here = [part if mask is None else part.masked_fill(~mask.unsqueeze(-1), 0) for part, mask in zip(parts, masks)]
        images = torch.stack(_project(self.projections, here), 1).tanh()
        gates: Tensor = self.gates(torch.cat(here, -1).to(self.gates.weight.dtype)).sigmoid().view_as(images)
        gated = images * gates
        there = _there(parts, masks)
        return gated.sum(1) if there is None else gated.masked_fill(~there.unsqueeze(-1), 0).sum(1)


class Attention(nn.Module):
    """A learned question to every part, and to every place of those that have a sequence: (rows, size).

    Multi-head attention with one query (Lee et al., "Set Transformer", arXiv:1810.00825, section 3.2); a vector of its
    own tells each part from the others.
    """

    sequences: ClassVar[bool] = True
    masks: ClassVar[bool] = True

    def __init__(self, options: AttentionOptions, parts: Sequence[Part]) -> None:
        super().__init__()
        self.projections = _projections([part.token_features or part.features for part in parts], options.size)
        self.kinds = nn.Parameter(torch.randn(len(parts), options.size) * 0.02)
        self.query = nn.Parameter(torch.randn(options.heads, options.size // options.heads))
        # Without biases: a key's would shift all scores alike, and so do nothing.
        self.keys, self.values = (nn.Linear(options.size, options.size, bias=False) for _ in range(2))
        self.out = nn.Linear(options.size, options.size)
        self.heads, self.features = options.heads, options.size

    def forward(self, parts: Sequence[Tensor], masks: Masks) -> Tensor:
        images = _project(self.projections, parts)
        placed = [
            (image if image.ndim == 3 else image.unsqueeze(1)) + kind
            for image, kind in zip(images, self.kinds.unbind())
        ]
        tokens = torch.cat(placed, 1)
        rows, time, size = tokens.shape
        keys, values = (
            layer(tokens).view(rows, time, self.heads, size // self.heads).transpose(1, 2)
            for layer in (self.keys, self.values)
        )
        mask = self._mask(placed, masks)
        query = self.query.unsqueeze(1).expand(rows, -1, -1, -1)
        mixed = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        if mask is not None:
            # Where nothing is there at all, nothing is said.
            mixed = mixed.masked_fill(~mask.any(-1, keepdim=True), 0)
        features: Tensor = self.out(mixed.flatten(1))
        return features

    def _mask(self, placed: Sequence[Tensor], masks: Masks) -> Tensor | None:
        """(rows, 1, 1, time) bool, or None where everything is there."""
        if all(mask is None for mask in masks):
            return None
        known = [
            part.new_ones(part.shape[:2], dtype=torch.bool) if mask is None else mask.view(part.shape[:2])
            for part, mask in zip(placed, masks)
        ]
        return torch.cat(known, 1)[:, None, None]


def _projections(sizes: Sequence[int], size: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(features, size) for features in sizes)


def _project(projections: nn.ModuleList, parts: Sequence[Tensor]) -> list[Tensor]:
    return [layer(part.to(layer.weight.dtype)) for layer, part in zip(projections, parts)]  # type: ignore[arg-type]


def _there(parts: Sequence[Tensor], masks: Masks) -> Tensor | None:
    """(rows, parts) bool: which parts are there; None where all are."""
    if all(mask is None for mask in masks):
        return None
    rows, device = parts[0].shape[0], parts[0].device
    everywhere = torch.ones(rows, dtype=torch.bool, device=device)
    return torch.stack([everywhere if mask is None else mask for mask in masks], 1)
