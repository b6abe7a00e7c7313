"""Keys and values of what was read and written, by slot: one tensor per layer, grown as it fills.

Shape suffixes: n rows of a step, s slots, k key-value heads, g query heads of each, h query heads (k g), c positions,
e head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from reinforge.inference.native import LANES, WIDEST, native
from reinforge.models.attention import Layout, attend
from reinforge.models.decoder import Decoder, Mix

# Attention reads so many positions at a time: odd numbers of them are slow, and masks grow stale less often.
ROUND = 32


class KeyValueCache:
    """`slots` sequences of at most the model's context. Slots that are in use are the first ones, always: what is read
    is then one view, and nothing is gathered."""

    def __init__(self, model: Decoder, slots: int) -> None:
        self.model, self.slots = model, slots
        options = model.options
        self.heads, self.kv_heads = options.heads, options.kv_heads or options.heads
        self.width, self.context, self.window = options.each_head, options.context, options.window
        self.scale = options.attention_scale if options.attention_scale is not None else self.width**-0.5
        like = model.embedding.weight
        self.dtype, self.device = like.dtype, like.device
        whole = self.width % (2 * LANES) == 0 and self.width <= WIDEST
        self.native = native(like) if whole else None
        # Rounded as in training.
        self.tables = {
            kind: (cos_ce.to(like.dtype).float(), sin_ce.to(like.dtype).float())
            for kind, (cos_ce, sin_ce) in model.angles(slice(None), 0).items()
        }
        self.capacity = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def reserve(self, positions: int) -> None:
        """Room for so many positions in each slot; what is there stays."""
        if positions <= self.capacity:
            return
        # Doubling, so that growing costs no more than writing did.
        capacity = min(max(-(-positions // ROUND) * ROUND, 2 * self.capacity), -(-self.context // ROUND) * ROUND)
        shape = (self.slots, self.kv_heads, capacity, self.width)
        for kept in (self.keys, self.values):
            for layer in range(self.model.options.layers):
                fresh = torch.empty(shape, dtype=self.dtype, device=self.device)
                if kept[layer:]:
                    fresh[:, :, : self.capacity] = kept[layer]
                # What was never written is masked, and must be finite all the same.
                fresh[:, :, self.capacity :] = 0
                kept[layer : layer + 1] = [fresh]
        self.capacity = capacity

    def copy(self, source: int, targets: Sequence[int], positions: int) -> None:
        """The first positions of a slot to others."""
        for target in targets:
            if target != source:
                for kept in (*self.keys, *self.values):
                    kept[target, :, :positions] = kept[source, :, :positions]

    def prefill(self, rows: Sequence[Tensor], slots: Sequence[int]) -> None:
        """Read rows of tokens, which begin at the first position, into these slots."""
        layout = Layout(tuple(len(row) for row in rows), None, rows[0].device)
        slot_n = torch.repeat_interleave(torch.tensor(slots), torch.tensor(layout.lengths)).to(rows[0].device)
        place_nk = self._places(slot_n, layout.positions)

        def mix(layer: int, kind: str) -> Mix:
            window = self.window if kind == "local" else None

            def written(q_nhe: Tensor, k_nke: Tensor, v_nke: Tensor) -> Tensor:
                self._write(layer, place_nk, k_nke, v_nke)
                return attend(q_nhe, k_nke, v_nke, layout, window=window, scale=self.scale)

            return written

        self.model.run(torch.cat(list(rows)), layout.positions, self._mixes(mix))

    def step(self, token_n: Tensor, position_n: Tensor, longest: int) -> Tensor:
        """One more token in each of the first n slots, at these positions: the stream after the last norm (n, width).

        `longest`: the largest position, which attention need not look beyond.
        """
        if self.native is not None:
            return self.model.run(token_n, None, self._mixes(partial(self._native_mix, position_n=position_n)))
        rows = len(token_n)
        read = min(-(-(longest + 1) // ROUND) * ROUND, self.capacity)
        place_nk = self._places(torch.arange(rows, device=token_n.device), position_n)
        biases = self._biases(position_n, read)

        def mix(layer: int, kind: str) -> Mix:
            # A local layer's mask is another.
            bias = biases[kind]
            keys, values = self.keys[layer][:rows, :, :read], self.values[layer][:rows, :, :read]

            def cached(q_nhe: Tensor, k_nke: Tensor, v_nke: Tensor) -> Tensor:
                self._write(layer, place_nk, k_nke, v_nke)
                # The query heads of one key-value head stand under each other: its cache is read once for all.
                q_nkge = q_nhe.reshape(rows, self.kv_heads, -1, self.width)
                mixed = F.scaled_dot_product_attention(q_nkge, keys, values, attn_mask=bias, scale=self.scale)
                return mixed.reshape(rows, self.heads, self.width)

            return cached

        return self.model.run(token_n, position_n, self._mixes(mix))

    def steps(self, token_nt: Tensor, position_nt: Tensor, longest: int) -> Tensor:
        """The same for several tokens in each slot, which see those before them: (n, time, width). A position that
        stands twice must have the same token both times."""
        rows, time = token_nt.shape
        read = min(-(-(longest + 1) // ROUND) * ROUND, self.capacity)
        position_n = position_nt.flatten()
        place_nk = self._places(torch.arange(rows, device=token_nt.device).repeat_interleave(time), position_n)
        groups = self.heads // self.kv_heads
        biases = {
            kind: bias.view(rows, 1, time, 1, read).expand(-1, -1, -1, groups, -1).reshape(rows, 1, time * groups, read)
            for kind, bias in self._biases(position_n, read).items()
        }

        def mix(layer: int, kind: str) -> Mix:
            keys, values = self.keys[layer][:rows, :, :read], self.values[layer][:rows, :, :read]

            def cached(q_nhe: Tensor, k_nke: Tensor, v_nke: Tensor) -> Tensor:
                self._write(layer, place_nk, k_nke, v_nke)
                # Queries of one key-value head stand under each other, those of one time together.
                q_ntkge = q_nhe.reshape(rows, time, self.kv_heads, groups, self.width)
                q = q_ntkge.transpose(1, 2).reshape(rows, self.kv_heads, time * groups, self.width)
                mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=biases[kind], scale=self.scale)
                mixed_nktge = mixed.view(rows, self.kv_heads, time, groups, self.width)
                return mixed_nktge.transpose(1, 2).reshape(rows * time, self.heads, self.width)

            return cached

        return self.model.run(token_nt.flatten(), position_n, self._mixes(mix)).view(rows, time, -1)

    def _native_mix(self, layer: int, kind: str, position_n: Tensor) -> Mix:
        functions, tables, window = self.native, self.tables.get(kind), self.window if kind == "local" else None
        assert functions is not None

        def turned(q_nhe: Tensor, k_nke: Tensor, v_nke: Tensor) -> Tensor:
            q, k, v = (each.to(self.dtype) for each in (q_nhe, k_nke, v_nke))
            return functions.attend(
                q, k, v, tables, position_n, self.keys[layer], self.values[layer], window=window, scale=self.scale
            ).to(q_nhe.dtype)

        return turned

    def _mixes(self, mix: Callable[[int, str], Mix]) -> list[Mix]:
        return [mix(layer, kind) for layer, kind in enumerate(self.model.kinds)]

    def _places(self, slot_n: Tensor, position_n: Tensor) -> Tensor:
        """(n k,): where a token's keys go in a layer seen as rows of one head's width."""
        head_k = torch.arange(self.kv_heads, device=slot_n.device)
        return ((slot_n[:, None] * self.kv_heads + head_k) * self.capacity + position_n[:, None]).flatten()

    def _write(self, layer: int, place_nk: Tensor, k_nke: Tensor, v_nke: Tensor) -> None:
        for kept, new in ((self.keys, k_nke), (self.values, v_nke)):
            kept[layer].view(-1, self.width).index_copy_(0, place_nk, new.to(self.dtype).reshape(-1, self.width))

    def _biases(self, position_n: Tensor, read: int) -> dict[str, Tensor]:
        """By kind of layer, 0 where a cached position is seen and -inf elsewhere: (n, 1, 1, c)."""
        cached_c = torch.arange(read, device=position_n.device)
        seen_nc = cached_c <= position_n[:, None]
        found = dict.fromkeys(("global", "unrotated", "local"), seen_nc)
        if self.window is not None and self.window < read:
            found["local"] = seen_nc & (cached_c > position_n[:, None] - self.window)
        made: dict[int, Tensor] = {}
        for seen in found.values():
            if id(seen) not in made:
                bias_nc = torch.zeros(seen.shape, dtype=self.dtype, device=self.device).masked_fill_(~seen, -torch.inf)
                made[id(seen)] = bias_nc[:, None, None]
        return {kind: made[id(seen)] for kind, seen in found.items()}
