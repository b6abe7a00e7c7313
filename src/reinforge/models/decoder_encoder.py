"""A decoder language model as an encoder of texts: what it knows of language, below a head for labels or numbers.

Shape suffixes: b rows, t time, n tokens of all rows, d width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from reinforge.core.batch import Leaf
from reinforge.errors import ComponentError
from reinforge.models.attention import Layout
from reinforge.models.decoder import Decoder
from reinforge.models.scorer_options import DecoderEncoderOptions
from reinforge.models.tokens import Padded, TokenEncoder, padded, pooled
from reinforge.schema.signature import Input


class DecoderEncoder(TokenEncoder):
    """The decoder's stream: of the last token, which has seen all of its row, or the mean over tokens.

    It keeps, as `described`, options that build it without the bundle. Raises ComponentError where the texts' tokens
    are not the decoder's own, or more than its context.
    """

    def __init__(self, options: DecoderEncoderOptions, block: Input, decoder: Decoder) -> None:
        super().__init__("decoder", block)
        own, context = decoder.embedding.num_embeddings, decoder.options.context
        if self.vocabulary != own:
            raise ComponentError(
                f"it knows {own:,} tokens of its own, and the text is made of {self.vocabulary:,} others",
                where="encoder 'decoder'",
                remedy="Give the field its tokenizer: tokenizer: {kind: bundle, source: BUNDLE}",
            )
        if block.shape and block.shape[0] > context:
            raise ComponentError(
                f"it reads {context} tokens, and the texts have up to {block.shape[0]}", where="encoder 'decoder'",
                remedy=f"Set the field's length to {context} or fewer.",
            )  # fmt: skip
        self.decoder, self.how, self.dropout = decoder, options.pool, options.dropout
        self.described = options.model_copy(update={"source": "", "config": decoder.options})
        self.features = self.token_features = decoder.options.width

    def sequence(self, block: Leaf | Padded) -> tuple[Tensor, Tensor]:
        """(rows, time, width): the normalised stream."""
        tokens = padded(block)
        filled = tokens.lengths[tokens.lengths > 0]
        hidden_btd = self.decoder.embedding.weight.new_zeros(*tokens.ids.shape, self.features)
        if not len(filled):
            return hidden_btd, tokens.mask
        layout = Layout(tuple(filled.tolist()), None, tokens.ids.device)
        hidden_nd = self.decoder.hidden_of(tokens.ids[tokens.mask].long(), layout)
        return hidden_btd.to(hidden_nd.dtype).masked_scatter(tokens.mask.unsqueeze(-1), hidden_nd), tokens.mask

    def pool(self, sequence: Tensor, mask: Tensor) -> Tensor:
        """(rows, width)."""
        if self.how == "mean":
            features = pooled(sequence, mask, "mean")
        else:
            last_b = (mask.sum(1) - 1).clamp(min=0)
            features = sequence[torch.arange(len(sequence), device=sequence.device), last_b]
        return functional.dropout(features, self.dropout, self.training) if self.dropout else features
