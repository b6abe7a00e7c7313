"""The bidirectional Transformer encoder. Shape suffixes: b rows, t time, d width, h heads, e head width."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from reinforge.core.batch import Leaf
from reinforge.errors import ComponentError
from reinforge.models.decoder_options import RotaryOptions
from reinforge.models.options import TransformerOptions
from reinforge.models.rotary import rotary_tables, rotate
from reinforge.models.tokens import Padded, TokenEncoder, length_limit, padded, pooled
from reinforge.schema.signature import Input


class Transformer(TokenEncoder):
    """Layers of attention over all tokens of a row and of a feed-forward, each normalised before and added to the
    stream (Vaswani et al., arXiv:1706.03762; Xiong et al., arXiv:2002.04745; rotary positions: arXiv:2104.09864).

    Raises ComponentError for more tokens than `context`, or than the signature allows.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, options: TransformerOptions, block: Input) -> None:
        super().__init__("transformer", block)
        width, self.context = options.width, length_limit(block, options.context)
        self.embedding = nn.Parameter(torch.randn(self.vocabulary, width) * 0.02)
        self.add_ngrams(options.ngrams, options.buckets, width)
        self.rotary = options.positions == "rotary"
        self.positions = None if self.rotary else nn.Parameter(torch.randn(self.context, width) * 0.02)
        if self.rotary:
            cos_te, sin_te = rotary_tables(self.context, width // options.heads, RotaryOptions())
            self.register_buffer("cos", cos_te, persistent=False)
            self.register_buffer("sin", sin_te, persistent=False)
        self.layers = nn.ModuleList(Layer(options) for _ in range(options.layers))
        self.norm = nn.LayerNorm(width)
        self.how, self.dropout, self.checkpointing = options.pool, options.dropout, options.checkpointing
        self.features = self.token_features = width

    def sequence(self, block: Leaf | Padded) -> tuple[Tensor, Tensor]:
        """(rows, time, width)."""
        tokens = padded(block)
        time = tokens.ids.shape[1]
        if time > self.context:
            raise ComponentError(
                f"{time} tokens do not fit a context of {self.context}",
                where="encoder 'transformer'",
                remedy="Shorten the texts, or raise its `context`.",
            )
        x_btd = self.with_ngrams(functional.embedding(tokens.ids, self.embedding), tokens.ids)
        if self.positions is not None:
            x_btd = x_btd + self.positions[:time]
        if self.dropout:
            x_btd = functional.dropout(x_btd, self.dropout, self.training)
        mask = None
        if not tokens.full:
            # A row without a token looks at its first place, so that nothing is divided by 0; it is struck out after.
            mask = tokens.mask.clone()
            mask[:, 0] = True
            mask = mask[:, None, None]
        cos, sin = (self.cos[:time, None], self.sin[:time, None]) if self.rotary else (None, None)
        saving = self.checkpointing and self.training and torch.is_grad_enabled()
        for layer in cast("Iterable[Layer]", self.layers):
            if saving:
                x_btd = checkpoint(layer, x_btd, mask, cos, sin, use_reentrant=False)
            else:
                x_btd = layer(x_btd, mask, cos, sin)
        x_btd = self.norm(x_btd)
        return x_btd if tokens.full else x_btd.masked_fill(~tokens.mask.unsqueeze(-1), 0), tokens.mask

    def pool(self, sequence: Tensor, mask: Tensor) -> Tensor:
        """(rows, width)."""
        return pooled(sequence, mask, self.how)


class Layer(nn.Module):
    """Attention, then a feed-forward with GELU; each on the normalised stream and added to it."""

    def __init__(self, options: TransformerOptions) -> None:
        super().__init__()
        width, hidden = options.width, options.hidden or 4 * options.width
        self.heads, self.dropout = options.heads, options.dropout
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x_btd: Tensor, mask: Tensor | None, cos: Tensor | None, sin: Tensor | None) -> Tensor:
        x_btd = x_btd + self._drop(self._attend(self.attention_norm(x_btd), mask, cos, sin))
        hidden = self._drop(functional.gelu(self.up(self.feed_forward_norm(x_btd))))
        return x_btd + self._drop(self.down(hidden))

    def _attend(self, x_btd: Tensor, mask: Tensor | None, cos: Tensor | None, sin: Tensor | None) -> Tensor:
        rows, time, width = x_btd.shape
        qkv_bthe = self.qkv(x_btd).view(rows, time, 3 * self.heads, width // self.heads)
        if cos is not None and sin is not None:
            qk_bthe, v_bthe = qkv_bthe.split((2 * self.heads, self.heads), 2)
            q_bthe, k_bthe = rotate(qk_bthe, cos, sin).chunk(2, 2)
        else:
            q_bthe, k_bthe, v_bthe = qkv_bthe.chunk(3, 2)
        mixed_bhte = functional.scaled_dot_product_attention(
            q_bthe.transpose(1, 2), k_bthe.transpose(1, 2), v_bthe.transpose(1, 2), attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
        )  # fmt: skip
        return cast(Tensor, self.out(mixed_bhte.transpose(1, 2).flatten(2)))

    def _drop(self, x_btd: Tensor) -> Tensor:
        return functional.dropout(x_btd, self.dropout, self.training) if self.dropout else x_btd
